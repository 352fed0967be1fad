"""Whether two numbers of the same scalars put them into the same order: over all, layer by layer, neuron by neuron. No torch.

Rank correlation is Spearman's: the correlation of ranks, ties at their mean rank. What is all ties has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Ranks = NDArray[np.float64]
Values = Mapping[str, NDArray[np.float32]]  # by layer, (neurons, connections)
BINS = 20  # of a curve


@dataclass(frozen=True)
class Order:
    """The ranks of scalars, 1 the smallest.

    Attributes:
        whole: among all of them, (n,).
        layers: among those of the layer, (neurons, connections).
        neurons: among those of the row, (neurons, connections).
    """

    whole: Ranks
    layers: dict[str, Ranks]
    neurons: dict[str, Ranks]


def order_of(values: Values) -> Order:
    """Rank by size."""
    return Order(rankdata(np.concatenate([rows.ravel() for rows in values.values()])),
                 {name: rankdata(rows).reshape(rows.shape) for name, rows in values.items()},
                 {name: rankdata(rows, axis=1) for name, rows in values.items()})


def agreement(first: Order, second: Order, k: int = 1) -> dict[str, Any]:
    """How far two orders of the same scalars agree.

    Args:
        k: of the best by the first order: k a neuron where neurons are looked at, k times the number of neurons elsewhere.

    Returns:
        ``total`` and ``layers`` (by name), each with

        - ``correlation``: of the ranks, -1..1; None where an order is all ties;
        - ``correlation_in_neuron``: the same within a neuron, mean over neurons that have one;
        - ``top``: part of the best by the first order that are among as many best by the second, 0..1; ``top_chance``: of a draw;
        - ``neuron_top``: the same within a neuron, mean over neurons; ``neuron_top_chance``.

        ``curve``: mean rank by the second order, 0..1, in each of ``BINS`` equal parts by the first, from the lowest.
    """
    rows = {name: _in_neurons(first.neurons[name], second.neurons[name], k) for name in first.layers}
    layers = {name: _as_a_set(first.layers[name].ravel(), second.layers[name].ravel(), _budget([first.layers[name]], k))
              | _mean([rows[name]]) for name in first.layers}
    total = _as_a_set(first.whole, second.whole, _budget(first.layers.values(), k)) | _mean(list(rows.values()))
    return {"total": total, "layers": layers, "curve": _curve(first.whole, second.whole)}


def correlation(first: Ranks, second: Ranks) -> float | None:
    """Pearson's of two rows of ranks."""
    (one,) = _correlations(first[None], second[None])
    return None if np.isnan(one) else float(one)


def _correlations(first: Ranks, second: Ranks) -> Ranks:
    """Of each row; NaN where one of the two is all ties."""
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (first, second))
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1), np.nan)


def _budget(layers: Any, k: int) -> int:
    return sum(len(ranks) * min(k, ranks.shape[1]) for ranks in layers)


def _as_a_set(first: Ranks, second: Ranks, size: int) -> dict[str, Any]:
    """Of scalars whose rows do not matter; ``size`` of them are the best."""
    best, others = (np.argpartition(ranks, -size)[-size:] for ranks in (first, second))
    return {"scalars": first.size, "correlation": correlation(first, second),
            "top": np.intersect1d(best, others, assume_unique=True).size / size, "top_chance": size / first.size}


def _in_neurons(first: Ranks, second: Ranks, k: int) -> tuple[Ranks, Ranks, Ranks]:
    """Of each row: its correlation, the part of its k best that both have, and what chance gives."""
    kept = min(k, first.shape[1])
    best, others = (np.argpartition(ranks, -kept, axis=1)[:, -kept:] for ranks in (first, second))
    common = (best[:, :, None] == others[:, None, :]).any(axis=2).mean(axis=1)
    return _correlations(first, second), common, np.full(len(first), kept / first.shape[1])


def _mean(layers: Sequence[tuple[Ranks, Ranks, Ranks]]) -> dict[str, Any]:
    """Over the neurons of all layers."""
    correlations, common, chance = (np.concatenate(parts) for parts in zip(*layers, strict=True))
    known = correlations[~np.isnan(correlations)]
    return {"neurons": len(common), "correlation_in_neuron": float(known.mean()) if known.size else None,
            "neuron_top": float(common.mean()), "neuron_top_chance": float(chance.mean())}


def _curve(first: Ranks, second: Ranks) -> list[float]:
    """The orders' parts by position, so that ties, which share a rank, fill their parts too."""
    ranked = second[np.argsort(first, kind="stable")]
    ends = list(accumulate(len(part) for part in np.array_split(ranked, min(BINS, ranked.size))))
    return [float(ranked[start:end].mean() / ranked.size) for start, end in zip([0, *ends], ends, strict=False)]


def mean_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over several agreements of the same scalars, number by number; None where one of them has none."""
    by_key = {key: [one[key] for one in found] for key in found[0]}
    return {key: mean_of(values) if isinstance(values[0], Mapping) else _mean_value(values) for key, values in by_key.items()}


def _mean_value(values: Sequence[Any]) -> Any:
    if any(value is None for value in values):
        return None
    if isinstance(values[0], list):
        return [float(np.mean(column)) for column in zip(*values, strict=True)]
    return values[0] if isinstance(values[0], int) else float(np.mean(values))
