"""From the bytes of an upload to pixels. The content decides what a file is, never its name; no metadata survives."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gps_seg.data.images import EXIF_ORIENTATION, SILENCE, UPRIGHT, to_eight_bit
from gps_seg.data.tiff import as_rgb
from gps_seg_app.limits import AppError, Limits

PICTURES = {"JPEG": "JPEG", "PNG": "PNG", "TIFF": "TIFF", "BMP": "BMP", "WebP": "WEBP"}
GONE = "The uploaded file cannot be read any more: upload it again."  # without the system's own words, which name the file
WANTED = "Expected a JPEG, PNG, TIFF, BMP or WebP picture"
# (what it is, first bytes, at which offset); the first that fits counts
SIGNATURES: tuple[tuple[str, bytes, int], ...] = (
    ("JPEG", b"\xff\xd8\xff", 0), ("PNG", b"\x89PNG\r\n\x1a\n", 0), ("TIFF", b"II*\0", 0), ("TIFF", b"MM\0*", 0),
    ("BigTIFF", b"II+\0", 0), ("BigTIFF", b"MM\0+", 0), ("WebP", b"WEBP", 8), ("DICOM", b"DICM", 128), ("BMP", b"BM", 0),
    ("ZIP archive", b"PK\x03\x04", 0), ("ZIP archive", b"PK\x05\x06", 0), ("PDF", b"%PDF", 0), ("GIF", b"GIF8", 0),
    ("HEIC picture", b"ftypheic", 4), ("HEIC picture", b"ftypheix", 4), ("HEIC picture", b"ftypmif1", 4),
    ("AVIF picture", b"ftypavif", 4), ("video", b"ftyp", 4), ("video", b"AVI ", 8), ("video", b"\x1a\x45\xdf\xa3", 0),
    ("JPEG 2000 picture", b"\0\0\0\x0cjP  ", 0), ("program", b"MZ", 0), ("program", b"\x7fELF", 0), ("script", b"#!", 0),
    ("7z archive", b"7z\xbc\xaf\x27\x1c", 0), ("RAR archive", b"Rar!", 0), ("gzip archive", b"\x1f\x8b", 0),
)
ADVICE = {
    "ZIP archive": "use the Batch tab for archives", "video": "use the Video tab for clips", "DICOM": "open it as a DICOM object",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes:
        pixels: uint8 RGB (H, W, 3), upright.
        sha256: of the bytes as uploaded, in hexadecimal.
        frame: its number in a file of several, from 1; 0 for the only one.
        frames: how many the file has.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    frame: int = 0
    frames: int = 1

    @property
    def key(self) -> str:
        """Tells it from every other picture, frames of one file included."""
        return f"{self.sha256[:32]}.{self.frame}"


def shrunk(values: NDArray[Any], side: int) -> NDArray[Any]:
    """A picture or map (H, W, ...) with at most ``side`` pixels on the longer side, by area average."""
    height, width = values.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return values
    return cv2.resize(values, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)


def file_kind(head: bytes) -> str:
    """What the first bytes of a file (512 are enough) say it is: "JPEG", "ZIP archive", "text", ... or "unknown"."""
    for kind, start, offset in SIGNATURES:
        if head[offset : offset + len(start)] == start:
            return kind
    text = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG drawing" if b"<svg" in text else "XML file"
    if text.startswith((b"<!doctype html", b"<html", b"<script")):
        return "web page"
    return "text" if text and all(byte >= 32 or byte in b"\t\r\n" for byte in text) else "unknown"


def read_upload(source: bytes | Path, limits: Limits = Limits()) -> Picture:  # noqa: B008  (frozen)
    """Decode one uploaded picture: grey, palette, alpha, CMYK, 16 bit and EXIF orientation end as uint8 RGB, upright.

    Transparent parts become black, as a viewer shows them. Of an animation or a multi-page TIFF the first picture counts.

    Raises:
        AppError: empty, too large, not one of the five formats, damaged, or with too many pixels.
    """
    data = source if isinstance(source, bytes) else _read(source, limits)
    _check_size(len(data), limits)
    kind = file_kind(data[:512])
    if kind not in PICTURES:
        raise AppError(f"{WANTED}; {_what(kind)}: {ADVICE.get(kind, 'save it as PNG or JPEG first')}.")
    return Picture(_decode(data, kind, limits), hashlib.sha256(data).hexdigest())


def _read(path: Path, limits: Limits) -> bytes:
    try:
        _check_size(path.stat().st_size, limits)
        return path.read_bytes()
    except OSError:
        raise AppError(GONE) from None


def _check_size(size: int, limits: Limits) -> None:
    if size == 0:
        raise AppError(f"{WANTED}; this file is empty: upload another.")
    if size > limits.upload_bytes:
        raise AppError(f"{WANTED} of at most {limits.upload_bytes / 1e6:.0f} MB; this one has {size / 1e6:.1f} MB: "
                       "save it smaller.")


def _what(kind: str) -> str:
    return "this file's content is of an unknown kind" if kind == "unknown" else f"this file's content is {_article(kind)}{kind}"


def _article(kind: str) -> str:
    if kind in ("text", "DICOM"):
        return ""
    return "an " if kind.startswith(("AVIF", "RAR", "SVG", "XML")) else "a "


def _decode(data: bytes, kind: str, limits: Limits) -> NDArray[np.uint8]:
    """Every kind of failure inside the decoders ends in one sentence."""
    try:
        with SILENCE, _open(data, PICTURES[kind]) as opened:
            _check_pixels(opened.size, limits)
            opened.load()
            return _upright_rgb(opened)
    except AppError:
        raise
    except Image.DecompressionBombError:
        raise AppError(f"{WANTED} of at most {limits.pixels / 1e6:.0f} megapixels; this one has far more: shrink it.") from None
    except MemoryError:
        raise AppError("This picture needs more memory than there is: shrink it.") from None
    except Exception:  # damaged bytes make Pillow raise almost any kind, from struct.error to AttributeError
        raise AppError(f"This {kind} file is cut short, damaged or of an unusual kind: export it again, "
                       "best as 8-bit PNG or JPEG.") from None


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=(name,))
    except UnidentifiedImageError:
        if name == "TIFF" and (repaired := as_rgb(data)):
            return Image.open(io.BytesIO(repaired), formats=("TIFF",))
        raise


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.pixels or max(size) > limits.picture_side:
        raise AppError(f"{WANTED} of at most {limits.pixels / 1e6:.0f} megapixels and {limits.picture_side} pixels a side; "
                       f"this one has {width} x {height}: shrink it.")


def _upright_rgb(opened: Image.Image) -> NDArray[np.uint8]:
    turn = UPRIGHT.get(opened.getexif().get(EXIF_ORIENTATION, 1))
    picture = to_eight_bit(opened)
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        picture = Image.new("RGBA", shown.size, (0, 0, 0, 255))
        picture.alpha_composite(shown)
    picture = picture.convert("RGB")
    return np.array(picture if turn is None else picture.transpose(turn), np.uint8)
