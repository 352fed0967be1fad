"""The scores that polyp papers print since PraNet (Fan et al., MICCAI 2020): means over 256 thresholds of a stretched map.

Written from the published formulas, checked against PySODMetrics 1.6.2. In order:

1. The map is stretched to 0..1 (``to_grey``), stored as uint8, and stretched again; a constant map stays as it is.
2. A map x is cut at t = 255/255, 254/255, ... 0: foreground is x >= t, so the last cut is all foreground.
3. Without true positives Dice and IoU are 0, so an image with an empty target always scores 0.
4. ``mean_dice``, ``mean_iou``, ``mean_e`` average over images and thresholds; ``max_dice``, ``max_iou``, ``max_e`` are the best
   threshold's mean over images. MAE = mean \\|x - G\\|.
5. S-measure: Fan et al., ICCV 2017, alpha 0.5. E-measure: Fan et al., IJCAI 2018. Weighted F: Margolin et al., CVPR 2014,
   beta^2 1; 0 for an empty target.

A perfect hard mask of area fraction a scores (255 + 2a / (1 + a)) / 256 in Dice, and stretching hides confidence: noise of
one per cent on an empty frame becomes a full-range map. Hence a block of its own, never mixed with the others. One departure:
where the target's centroid is in the last row or column, a quadrant of the S-measure is empty; its weight is 0, and it is
left out here, while the original gives NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gps_seg.metrics.surface import bounding_box, distance_to

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
EPSILON = float(np.spacing(1.0))
LEVELS = 256
REACH = 3  # half the width of the weighted F's 7 x 7 filter


@dataclass(frozen=True, eq=False)
class Sweep:
    """One image. ``dice``, ``iou``, ``e``: float64 (256,), from the highest threshold to the lowest; the rest in 0..1."""

    dice: Float
    iou: Float
    e: Float
    weighted_f: float
    s: float
    mae: float


def to_grey(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Probabilities (H, W), 0..1, as the protocol stores them: stretched to 0..255, rounded; a constant map is not stretched."""
    values = np.asarray(probability, np.float64)
    low, high = float(values.min()), float(values.max())
    if high > low:
        values = (values - low) / (high - low)
    return np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def sweep(grey: NDArray[np.uint8], target: Mask) -> Sweep:
    """Score a stored map, uint8 (H, W), against a mask of the same shape."""
    levels = _stretched_levels(grey)
    x = levels[grey]
    hits, alarms = _cumulative(grey, levels, target)
    wanted = int(np.count_nonzero(target))
    found = hits + alarms
    return Sweep(
        dice=_ratio(2 * hits, wanted + found), iou=_ratio(hits, wanted + alarms), e=_e_curve(hits, alarms, wanted, target.size),
        weighted_f=weighted_f(x, target), s=s_measure(x, target), mae=float(np.mean(np.abs(x - target))),
    )


def summarise(sweeps: Sequence[Sweep]) -> dict[str, float]:
    """The block's numbers, from at least one image."""
    curves = {name: np.mean([getattr(found, name) for found in sweeps], axis=0) for name in ("dice", "iou", "e")}
    means = {name: float(np.mean([getattr(found, name) for found in sweeps])) for name in ("weighted_f", "s", "mae")}
    return {
        "mean_dice": float(curves["dice"].mean()), "mean_iou": float(curves["iou"].mean()),
        "max_dice": float(curves["dice"].max()), "max_iou": float(curves["iou"].max()),
        "weighted_f": means["weighted_f"], "s_measure": means["s"],
        "mean_e": float(curves["e"].mean()), "max_e": float(curves["e"].max()), "mae": means["mae"],
    }


def _stretched_levels(grey: NDArray[np.uint8]) -> Float:
    """The stretched value of each grey level, float64 (256,); levels outside the map's range are not used."""
    levels = np.arange(LEVELS) / 255
    low, high = levels[grey.min()], levels[grey.max()]
    return (levels - low) / (high - low) if high > low else levels


def _cumulative(grey: NDArray[np.uint8], levels: Float, target: Mask) -> tuple[Float, Float]:
    """True and false positives at each threshold, from the highest, each (256,)."""
    bins = np.clip(levels * 255, 0, 255).astype(np.int64)
    counts = np.bincount(grey.ravel() + np.intp(LEVELS) * target.ravel(), minlength=2 * LEVELS).reshape(2, LEVELS)
    alarms, hits = (np.bincount(bins, weights=row, minlength=LEVELS)[::-1].cumsum() for row in counts)
    return hits, alarms


