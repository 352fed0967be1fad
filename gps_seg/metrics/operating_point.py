"""Where the app cuts probabilities unless told otherwise: as high as labelled images allow, since each false region costs.

A segmentation model that was trained on images with polyps alone marks something nearly everywhere. Its mask changes little
over a wide range of thresholds, its false alarms change much: of all thresholds that are as good on the inner images, the
highest is the most specific. Pixels are counted, before the app drops specks and what lies outside the visible field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import DataError

GRID: NDArray[np.float64] = 1 / (1 + np.exp(-np.linspace(-3, 5, 65)))  # 0.047 to 0.993, finest where masks still change
DICE_LOSS, FRAME_LOSS = 0.01, 0.01


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the scale of the probabilities given, and what it costs.

    Attributes:
        dice: mean over images at it. best_dice: at the best threshold.
        found: part of the images with a polyp of which some pixel is marked.
    """

    threshold: float
    dice: float
    best_dice: float
    found: float


def operating_point(images: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> OperatingPoint:
    """The highest threshold with a mean Dice at most 0.01 below the best, and a part of found images at most 0.01 below that of
    the other such thresholds.

    Args:
        images: probability and target, both (H, W), one pair at a time. An empty target's Dice is 1 if nothing is marked, else 0,
            so images without polyps, where there are any, weigh in.

    Raises:
        DataError: no image.
    """
    curves = [_curve(probability, target) for probability, target in images]
    if not curves:
        raise DataError("a threshold needs labelled images, there is none")
    dice = np.mean([scores for scores, _ in curves], axis=0)
    seen = [hits for _, hits in curves if hits is not None]
    found = np.mean(seen, axis=0) if seen else np.ones(len(GRID))
    as_good = dice >= dice.max() - DICE_LOSS
    at = int(np.flatnonzero(as_good & (found >= found[as_good].max() - FRAME_LOSS))[-1])
    return OperatingPoint(float(GRID[at]), float(dice[at]), float(dice.max()), float(found[at]))


def nearest_step(threshold: float) -> float:
    """The nearest threshold that can be set by hand: hundredths from 0.01 to 0.99."""
    return min(0.99, max(0.01, round(threshold, 2)))


def _curve(
    probability: NDArray[np.float32], target: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Dice of one image at every threshold of the grid, and whether its polyp is met, if it has one."""
    above, inside = (_above(values) for values in (probability, probability[target]))
    size = np.count_nonzero(target)
    dice = 2 * inside / np.maximum(1, above + size) if size else (above == 0).astype(np.float64)
    return dice, inside > 0 if size else None


def _above(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many values exceed each threshold of the grid."""
    counts = np.bincount(np.searchsorted(GRID, values.ravel(), side="left"), minlength=len(GRID) + 1)
    return counts[::-1].cumsum()[::-1][1:]
