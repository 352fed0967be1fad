"""How sure a mean is, and whether two methods differ. Numpy; scipy for Wilcoxon's p only.

- Intervals: percentile bootstrap, 10,000 resamples, fixed seed. Images of one sequence, patient or duplicate group are not
  independent: with groups, whole groups are drawn instead of images. Every number that is a function of sums over images
  (means, pooled counts, calibration bins, threshold curves) is resampled as sums, all in one matrix product.
- Two methods on the same images: bootstrap of the mean difference; Wilcoxon's signed-rank test with Pratt's zeros and the
  matched-pairs rank-biserial effect, (R+ - R-) / (R+ + R-); Holm's correction over all comparisons made.
- Methods trained with several seeds: both seeds and images are drawn (hierarchical bootstrap).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from gps_seg.errors import DataError

Float = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95
DECIMALS = 12  # of a difference, before its rank is taken
CHUNK = 2_000_000


def clusters(groups: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """The cluster number of each of n images; without groups each image is its own.

    Raises:
        DataError: the numbers of groups and images differ.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise DataError(f"expected one group for each of {n} images, got {len(groups)}")
    order = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    return np.array([order[name] for name in groups], np.int64)


def resample(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Float:
    """Sums over bootstrap samples of images, or of whole groups.

    Args:
        values: (n, k), a row an image.
        groups: a name an image; images of one name are drawn together.

    Returns:
        (resamples, k) sums. Samples of groups hold different numbers of images: divide by a summed column of ones.
    """
    rows = np.asarray(values, np.float64)
    member = clusters(groups, len(rows))
    size = int(member.max()) + 1
    sums = np.stack([np.bincount(member, weights=column, minlength=size) for column in rows.T], axis=1)
    return np.concatenate([drawn @ sums for drawn in _samples(size, resamples, seed)])


def weights(n: int, groups: Sequence[Hashable] | None = None, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Float]:
    """How often each of n images is in the samples of :func:`resample`, (rows, n) at a time: for numbers that are no sums."""
    member, step = clusters(groups, n), max(1, CHUNK // n)
    for drawn in _samples(int(member.max()) + 1, resamples, seed):
        yield from (drawn[done : done + step, member] for done in range(0, len(drawn), step))


def _samples(size: int, resamples: int, seed: int) -> Iterator[Float]:
    """How often each of ``size`` things is drawn, (rows, size), as many samples at a time as memory should hold."""
    random = np.random.default_rng(seed)
    step = max(1, CHUNK // size)
    for done in range(0, resamples, step):
        yield _draw(random, min(step, resamples - done), size)


def _draw(random: Generator, rows: int, size: int) -> Float:
    """How often each of ``size`` things is drawn in each of ``rows`` samples of that size, (rows, size)."""
    drawn = random.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def interval(samples: Float, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap samples (resamples,)."""
    low, high = np.percentile(samples, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, *, resamples: int = RESAMPLES, seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Interval of the mean of one value an image, (n,)."""
    column = np.asarray(values, np.float64)
    sums = resample(np.stack([column, np.ones_like(column)], axis=1), groups, resamples=resamples, seed=seed)
    return interval(sums[:, 0] / sums[:, 1], level)


def wilcoxon(differences: ArrayLike) -> tuple[float, float]:
    """Two-sided signed-rank p-value (Pratt) and rank-biserial effect of paired differences (n,).

    Means of seeds differ in their last bits where the scores are equal; rounded to 12 decimals, zeros and ties are such again.

    Raises:
        DataError: a difference is not finite.
    """
    from scipy.stats import rankdata
    from scipy.stats import wilcoxon as signed_rank

    values = np.round(np.asarray(differences, np.float64), DECIMALS)
    if not np.isfinite(values).all():
        raise DataError("expected finite differences to test, got some that are not")
    if not values.any():
        return 1.0, 0.0
    ranks = rankdata(np.abs(values))
    better, worse = float(ranks[values > 0].sum()), float(ranks[values < 0].sum())
    return float(signed_rank(values, zero_method="pratt").pvalue), (better - worse) / (better + worse)


def joint(
    methods: Sequence[Float], groups: Sequence[Hashable] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Float:
    """Bootstrap samples of the means of several methods, (methods, resamples); rows may be subtracted.

    Seeds are drawn with replacement for each method apart, images (or groups) once for all, as they are the same images.

    Args:
        methods: scores (seeds, n) each; the numbers of seeds may differ.
    """
    member = clusters(groups, methods[0].shape[1])
    size = int(member.max()) + 1
    random = np.random.default_rng(seed)
    sums = np.stack([np.bincount(member, weights=row, minlength=size) for scores in methods for row in scores])
    images = np.bincount(member, minlength=size).astype(np.float64)
    first = np.cumsum([0, *(len(scores) for scores in methods[:-1])])  # each method's first row in sums
    step, found = max(1, CHUNK // size), []
    for done in range(0, resamples, step):
        drawn = _draw(random, min(step, resamples - done), size)
        by_seed = drawn @ sums.T / (drawn @ images)[:, None]
        weights = [_draw(random, len(drawn), len(scores)) / len(scores) for scores in methods]
        found.append(np.add.reduceat(np.concatenate(weights, axis=1) * by_seed, first, axis=1))
    return np.concatenate(found).T


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
