"""Masks as polygons, and back again: both ways exact, to the pixel. Run lengths, as exact, are in ``gps_seg.data.coco``.

Polygons run along the edges of pixels, with corners at whole numbers: pixel (x, y) is the square from (x, y) to
(x + 1, y + 1). The rule to read them: a pixel belongs to the mask if its centre (x + 0.5, y + 0.5) lies inside an odd number of
rings (even-odd rule). Each 8-connected part has one exterior ring, clockwise on the screen, and any number of holes,
anticlockwise. Rings are not closed by repeating their first corner. Programs that fill polygons by another rule, as
pycocotools, may be off by the pixels of the outline: for exactness take the run lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.components import components

Mask = NDArray[np.bool_]
Ring = list[list[int]]
Corner = tuple[int, int]


class Polygon(TypedDict):
    """One connected part: corners [x, y] of its exterior and of its holes."""

    exterior: Ring
    holes: list[Ring]


def parts(mask: Mask) -> Iterator[tuple[tuple[int, int, int, int], Mask]]:
    """The 8-connected parts of a mask, each as its box (x0, y0, x1, y1; the last two exclusive) and its cut-out."""
    count, labels, stats, _ = components(mask)
    for label in range(1, count):
        x, y, width, height = (int(value) for value in stats[label, :4])
        yield (x, y, x + width, y + height), labels[y : y + height, x : x + width] == label


def polygons(mask: Mask) -> list[Polygon]:
    """The polygons of a mask (H, W), a part each."""
    return [polygon(cut, offset=(box[0], box[1])) for box, cut in parts(mask)]


def polygon(part: Mask, offset: Corner = (0, 0)) -> Polygon:
    """The polygon of one 8-connected part (h, w); ``offset`` (x, y) is added to every corner."""
    rings = [[[x + offset[0], y + offset[1]] for x, y in ring] for ring in _rings(part)]
    outer = next(index for index, ring in enumerate(rings) if _doubled_area(ring) > 0)
    return {"exterior": rings[outer], "holes": [ring for index, ring in enumerate(rings) if index != outer]}


def mask_of_polygons(found: Iterable[Mapping[str, Any]], size: tuple[int, int]) -> Mask:
    """The mask (H, W) of :func:`polygons`, bit for bit: the even-odd rule at the centres of pixels."""
    flips = np.zeros((size[0], size[1] + 1), np.bool_)
    for one in found:
        for ring in (one["exterior"], *one["holes"]):
            for (x, y), (other_x, other_y) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if x == other_x:
                    flips[min(y, other_y) : max(y, other_y), x] ^= True
    return np.logical_xor.accumulate(flips, axis=1)[:, :-1]


def _rings(mask: Mask) -> Iterator[list[Corner]]:
    """Walk along the edges with the mask on the right hand; where two parts touch at a corner, cross over to the other."""
    level, upright = _segments(mask), _segments(mask.T)
    rows = _starts((x, y, end, y, sign) for y, x, end, sign in level)
    columns = _starts((x, y, x, end, -sign) for x, y, end, sign in upright)
    while rows:
        corner = first = next(iter(rows))
        step = next(iter(rows[first]))
        ring: list[Corner] = []
        while True:
            ring.append(corner)
            corner = _take(rows, corner, step)
            ring.append(corner)
            turn = _turn(columns, corner, -step)  # walking right, left is up; walking left, left is down
            corner = _take(columns, corner, turn)
            if corner == first and turn not in rows.get(first, {}):  # where it began, and the way on is the way it began
                break
            step = _turn(rows, corner, turn)  # walking down, left is to the right; walking up, to the left
        yield ring


def _segments(mask: Mask) -> list[tuple[int, int, int, int]]:
    """Level edges as (row, from, to, sign): sign 1 where the mask begins below the line, -1 where it ends there."""
    padded = np.pad(mask.astype(np.int8), ((1, 1), (0, 0)))
    edges = np.pad(np.diff(padded, axis=0), ((0, 0), (1, 1)))  # (H + 1, W + 2)
    found = []
    for sign in (1, -1):
        bounds = np.diff((edges == sign).astype(np.int8), axis=1)
        begin, end = np.argwhere(bounds == 1), np.argwhere(bounds == -1)
        found += [(int(row), int(start), int(stop), sign) for (row, start), (_, stop) in zip(begin, end, strict=True)]
    return found


def _starts(segments: Iterable[tuple[int, int, int, int, int]]) -> dict[Corner, dict[int, Corner]]:
    """First corner -> direction -> last corner. A direction of -1 walks a segment from its far end."""
    found: dict[Corner, dict[int, Corner]] = {}
    for x, y, other_x, other_y, direction in segments:
        here, there = ((x, y), (other_x, other_y)) if direction > 0 else ((other_x, other_y), (x, y))
        found.setdefault(here, {})[direction] = there
    return found


def _turn(starts: Mapping[Corner, Mapping[int, Corner]], corner: Corner, left: int) -> int:
    return left if left in starts[corner] else -left


def _take(starts: dict[Corner, dict[int, Corner]], corner: Corner, direction: int) -> Corner:
    there = starts[corner].pop(direction)
    if not starts[corner]:
        del starts[corner]
    return there


def _doubled_area(ring: Sequence[Sequence[int]]) -> int:
    """Positive for a ring that runs clockwise on a screen, where y points down."""
    return sum(x * other_y - other_x * y for (x, y), (other_x, other_y) in zip(ring, [*ring[1:], ring[0]], strict=True))
