"""Reading predictions, whoever made them: hard masks or probability maps. No torch.

A file is an image of any format ``data.images`` reads, or a NumPy array in a ``.npy`` file. Values become probabilities:

- 8-bit images / 255; 16-bit images / 65535; floating-point files must hold 0..1 already;
- an 8-bit file with no value above 1 is a mask of classes 0 and 1, and a 16-bit file with none above 255 holds 8-bit values,
  unless ``full_scale`` says that the folder holds probability maps: then a faint map is what it is.

A hard mask has two values, 0 and another; a JPEG or WebP one at most 2 % of its pixels in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gps_seg.data.images import LOSSY, SUFFIXES, brightest_channel, check_levels, decode, is_ambiguous
from gps_seg.errors import DataError

MAP_SUFFIXES = SUFFIXES | {".npy"}


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's prediction.

    Attributes:
        probability: float32 (H, W), 0..1.
        grey: the file's own 8-bit values (H, W), which the pranet block scores; None if it has none.
        is_map: probabilities, not a hard mask.
        unsure: the scale of the values had to be guessed, see the module.
    """

    probability: NDArray[np.float32]
    grey: NDArray[np.uint8] | None = None
    is_map: bool = True
    unsure: bool = False

    def resized(self, shape: tuple[int, ...]) -> Prediction:
        """At another size (H, W): maps bilinear, hard masks nearest, ``grey`` bicubic with antialiasing as PraNet does."""
        size = (shape[1], shape[0])
        how = cv2.INTER_LINEAR if self.is_map else cv2.INTER_NEAREST_EXACT
        grey = None if self.grey is None else np.asarray(Image.fromarray(self.grey).resize(size, Image.Resampling.BICUBIC))
        return replace(self, probability=cv2.resize(self.probability, size, interpolation=how), grey=grey)


def empty_prediction(shape: tuple[int, ...]) -> Prediction:
    """A hard mask (H, W) without foreground."""
    return Prediction(np.zeros(shape, np.float32), np.zeros(shape, np.uint8), is_map=False)


def read_prediction(path: Path, *, full_scale: bool = False) -> Prediction:
    """Read a mask or a probability map.

    Args:
        full_scale: never guess the scale; divide by the largest value the format can hold.

    Raises:
        DataError: missing, unreadable, not two-dimensional, or values that are no probabilities.
    """
    if path.suffix.lower() == ".npy":
        return _from_array(path, _load_array(path), full_scale=full_scale)
    picture = decode(path)
    if picture.mode in ("F", "I", "I;16", "I;16B", "I;16L"):
        values = np.asarray(picture)
        return _from_array(path, values if picture.mode == "F" else values.astype(np.uint16), full_scale=full_scale)
    found = _from_eight_bit(brightest_channel(picture), lossy=path.suffix.lower() in LOSSY, full_scale=full_scale)
    if not found.is_map and not full_scale and found.grey is not None:
        check_levels(path, found.grey)
    return found


def _load_array(path: Path) -> NDArray[np.generic]:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"expected an array at {path}, found none") from None
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: expected a NumPy array without objects, the content is something else") from None
    values = np.squeeze(values) if values.ndim > 2 else values
    if values.ndim != 2 or not values.size:
        raise DataError(f"{path}: expected an array of height and width, got shape {values.shape}")
    return values


def _from_array(path: Path, values: NDArray[np.generic], *, full_scale: bool) -> Prediction:
    if values.dtype == np.bool_:
        return _from_eight_bit(values.astype(np.uint8), lossy=False, full_scale=False)
    if values.dtype == np.uint8:
        return _from_eight_bit(values.astype(np.uint8), lossy=False, full_scale=full_scale)
    if values.dtype == np.uint16:
        if values.max() <= 255 and not full_scale:
            return replace(_from_eight_bit(values.astype(np.uint8), lossy=False, full_scale=False), unsure=bool(values.any()))
        return _judged(values.astype(np.float32) / np.float32(65535))
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{path}: expected bool, uint8, uint16 or floating-point values, got {values.dtype}")
    probability = values.astype(np.float32)
    low, high = float(probability.min()), float(probability.max())
    if not 0 <= low <= high <= 1:
        raise DataError(f"{path}: expected probabilities from 0 to 1, got {low:g} to {high:g}")
    return _judged(probability)


def _judged(probability: NDArray[np.float32]) -> Prediction:
    hard = bool(np.all((probability == 0) | (probability == 1)))
    return Prediction(probability, None, is_map=not hard)


def _from_eight_bit(values: NDArray[np.uint8], *, lossy: bool, full_scale: bool) -> Prediction:
    top = int(values.max())
    if 0 < top <= 1 and not full_scale:
        return Prediction(values.astype(np.float32), values * np.uint8(255), is_map=False, unsure=True)
    hard = not is_ambiguous(values) if lossy else bool(np.all((values == 0) | (values == top)))
    return Prediction(values.astype(np.float32) / np.float32(255), values, is_map=not hard)