def _ratio(numerator: Float, denominator: Float) -> Float:
    return numerator / np.where(denominator > 0, denominator, 1)


def _e_curve(hits: Float, alarms: Float, wanted: int, size: int) -> Float:
    """E-measure at each threshold, (256,). Within each cell of the confusion table alignment is constant."""
    found = hits + alarms
    if wanted == 0:
        total = size - found
    elif wanted == size:
        total = found
    else:
        cells = ((1, 1, hits), (1, 0, alarms), (0, 1, wanted - hits), (0, 0, size - wanted - alarms))
        total = np.zeros(LEVELS)
        for p, g, pixels in cells:
            a, b = p - found / size, g - wanted / size
            total += (2 * a * b / (a * a + b * b + EPSILON) + 1) ** 2 / 4 * pixels
    return total / (size - 1 + EPSILON)


def s_measure(x: Float, target: Mask) -> float:
    """Structure measure of a map in 0..1, (H, W)."""
    fraction = float(np.mean(target))
    if fraction == 0:
        return 1 - float(np.mean(x))
    if fraction == 1:
        return float(np.mean(x))
    objects = fraction * _object_part(x[target]) + (1 - fraction) * _object_part(1 - x[~target])
    return max(0.0, 0.5 * objects + 0.5 * _region_part(x, target))


def _object_part(values: Float) -> float:
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + spread + EPSILON)


def _region_part(x: Float, target: Mask) -> float:
    """Similarity of the four blocks around the target's centroid, weighted by area."""
    height, width = target.shape
    rows, columns = target.sum(axis=1), target.sum(axis=0)
    pixels = rows.sum()
    row = round(float(rows @ np.arange(height) / pixels)) + 1
    column = round(float(columns @ np.arange(width) / pixels)) + 1
    blocks = [(slice(a, b), slice(c, d)) for a, b in ((0, row), (row, height)) for c, d in ((0, column), (column, width))]
    return sum(_similarity(x[block], target[block]) * x[block].size for block in blocks if x[block].size) / x.size


def _similarity(x: Float, target: Mask) -> float:
    x_mean, g_mean = float(np.mean(x)), float(np.mean(target))
    dx, dg = x - x_mean, target - g_mean
    freedom = x.size - 1 + EPSILON
    joint = 4 * x_mean * g_mean * (float(np.sum(dx * dg)) / freedom)
    apart = (x_mean**2 + g_mean**2) * ((float(np.sum(dx * dx)) + float(np.sum(dg * dg))) / freedom)
    if joint != 0:
        return joint / (apart + EPSILON)
    return 1.0 if apart == 0 else 0.0


def weighted_f(x: Float, target: Mask) -> float:
    """Margolin's weighted F of a map in 0..1, (H, W): errors are blurred inside the target and weigh more far outside it."""
    wanted = int(np.count_nonzero(target))
    if wanted == 0:
        return 0.0
    error = np.abs(x - target)
    outside = error * np.where(target, 0, 2 - np.exp(np.log(0.5) / 5 * distance_to(target)))
    misses = float(np.sum(_blurred_misses(error, target)))
    hits, alarms = wanted - misses, float(np.sum(outside))
    recall, precision = 1 - misses / wanted, hits / (hits + alarms + EPSILON)
    return 2 * recall * precision / (recall + precision + EPSILON)


def _blurred_misses(error: Float, target: Mask) -> Float:
    """The smaller of error and blurred error on each target pixel. Only the target's surroundings enter the filter."""
    rows, columns = bounding_box(target)
    near = (slice(max(0, rows.start - REACH), rows.stop + REACH), slice(max(0, columns.start - REACH), columns.stop + REACH))
    local, mask = error[near], target[near]
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    blurred = cv2.sepFilter2D(local[tuple(nearest)], -1, _KERNEL, _KERNEL, borderType=cv2.BORDER_CONSTANT)
    return np.minimum(local[mask], blurred[mask])


_STEPS = np.arange(-REACH, REACH + 1)
_KERNEL = np.exp(-(_STEPS**2) / 50)
_KERNEL = _KERNEL / _KERNEL.sum()
