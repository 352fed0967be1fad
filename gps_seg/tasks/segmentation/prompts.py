"""Prompts: those of a person, checked, and those of a simulated person who knows the truth. No torch.

Coordinates are x, y in pixels of the picture, where pixel (0, 0) has its centre at (0, 0), so a click on pixel (3, 4) is at x 3,
y 4. Masks hold the picture alone, without the padding of a model's input.

A simulated person clicks first inside the polyp and then in the largest error of the answer, an 8-connected region of what was
missed or of what is false, at its point farthest from any edge, the picture's too. Source: Sofiiuk et al., Reviving Iterative
Training with Mask Guidance for Interactive Segmentation (RITM), 2021, arXiv 2102.06583, section 3; there the deepest error is
clicked instead of the largest, and SAM's own training (Kirillov et al., ICCV 2023, arXiv 2304.02643, appendix A) clicks anywhere
in the error.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import ConfigError

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Kind = Literal["none", "box", "clicks"]


class Click(NamedTuple):
    """``label`` is 1 for polyp and 0 for not polyp."""

    x: float
    y: float
    label: int


def check_prompts(size: tuple[int, int], *, box: Box | None = None, clicks: Sequence[Click] = ()) -> None:
    """Refuse what no person can have meant.

    Args:
        size: (height, width) of the picture.

    Raises:
        ConfigError: a click outside the picture, a label that is none, one pixel clicked as both; a box of no area or outside.
    """
    height, width = size
    picture = f"the picture of {width} x {height} pixels"
    labels: dict[tuple[int, int], int] = {}
    for click in clicks:
        if not (-0.5 <= click.x < width - 0.5 and -0.5 <= click.y < height - 0.5):
            raise ConfigError(f"expected clicks in {picture}, got one at x {click.x:g}, y {click.y:g}: click on the picture")
        if click.label not in (0, 1):
            raise ConfigError(f"expected clicks of label 1 (polyp) or 0 (not polyp), got {click.label!r}")
        pixel = math.floor(click.x + 0.5), math.floor(click.y + 0.5)
        if labels.setdefault(pixel, click.label) != click.label:
            raise ConfigError(f"expected one label a pixel, got x {pixel[0]}, y {pixel[1]} clicked as polyp and as not polyp: "
                              "take one of the two back")
    if box is None:
        return
    x0, y0, x1, y1 = box
    corners = f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
    if not (x0 < x1 and y0 < y1):
        raise ConfigError(f"expected a box with an area, got {corners}: draw it from its upper left to its lower right corner")
    if not (x0 < width and y0 < height and x1 > 0 and y1 > 0 and all(map(math.isfinite, box))):
        raise ConfigError(f"expected a box in {picture}, got {corners}: draw it on the picture")


def kind_at(step: int, seed: int, *, box: float, clicks: float) -> Kind:
    """The kind of prompt of a training step, of which ``box`` and ``clicks`` are the probabilities."""
    drawn = random.Random(f"{seed}/{step}").random()
    return "box" if drawn < box else "clicks" if drawn < box + clicks else "none"


def jittered_box(mask: Mask, jitter: float, chance: random.Random) -> Box | None:
    """The box around all pixels of a mask, each edge moved, inside the picture; None for an empty mask.

    Args:
        jitter: part of the box's side that an edge moves at most, evenly, 0..0.5.
    """
    if not mask.any():
        return None
    ends = []
    for axis, most in ((0, mask.shape[1] - 1), (1, mask.shape[0] - 1)):
        lines = np.flatnonzero(mask.any(axis))
        reach = jitter * (int(lines[-1]) - int(lines[0]) + 1)
        moved = (int(line) + chance.uniform(-reach, reach) for line in (lines[0], lines[-1]))
        ends.append(sorted(min(max(end, 0.0), float(most)) for end in moved))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def drawn_click(mask: Mask, chance: random.Random) -> Click | None:
    """A first click: a pixel of the mask, the likelier the farther from its edge; None for an empty mask."""
    depth = _depth(mask).ravel().cumsum(dtype=np.float64)
    if not depth[-1]:
        return None
    at = int(np.searchsorted(depth, chance.random() * depth[-1], side="right"))
    return Click(at % mask.shape[1], at // mask.shape[1], 1)


def next_click(predicted: Mask, target: Mask, before: Sequence[Click | None] = ()) -> Click | None:
    """The deepest pixel of the largest error that was not clicked ``before``; None where there is no such pixel.

    An empty prediction's is the deepest pixel of the largest polyp: a person's first click.
    """
    errors = [(_largest(target & ~predicted), 1), (_largest(predicted & ~target), 0)]
    error, label = max(errors, key=lambda found: np.count_nonzero(found[0]))  # the missed one, of two equally large
    depth = _depth(error)
    for click in filter(None, before):
        depth[int(click.y), int(click.x)] = 0
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return Click(int(column), int(row), label) if depth[row, column] else None


def _largest(mask: Mask) -> Mask:
    """The largest 8-connected component, the first of equal ones; empty for an empty mask."""
    number, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if number == 1:
        return mask
    return labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())


def _depth(mask: Mask) -> NDArray[np.float32]:
    """Distance of each pixel of a mask (H, W) to the nearest that is not in it, in pixels; outside the picture none is."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1].copy()
