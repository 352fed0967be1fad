"""Reading and writing image files. No torch.

Whatever the file holds (grey, RGBA, palette, 16 bit, CMYK, rotated by EXIF), an image arrives as uint8 RGB (H, W, 3) and a
mask as bool (H, W). Whatever is wrong with the file arrives as one DataError line with the file's name.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gps_seg.data.tiff import as_rgb
from gps_seg.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 40_000_000
MASK_THRESHOLD = 127
# A hard mask saved as JPEG has under 1 % of its pixels far from black and white (Kvasir-SEG: 0.7 %).
AMBIGUOUS_FRACTION, DARK, BRIGHT = 0.02, 11, 244
EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}


class _Silence:
    """Warnings are ignored while any thread is inside, and go where they went before once all have left.

    Each thread with a ``catch_warnings`` of its own would not do: where two overlap, the second keeps the filters that the
    first has set and leaves "ignore" behind for the whole process.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._filters = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters.enter_context(warnings.catch_warnings(action="ignore"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


SILENCE = _Silence()


def list_images(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Image files directly in a folder, by suffix in any case, sorted by name; hidden files are left out.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir()
                      if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise DataError(f"expected a folder of images at {folder}, cannot list it ({error.strerror})") from None


def images_by_stem(folder: Path, suffixes: Collection[str] = SUFFIXES) -> dict[str, Path]:
    """Image files of a folder by file stem.

    Raises:
        DataError: there is none, or two have the same stem.
    """
    found: dict[str, Path] = {}
    for path in list_images(folder, suffixes):
        if path.stem in found:
            raise DataError(f"{folder}: {found[path.stem].name} and {path.name} have the same stem; keep one")
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder}: expected images, found none")
    return found


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as uint8 RGB (H, W, 3), upright.

    Raises:
        DataError: missing, empty, not an image, cut short, or over 40 megapixels.
    """
    with _reading(path):
        return np.asarray(to_eight_bit(_decode(path)).convert("RGB"))


def read_mask(path: Path, *, threshold: int = MASK_THRESHOLD) -> NDArray[np.bool_]:
    """Read a mask as bool (H, W): True where the brightest channel is above the threshold.

    A mask that holds only 0 and 1 is taken as such.

    Raises:
        DataError: as :func:`read_image`, or values that reach neither: a map of other class numbers, say.
    """
    values = read_mask_values(path)
    check_levels(path, values, threshold)
    return values > (0 if values.max() <= 1 else threshold)


def check_levels(path: Path, values: NDArray[np.uint8], threshold: int = MASK_THRESHOLD) -> None:
    """Raise DataError for a mask whose values are neither 0 and 1 nor reach the threshold: it would be read as empty."""
    top, noise = int(values.max()), DARK if path.suffix.lower() in LOSSY else 1
    if noise < top <= threshold:
        raise DataError(f"{path}: expected a mask of 0 and 255, or of 0 and 1, its largest value is {top}; convert it first")


def read_mask_values(path: Path) -> NDArray[np.uint8]:
    """The brightest channel of a mask file, uint8 (H, W), before any threshold; alpha is not a channel.

    Raises:
        DataError: as :func:`read_image`.
    """
    with _reading(path):
        return brightest_channel(to_eight_bit(_decode(path)))


def brightest_channel(picture: Image.Image) -> NDArray[np.uint8]:
    """The brightest channel of an 8-bit picture, uint8 (H, W); alpha is not a channel, and classes 0 and 1 stay 0 and 1."""
    if picture.mode == "P" and _is_palette_of_classes(picture):
        return np.asarray(picture)
    if picture.mode in ("1", "LA", "La"):
        picture = picture.convert("L")
    values = np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
    return values if values.ndim == 2 else values.max(axis=2)


def _is_palette_of_classes(picture: Image.Image) -> bool:
    """A palette file whose indices are 0 and 1 is a class map, whatever colours it shows.

    White before black is the exception: so programs store a black and white mask that they reduce to two colours.
    """
    colors = [*(picture.getpalette() or []), *[0] * 6]
    white_first = min(colors[:3]) >= BRIGHT and max(colors[3:6]) <= DARK
    return int(np.asarray(picture).max()) <= 1 and not white_first


def is_ambiguous(values: NDArray[np.uint8]) -> bool:
    """Whether more than 2 % of a mask's values are neither clearly background nor clearly foreground."""
    if values.max() <= 1:
        return False
    return float(np.mean((values >= DARK) & (values <= BRIGHT))) > AMBIGUOUS_FRACTION


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask as a lossless 0/255 PNG, atomically. Raises DataError if that is not possible."""
    _write(path, np.where(mask, np.uint8(255), np.uint8(0)))


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB (H, W, 3) or grey (H, W) by the path's suffix, atomically, without metadata.

    Raises:
        DataError: a suffix not in SUFFIXES, more pixels than the format allows, or a path that cannot be written.
    """
    _write(path, image)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot write {path}: unknown image type {path.suffix!r}; use for example .png")
    done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels)
    if not done:  # JPEG ends at 65500 pixels a side, WebP at 16383
        raise DataError(f"cannot write {path}: {pixels.shape[1]} x {pixels.shape[0]} pixels are too many; use for example .png")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.tobytes())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def decode(path: Path) -> Image.Image:
    """Open, check and fully decode a file; upright, in its own mode.

    Raises:
        DataError: as :func:`read_image`.
    """
    with _reading(path):
        return _decode(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """No warnings about odd metadata; whatever stops the reading of a file is one DataError with its name."""
    try:
        with SILENCE:
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"expected an image at {path}, found none") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: expected a JPEG, PNG, TIFF, BMP or WebP image, the content is something else") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: more pixels than the most, {MAX_PIXELS / 1e6:.0f} megapixels; shrink it") from None
    except Exception as error:  # damaged bytes make Pillow raise almost any kind, from struct.error to AttributeError
        reason = getattr(error, "strerror", None) or "cut short, damaged or of an unusual kind"
        raise DataError(f"{path}: cannot read the image ({reason})") from None


def _decode(path: Path) -> Image.Image:
    """Open, check and fully decode a file; upright."""
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected an image, the file is empty")
    with _open(path) as opened:
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise DataError(f"{path}: {width} x {height} pixels, over {MAX_PIXELS / 1e6:.0f} megapixels; shrink it")
        opened.load()
        # not ImageOps.exif_transpose: it also writes the metadata anew and fails where a value has not its tag's type
        turn = UPRIGHT.get(opened.getexif().get(EXIF_ORIENTATION, 1))
        return opened.copy() if turn is None else opened.transpose(turn)


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        if path.suffix.lower() in (".tif", ".tiff") and (repaired := as_rgb(path.read_bytes())):
            return Image.open(io.BytesIO(repaired), formats=("TIFF",))
        raise


def to_eight_bit(picture: Image.Image) -> Image.Image:
    """16- and 32-bit grey scaled to 8 bit: by 257 if values pass 255, else taken as they are; not-a-number is black."""
    if picture.mode not in ("I", "I;16", "I;16B", "I;16L", "F"):
        return picture
    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    scaled = values / 257 if values.max(initial=0) > 255 else values
    return Image.fromarray(np.clip(np.round(scaled), 0, 255).astype(np.uint8))
