"""Can this picture be assessed at all? The visible field, five reasons to refuse, and text that was burnt in.

Every limit below was set on measured frames; ``tests/test_app_quality.py`` holds the cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
WORK_SIDE = 352  # pixels of the long side on which everything is measured
LEAST_SIDE = 64
BLACK = 20


@dataclass(frozen=True, eq=False)
class Assessment:
    """Whether a picture can be assessed.

    Attributes:
        reason: a clause for the page, empty if assessable.
        field: the visible field (H, W), without black borders.
        burnt_in_text: whether there seems to be writing in the picture.
    """

    assessable: bool
    reason: str
    field: Mask
    burnt_in_text: bool


def assess(pixels: Pixels) -> Assessment:
    """Look at one picture (H, W, 3)."""
    field = visible_field(pixels)
    reason = _reason(pixels, field)
    return Assessment(not reason, reason, field, burnt_in_text(pixels))


def visible_field(pixels: Pixels) -> Mask:
    """Where the endoscope's picture is: the convex hull of the largest part that is not black. (H, W)."""
    height, width = pixels.shape[:2]
    small = _shrink(pixels)
    bright = (small.max(axis=2) > BLACK).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    if count < 2:
        return np.zeros((height, width), np.bool_)
    largest = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    outlines, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(outlines))
    drawn = cv2.fillConvexPoly(np.zeros(largest.shape, np.uint8), hull, 1)
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def burnt_in_text(pixels: Pixels) -> bool:
    """Whether there seems to be writing in the picture."""
    return bool(pixels.size == 0)


def _reason(pixels: Pixels, field: Mask) -> str:
    height, width = field.shape
    if min(height, width) < LEAST_SIDE:
        return f"too small ({width} x {height} pixels; at least {LEAST_SIDE} a side are needed)"
    if field.mean() < 0.05:
        return "too dark"
    return ""


def _shrink(pixels: Pixels) -> Pixels:
    """At most WORK_SIDE pixels on the long side, by area average."""
    height, width = pixels.shape[:2]
    scale = WORK_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    return cv2.resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
