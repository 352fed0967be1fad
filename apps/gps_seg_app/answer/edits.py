"""A corrected mask: what strokes make of the model's, and how far they lead from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg_app.limits import AppError

Mask = NDArray[np.bool_]
MOST_POINTS = 20_000


@dataclass(frozen=True, eq=False)
class Edits:
    """A mask beside the model's. Nothing changes in place: every edit returns new ``Edits``; undoing is the desk's work.

    Attributes:
        mask: as it stands, bool (H, W); not to be written to.
        model_mask: what the model said at first.
    """

    mask: Mask
    model_mask: Mask

    @classmethod
    def start(cls, mask: Mask) -> Edits:
        """Begin with the model's mask (H, W)."""
        kept = mask.astype(np.bool_, copy=True)
        kept.setflags(write=False)
        return cls(kept, kept)

    def stroke(self, points: Sequence[tuple[float, float]], radius: float, *, add: bool) -> Edits:
        """Paint or erase along a line with a round brush.

        Args:
            points: (x, y) in native pixels, where pixel (0, 0) has its centre at (0, 0); one point is a dot. They may lie
                outside the picture.
            radius: in native pixels; a pixel is touched if its centre is at most this far from the line.
            add: True paints, False erases.

        Raises:
            AppError: no point, too many, or a number that is not finite or not positive.
        """
        touched = _touched(points, radius, self.mask.shape)
        return self._to(self.mask | touched if add else self.mask & ~touched)

    def replace(self, mask: Mask) -> Edits:
        """Put another mask in its place, as a new prompt gives it. Raises AppError if its size differs."""
        if mask.shape != self.mask.shape:
            raise AppError(f"Expected a mask of {self.mask.shape[1]} x {self.mask.shape[0]} pixels, got "
                           f"{mask.shape[1]} x {mask.shape[0]}: open the picture again.")
        return self._to(mask.astype(np.bool_, copy=True))

    @property
    def edited(self) -> bool:
        """Whether the mask differs from the model's."""
        return not np.array_equal(self.mask, self.model_mask)

    @property
    def dice(self) -> float:
        """Dice between the mask and the model's; 1 if both are empty."""
        both = int(np.count_nonzero(self.mask)) + int(np.count_nonzero(self.model_mask))
        return 1.0 if both == 0 else 2 * int(np.count_nonzero(self.mask & self.model_mask)) / both

    def _to(self, mask: Mask) -> Edits:
        mask.setflags(write=False)
        return replace(self, mask=mask)


def _touched(points: Sequence[tuple[float, float]], radius: float, shape: tuple[int, ...]) -> Mask:
    """Pixels within ``radius`` of the line, looked for in the line's own window only."""
    if not 0 < len(points) <= MOST_POINTS or not 0 < radius <= max(shape) or not all(map(math.isfinite, np.ravel(points))):
        raise AppError(f"Expected a brush stroke of 1 to {MOST_POINTS:,} points with a radius of at most {max(shape)} pixels: "
                       "draw it again.")
    reach = math.ceil(radius) + 1
    line = np.clip(np.asarray(points, np.float64).reshape(-1, 2), -2 * max(shape), 3 * max(shape))
    touched = np.zeros((shape[0], shape[1]), np.bool_)
    low = np.maximum(np.floor(line.min(axis=0)) - reach, 0).astype(int)
    high = np.minimum(np.ceil(line.max(axis=0)) + reach + 1, [shape[1], shape[0]]).astype(int)
    if (low >= high).any():
        return touched
    # the window with a margin as wide as the brush, so that a line outside the picture still touches its edge
    away = np.ones((high[1] - low[1] + 2 * reach, high[0] - low[0] + 2 * reach), np.uint8)
    corners = np.round(line - low + reach).astype(np.int32)
    corners = np.concatenate([corners, corners[-1:]])  # OpenCV draws no line of a single point
    cv2.polylines(away, [corners.reshape(-1, 1, 2)], False, 0, 1, cv2.LINE_8)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[reach:-reach, reach:-reach]
    touched[low[1] : high[1], low[0] : high[0]] = (distance <= radius) & (away.min() == 0)
    return touched
