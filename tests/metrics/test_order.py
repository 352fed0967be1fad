"""How far two orders agree, against scipy and a slow version."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gps_seg.metrics.order import BINS, agreement, mean_of, order_of

Array = NDArray[np.float32]


def layers(seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {"wide": random.normal(size=(5, 40)).astype(np.float32), "narrow": random.normal(size=(7, 3)).astype(np.float32)}


def test_an_order_agrees_with_itself_and_with_all_that_grows_with_it() -> None:
    values = layers(0)
    found = agreement(order_of(values), order_of({name: np.exp(rows) for name, rows in values.items()}), k=2)
    for part in (found["total"], *found["layers"].values()):
        assert part["correlation"] == pytest.approx(1) and part["correlation_in_neuron"] == pytest.approx(1)
        assert part["top"] == part["neuron_top"] == 1
    assert found["curve"] == sorted(found["curve"]) and len(found["curve"]) == BINS
    opposite = agreement(order_of(values), order_of({name: -rows for name, rows in values.items()}))
    assert opposite["total"]["correlation"] == pytest.approx(-1) and opposite["total"]["neuron_top"] == 0


def test_rank_correlations_are_scipys_with_ties_and_without() -> None:
    first, second = layers(1), {name: np.round(rows, 1) for name, rows in layers(2).items()}
    found = agreement(order_of(first), order_of(second))
    flat = [np.concatenate([rows.ravel() for rows in values.values()]) for values in (first, second)]
    assert found["total"]["correlation"] == pytest.approx(spearmanr(*flat).statistic)
    wide = spearmanr(first["wide"].ravel(), second["wide"].ravel()).statistic
    assert found["layers"]["wide"]["correlation"] == pytest.approx(wide)
    rows = [spearmanr(a, b).statistic for name in first for a, b in zip(first[name], second[name], strict=True)]
    assert found["total"]["correlation_in_neuron"] == pytest.approx(np.mean(rows))


def test_the_best_of_both_are_counted_as_by_hand() -> None:
    first, second, k = layers(3), layers(4), 2
    found = agreement(order_of(first), order_of(second), k)

    def best(row: Array, size: int) -> set[int]:
        return set(sorted(range(row.size), key=lambda index: -row[index])[:size])

    for name in first:
        shared = [len(best(a, k) & best(b, k)) / k for a, b in zip(first[name], second[name], strict=True)]
        assert found["layers"][name]["neuron_top"] == pytest.approx(np.mean(shared))
        size = k * len(first[name])
        common = best(first[name].ravel(), size) & best(second[name].ravel(), size)
        assert found["layers"][name]["top"] == pytest.approx(len(common) / size)
        assert found["layers"][name]["top_chance"] == pytest.approx(size / first[name].size)
    assert found["total"]["neuron_top_chance"] == pytest.approx((5 * 2 / 40 + 7 * 2 / 3) / 12)


def test_what_is_all_ties_has_no_correlation_and_leaves_the_mean_over_neurons_alone() -> None:
    first, second = layers(5), layers(6)
    second["wide"][0] = 0
    found = agreement(order_of(first), order_of(second))["layers"]["wide"]
    rows = [spearmanr(a, b).statistic for a, b in zip(first["wide"][1:], second["wide"][1:], strict=True)]
    assert found["correlation_in_neuron"] == pytest.approx(np.mean(rows))
    flat = agreement(order_of(first), order_of({name: np.zeros_like(rows) for name, rows in first.items()}))["total"]
    assert flat["correlation"] is None and flat["correlation_in_neuron"] is None


def test_the_mean_of_agreements_is_taken_number_by_number() -> None:
    first, other = (agreement(order_of(layers(seed)), order_of(layers(7))) for seed in (8, 9))
    mean = mean_of([first, other])
    assert mean["total"]["top"] == pytest.approx((first["total"]["top"] + other["total"]["top"]) / 2)
    assert mean["total"]["neurons"] == 12 and mean["curve"][0] == pytest.approx((first["curve"][0] + other["curve"][0]) / 2)
    first["total"]["correlation"] = None
    assert mean_of([first, other])["total"]["correlation"] is None
