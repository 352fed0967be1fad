"""Is there a polyp at all? What speaks for it in each frame, how well it tells, and where to cut. Numpy only.

Three scores of a frame: ``quality``, the model's own estimate of its answer (where that was trained); ``confidence``, the largest
probability; ``area``, the part of the image that is marked at the threshold. Each is of the answer before any frame was
answered with none. For each: AUROC, the chance that a frame with a polyp has more of it than one without, ties counting half;
and the sensitivity at 90 and 95 % specificity: of the frames with a polyp, the part at or above the lowest value that lies above
so many of the others. The cut is found on the frames that are scored, so it says what the score could do, not what a run does;
that say the rates at the run's own threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gps_seg.metrics.masks import ImageScore
from gps_seg.metrics.statistics import interval, weights

SPECIFICITIES = (0.9, 0.95)
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
# Keys of the numbers in a document. The AUROC of the confidence keeps the name it had before there were others.
AUROCS = {"quality": "quality_auroc", "confidence": "presence_auroc", "area": "area_auroc"}
RATES = ("polyps_answered", "polyps_met", "polyps_dice")
NAMES = (*AUROCS.values(), *RATES, *(f"{score}_sensitivity_{round(100 * level)}" for score in AUROCS for level in SPECIFICITIES))


@dataclass(frozen=True)
class Evidence:
    """What speaks for a polyp in one frame, each 0..1, see the module; ``quality`` is None where it was not trained."""

    quality: float | None
    confidence: float
    area: float


@dataclass(frozen=True)
class PresencePoint:
    """A cut, and what it does on the frames it was chosen on.

    Attributes:
        threshold: below it the answer is none.
        kept: part of the frames with a polyp that are answered.
        refused: part of the frames without one that are not.
        frames: number of frames without one.
    """

    threshold: float
    kept: float
    refused: float
    frames: int


def evidence(probability: NDArray[np.float32], threshold: float, quality: float | None = None) -> Evidence:
    """Of a frame's probabilities (H, W) at a threshold."""
    return Evidence(quality, float(probability.max()), float((probability > threshold).mean()))


def presence_point(with_polyp: Sequence[float], without: Sequence[float]) -> PresencePoint:
    """The cut with the largest sum of both parts that are answered rightly; of equal cuts the middle one. Both hold a value."""
    ours, theirs = np.sort(np.asarray(with_polyp)), np.sort(np.asarray(without))
    values = np.unique(np.concatenate([ours, theirs]))
    cuts = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    kept = 1 - np.searchsorted(ours, cuts) / len(ours)
    refused = np.searchsorted(theirs, cuts) / len(theirs)
    best = np.flatnonzero(kept + refused >= (kept + refused).max() - 1e-9)
    at = int(best[len(best) // 2])
    return PresencePoint(float(cuts[at]), float(kept[at]), float(refused[at]), len(theirs))


def summarise(scores: Sequence[ImageScore], found: Sequence[Evidence], *, has_probabilities: bool) -> dict[str, float]:
    """All numbers of frames with and without a polyp; none unless there are both."""
    numbers = _numbers(np.ones((1, len(scores))), *_columns(scores, found, has_probabilities=has_probabilities))
    return {name: float(value[0]) for name, value in numbers.items() if np.isfinite(value[0])}


def intervals(
    scores: Sequence[ImageScore], found: Sequence[Evidence], groups: Sequence[str] | None, *, resamples: int,
    has_probabilities: bool,
) -> dict[str, list[float]]:
    """Bootstrap intervals of :func:`summarise`; samples without frames of both kinds are left out."""
    columns = _columns(scores, found, has_probabilities=has_probabilities)
    chunks = [_numbers(drawn, *columns) for drawn in weights(len(scores), groups, resamples=resamples)]
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return {name: [*interval(values[np.isfinite(values)])] for name, values in joined.items() if np.isfinite(values).any()}


def _columns(
    scores: Sequence[ImageScore], found: Sequence[Evidence], *, has_probabilities: bool
) -> tuple[Mask, dict[str, NDArray[Any]], dict[str, Float]]:
    """Which frames hold a polyp; what was answered, (n,) each; and the scores that mean something here, (n,) each."""
    polyp = np.array([score.tp + score.fn > 0 for score in scores])
    rates = {"polyps_answered": np.array([score.tp + score.fp > 0 for score in scores]),
             "polyps_met": np.array([score.tp > 0 for score in scores]),
             "polyps_dice": np.array([score.dice for score in scores])}
    values = {"area": np.array([one.area for one in found])}
    if has_probabilities:
        values["confidence"] = np.array([one.confidence for one in found])
    if all(one.quality is not None for one in found):
        values["quality"] = np.array([one.quality for one in found], np.float64)
    return polyp, rates, values


def _numbers(drawn: Float, polyp: Mask, rates: Mapping[str, NDArray[Any]], values: Mapping[str, Float]) -> dict[str, Float]:
    """Every number, (rows,), of samples in which each frame was drawn so often, (rows, n); not finite where one kind lacks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        positives, negatives = drawn[:, polyp].sum(1), drawn[:, ~polyp].sum(1)
        lacking = np.where((positives > 0) & (negatives > 0), 0.0, np.nan)
        made = {name: (drawn * (yes * polyp)).sum(1) / positives + lacking for name, yes in rates.items()}
        for name, value in values.items():
            auroc, sensitivities = tell(drawn, polyp, value)
            made[AUROCS[name]] = auroc + lacking
            for level, sensitivity in zip(SPECIFICITIES, sensitivities, strict=True):
                made[f"{name}_sensitivity_{round(100 * level)}"] = sensitivity + lacking
    return made


def tell(drawn: ArrayLike, polyp: Mask, value: Float) -> tuple[Float, list[Float]]:
    """AUROC and sensitivities at each of ``SPECIFICITIES``, all (rows,), of one score (n,) in weighted samples (rows, n)."""
    order = np.argsort(value, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(value[order]) > 0]))  # of each different value
    ordered = np.asarray(drawn, np.float64)[:, order]
    with_polyp, without = (np.add.reduceat(ordered * kind[order], starts, axis=1) for kind in (polyp, ~polyp))
    upto, total = without.cumsum(1), without.sum(1)
    below = upto - without
    auroc = (with_polyp * (below + without / 2)).sum(1) / (with_polyp.sum(1) * total)
    at_least = with_polyp[:, ::-1].cumsum(1)[:, ::-1] / with_polyp.sum(1)[:, None]
    found = []
    for level in SPECIFICITIES:
        enough = below / total[:, None] >= level
        first = at_least[np.arange(len(at_least)), enough.argmax(1)]
        found.append(np.where(enough.any(1), first, 0.0))
    return auroc, found
