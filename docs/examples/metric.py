"""A metric: how much too large the marked area is, with the intervals and tests that all metrics have here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import images_by_stem, read_mask
from gps_seg.metrics.masks import Counts, count
from gps_seg.metrics.statistics import mean_interval


def excess(counts: Counts) -> float:
    """FP / (TP + FN), from 0; an empty target that is left empty has 0, one that is not has infinity."""
    target = counts.tp + counts.fn
    return counts.fp / target if target else (0.0 if counts.fp == 0 else float("inf"))


def score(predicted: Path, target: Path) -> NDArray[np.float64]:
    """The excess of every pair of masks in two folders, in the order of their stems."""
    theirs = images_by_stem(predicted)
    return np.array([excess(count(read_mask(theirs[stem]), read_mask(path)))
                     for stem, path in sorted(images_by_stem(target).items())])


def describe(values: NDArray[np.float64]) -> str:
    """The mean over images with its 95 % interval."""
    low, high = mean_interval(values)
    return f"excess {values.mean():.3f} ({low:.3f} to {high:.3f}, {len(values)} images)"
