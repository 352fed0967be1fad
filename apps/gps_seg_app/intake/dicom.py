"""DICOM objects as pictures. Of all tags only those that describe pixels are ever read.

The others (names, dates, identifiers, free text) are skipped while parsing, so no later line of this program can show, log or
export them. Every failure is one fixed sentence: pydicom's own texts quote values. Writing burnt into the pixels is another
matter; ``quality.burnt_in_text`` warns of it.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import SILENCE
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.limits import AppError, Limits

WANTED = "Expected a DICOM object with a picture"
PIXEL_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)
DEFLATED = "1.2.840.10008.1.2.1.99"
VIDEO = "1.2.840.10008.1.2.4.10"  # the beginning of MPEG-2, H.264 and H.265; 1.2.840.10008.1.2.4.100 to .108
READABLE = (  # transfer syntaxes that pydicom decodes with numpy and Pillow alone
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
)
ADVICE = "export it uncompressed, or as JPEG, JPEG 2000 or RLE"


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes (132 are enough) is a DICOM file."""
    return head[128:132] == b"DICM"


def read_dicom(data: bytes, limits: Limits = Limits()) -> list[Picture]:  # noqa: B008  (frozen)
    """Every frame of a DICOM file as a picture, in order; all bear the sha256 of the file's bytes.

    Raises:
        AppError: as :func:`dicom_frames`, or more frames than fit into memory.
    """
    count, (height, width) = _open(data, limits)[1:]
    if count * height * width * 3 > limits.unpacked_bytes:
        raise AppError(f"{WANTED} of at most {limits.unpacked_bytes / 1e6:.0f} MB once unpacked; this one has {count} frames of "
                       f"{width} x {height} pixels: use the Batch tab, or export fewer frames.")
    return list(dicom_frames(data, limits))


def dicom_frames(data: bytes, limits: Limits = Limits()) -> Iterator[Picture]:  # noqa: B008
    """The frames one by one, so that memory holds a single one. All checks but the decoding itself come at once.

    Raises:
        AppError: not DICOM, no picture in it, an unknown compression, damaged, or over the limits.
    """
    dataset, count, _ = _open(data, limits)
    return _frames(dataset, count, hashlib.sha256(data).hexdigest())


def count_frames(data: bytes, limits: Limits = Limits()) -> int:  # noqa: B008
    """How many frames a DICOM file says it has. Raises AppError as :func:`dicom_frames`."""
    return _open(data, limits)[1]


def _open(data: bytes, limits: Limits) -> tuple[Any, int, tuple[int, int]]:
    """Data set of pixel tags, number of frames, (height, width)."""
    if not data or not is_dicom(data[:132]):
        raise AppError(f"{WANTED}; this file is {'not DICOM' if data else 'empty'}: upload another.")
    if len(data) > limits.upload_bytes:
        raise AppError(f"{WANTED} of at most {limits.upload_bytes / 1e6:.0f} MB; this one has {len(data) / 1e6:.1f} MB: "
                       "export fewer frames.")
    if DEFLATED.encode() in data[:4096]:  # inflating has no limit in pydicom: 25 MB may become 25 GB
        raise AppError(f"{WANTED}; this one is deflated as a whole: {ADVICE}.")
    dataset, syntax, (count, height, width) = _parse(data)
    _check_syntax(syntax)
    if "PixelData" not in dataset or min(height, width, count) < 1:
        raise AppError(f"{WANTED}; this object holds none (a report or another kind of document): upload another.")
    if count > limits.dicom_frames:
        raise AppError(f"{WANTED} of at most {limits.dicom_frames:,} frames; this one has {count:,}: export fewer.")
    if height * width > limits.pixels:
        raise AppError(f"{WANTED} of at most {limits.pixels / 1e6:.0f} megapixels; this one has {width} x {height}: "
                       "export it smaller.")
    return dataset, count, (height, width)


def _parse(data: bytes) -> tuple[Any, str, tuple[int, int, int]]:
    """Data set, transfer syntax, (frames, height, width). Values are converted on access, so that too happens in silence."""
    from pydicom import dcmread

    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its messages quote values; its other loggers inherit this
    try:
        with SILENCE:
            dataset = dcmread(io.BytesIO(data), specific_tags=list(PIXEL_TAGS))
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
            size = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
            return dataset, syntax, size
    except Exception:  # damaged bytes make pydicom raise almost any kind, some with the value in the text
        raise AppError("This DICOM object is cut short or damaged: export it again.") from None


def _check_syntax(syntax: str) -> None:
    if syntax in READABLE:
        return
    if syntax.startswith(VIDEO):
        raise AppError(f"{WANTED}; this one holds a film: export it as mp4 and use the Video tab.")
    raise AppError(f"{WANTED}; this one's kind of compression is unknown: {ADVICE}.")


def _frames(dataset: Any, count: int, digest: str) -> Iterator[Picture]:
    from pydicom.pixels import iter_pixels

    frames = None
    for number in range(1, count + 1):
        try:
            with SILENCE:
                frames = iter_pixels(dataset) if frames is None else frames
                pixels = _as_rgb(next(frames), dataset)
        except Exception:  # see _parse; StopIteration is here too: fewer frames than announced
            raise AppError("The pixels of this DICOM object are cut short, damaged or of an unusual kind: "
                           f"{ADVICE}.") from None
        yield Picture(pixels, digest, number if count > 1 else 0, count)


def _as_rgb(frame: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """One decoded frame, (H, W) or (H, W, 3) of any depth, as uint8 RGB (H, W, 3)."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        colored = apply_color_lut(frame, dataset)
        return _eight_bit(colored, 8 * colored.dtype.itemsize)
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        grey = _windowed(frame, dataset)
        return np.repeat((255 - grey if kind == "MONOCHROME1" else grey)[..., None], 3, axis=2)
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(kind)
    return _eight_bit(frame, int(dataset.BitsStored))


def _eight_bit(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values if bits <= 8 else values >> (bits - 8)).astype(np.uint8)


def _windowed(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """Grey values through the window that the object gives, else over the whole range of its stored bits; never stretched.

    Source: DICOM PS3.3, C.11.2.1.2.1 (the linear function).
    """
    scaled = values * float(dataset.get("RescaleSlope") or 1) + float(dataset.get("RescaleIntercept") or 0)
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width < 1:
        bits = int(dataset.BitsStored)
        low = -(2.0 ** (bits - 1)) if int(dataset.PixelRepresentation) else 0.0
        center, width, scaled = low + 2.0 ** (bits - 1), 2.0**bits, values.astype(np.float64)
    shown = ((scaled - (center - 0.5)) / max(width - 1, 1e-6) + 0.5) * 255
    return np.clip(np.round(shown), 0, 255).astype(np.uint8)


def _first(value: Any) -> float | None:
    """Of a number or a list of numbers."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float)) else value[0] if hasattr(value, "__len__") else value)
