"""Masks in COCO's words: run lengths column by column, as text or as numbers, and polygons. Needs numpy alone.

Source: Lin et al., Microsoft COCO, ECCV 2014, arXiv 1405.0312; the text form is that of cocoapi, common/maskApi.c.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import DataError

Mask = NDArray[np.bool_]


class RunLengths(TypedDict):
    """``size`` is [height, width]; ``counts`` is COCO's text."""

    size: list[int]
    counts: str


def run_lengths(mask: Mask) -> RunLengths:
    """A mask (H, W) as COCO's compressed run lengths, which hold it exactly."""
    flat = np.concatenate([[False], mask.T.reshape(-1), [not mask.T.reshape(-1)[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(changes, prepend=0).tolist()
    return {"size": [int(side) for side in mask.shape], "counts": _as_text(counts)}


def _as_text(counts: Sequence[int]) -> str:
    """Groups of 5 bits, the lowest first; from the fourth run on the difference to the run two before."""
    signs: list[str] = []
    for index, count in enumerate(counts):
        value, more = count - counts[index - 2] if index > 2 else count, True
        while more:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            signs.append(chr(bits + 48 + 0x20 * more))
    return "".join(signs)


def _as_counts(text: str) -> list[int]:
    found: list[int] = []
    value = shift = 0
    for sign in text:
        code = ord(sign) - 48
        if not 0 <= code < 64:
            raise ValueError(f"the sign {sign!r} is none of COCO's")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            value -= (1 << shift) if code & 0x10 else 0
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the text ends within a number")
    return found


def mask_of(segmentation: Any, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of an annotation's ``segmentation``: run lengths, or polygons [x0, y0, x1, y1, ...].

    Polygons are filled by pycocotools, whose rule is what COCO means.

    Raises:
        ValueError: neither, or runs of another size. DataError: polygons without pycocotools.
    """
    if isinstance(segmentation, Mapping):
        counts = segmentation.get("counts")
        return _mask_of_runs(_as_counts(counts) if isinstance(counts, str) else counts, segmentation.get("size"), size)
    if not isinstance(segmentation, list) or not segmentation or not all(
            isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0 for ring in segmentation):
        raise ValueError("expected run lengths, or polygons of three corners or more")
    _check_corners(segmentation, size)
    filler = _filler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it asks numpy for an old conversion
        whole = filler.merge(filler.frPyObjects(segmentation, *size))
    return _mask_of_runs(_as_counts(whole["counts"].decode("ascii")), whole["size"], size)


def _check_corners(rings: Sequence[Sequence[Any]], size: tuple[int, int]) -> None:
    """Corners may lie beside the picture, but not so far that the filler would count past its numbers."""
    if not all(isinstance(value, int | float) and math.isfinite(value) for ring in rings for value in ring):
        raise ValueError("a corner is no number")
    for ring in rings:
        for values, side in ((ring[0::2], size[1]), (ring[1::2], size[0])):
            if min(values) < -side or max(values) > 2 * side:
                raise ValueError(f"a corner lies far outside of the {size[0]} x {size[1]} pixels")


def _mask_of_runs(counts: Any, given: Any, size: tuple[int, int]) -> Mask:
    height, width = size
    if given != [height, width]:
        raise ValueError(f"run lengths of size {given}, of an image of {[height, width]}")
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("expected runs in whole numbers")
    if sum(counts) != height * width:
        raise ValueError(f"the runs do not fill {height} x {width} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _filler() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ModuleNotFoundError:
        raise DataError("polygons of COCO files are filled by pycocotools: pip install 'gps-seg[coco]'") from None
