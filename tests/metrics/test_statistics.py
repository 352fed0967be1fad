"""Intervals that cover, tests that agree with scipy, and corrections by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gps_seg.errors import DataError
from gps_seg.metrics.paired import compare_values
from gps_seg.metrics.statistics import holm, interval, joint, mean_interval, resample, wilcoxon

few = st.lists(st.floats(0, 1), min_size=2, max_size=20)


def test_the_interval_of_the_mean_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [low <= 0.8 <= high for low, high in
               (mean_interval(rng.beta(8, 2, 80), resamples=600, seed=number) for number in range(500))]
    assert 0.915 <= np.mean(covered) <= 0.975


def test_drawing_groups_covers_where_drawing_their_images_does_not() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    plain, grouped = [], []
    for number in range(300):
        values = np.repeat(rng.normal(0, 1, 40), 5) + rng.normal(0, 0.3, 200)
        for found, names in ((plain, None), (grouped, groups.tolist())):
            low, high = mean_interval(values, names, resamples=400, seed=number)
            found.append(low <= 0 <= high)
    assert np.mean(grouped) > 0.89 and np.mean(plain) < 0.75


def test_scipys_bootstrap_agrees() -> None:
    values = np.random.default_rng(2).beta(5, 1, 100)
    other = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    np.testing.assert_allclose(mean_interval(values), other.confidence_interval, atol=0.002)


@given(few, st.integers(0, 5))
def test_an_interval_lies_within_the_values_and_repeats(values: list[float], seed: int) -> None:
    low, high = mean_interval(values, resamples=50, seed=seed)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert (low, high) == mean_interval(values, resamples=50, seed=seed)


@given(few)
def test_every_image_its_own_group_is_the_same_as_no_groups(values: list[float]) -> None:
    names = [f"image {number}" for number in range(len(values))]
    assert mean_interval(values, names, resamples=40) == mean_interval(values, resamples=40)


def test_sums_of_resamples_hold_as_many_images_as_were_drawn() -> None:
    sums = resample(np.ones((7, 2)), list("aabbbcd"), resamples=200)
    assert sums.shape == (200, 2) and np.all(sums[:, 0] == sums[:, 1])
    assert sums[:, 0].min() >= 4 and sums[:, 0].max() <= 12
    assert np.all(resample(np.ones((7, 1)), resamples=200) == 7)
    assert resample(np.ones((3000, 1)), resamples=1500).shape == (1500, 1)  # more than one chunk


def test_a_wrong_number_of_groups_is_refused() -> None:
    with pytest.raises(DataError, match="expected one group for each of 3 images, got 2"):
        mean_interval([0.1, 0.2, 0.3], ["a", "b"])


def compare(a: Any, b: Any, **more: Any) -> SimpleNamespace:
    """The one pair of a comparison of two methods; scores (n,) or (seeds, n)."""
    values = {"a": np.atleast_2d(np.asarray(a, float)), "b": np.atleast_2d(np.asarray(b, float))}
    return SimpleNamespace(**compare_values(values, [str(number) for number in range(values["a"].shape[1])], **more)["pairs"][0])


def test_identical_methods_have_p_of_one_and_no_difference() -> None:
    scores = np.random.default_rng(3).random(30)
    found = compare(scores, scores)
    assert (found.difference, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)


@given(st.lists(st.sampled_from([-0.3, -0.1, 0.0, 0.1, 0.2, 0.4]), min_size=14, max_size=40).filter(any))
def test_wilcoxon_is_scipys_with_pratts_zeros_and_changes_sign_with_the_order(values: list[float]) -> None:
    p, effect = wilcoxon(values)
    assert p == pytest.approx(stats.wilcoxon(values, zero_method="pratt").pvalue)
    assert wilcoxon([-value for value in values]) == (pytest.approx(p), pytest.approx(-effect))
    assert -1 <= effect <= 1


def test_a_method_better_on_every_image_has_an_effect_of_one() -> None:
    b = np.random.default_rng(4).random(20)
    found = compare(b + 0.1, b)
    assert found.effect == 1 and found.p < 0.001 and found.low == pytest.approx(0.1) == found.high
    assert compare(b, b + 0.1).effect == -1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True)) and max(adjusted) <= 1
    assert sorted(range(len(p_values)), key=lambda i: (p_values[i], adjusted[i])) == sorted(
        range(len(p_values)), key=lambda i: (adjusted[i], p_values[i]))


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    images = rng.normal(0.8, 0.1, 60)
    agreeing = np.stack([images + rng.normal(0, 0.01, 60) for _ in range(3)])
    disagreeing = agreeing + np.array([[-0.1], [0.0], [0.1]])
    narrow, wide = (interval(joint([scores], resamples=2000)[0]) for scores in (agreeing, disagreeing))
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert narrow[0] < agreeing.mean() < narrow[1]


def test_one_seed_is_the_plain_bootstrap_and_shared_images_cancel_in_a_difference() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random(50)
    low, high = interval(joint([scores[None]])[0])
    np.testing.assert_allclose((low, high), mean_interval(scores), atol=0.004)
    found = compare(np.stack([scores + 0.02, scores + 0.04]), scores[None])
    assert found.difference == pytest.approx(0.03) and found.low == pytest.approx(0.02) and found.high == pytest.approx(0.04)


def test_the_hierarchical_interval_covers() -> None:
    rng, covered = np.random.default_rng(7), []
    for number in range(200):
        scores = rng.normal(0, 0.5, 40) + rng.normal(0, 0.2, (8, 1)) + rng.normal(0, 0.1, (8, 40))
        low, high = interval(joint([scores], resamples=400, seed=number)[0])
        covered.append(low <= 0 <= high)
    assert 0.86 <= np.mean(covered) <= 0.99


def test_scores_of_different_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"b: expected numbers of 3 images for each seed, got the shape \(1, 2\)"):
        compare([0.1, 0.2, 0.3], [0.1, 0.2])


@pytest.mark.parametrize("seeds", [3, 7])
def test_a_method_against_itself_in_another_order_of_seeds_does_not_differ(seeds: int) -> None:
    """Sums of the same numbers in another order differ in their last bits; ranks must not see that."""
    chance = np.random.default_rng(0)
    for _ in range(30):
        scores = chance.random((seeds, 120))
        found = compare(scores, scores[chance.permutation(seeds)], resamples=50)
        assert (found.p, found.effect) == (1.0, 0.0)


def test_means_of_seeds_tie_as_their_sums_do() -> None:
    chance = np.random.default_rng(1)
    for _ in range(10):
        a, b = chance.integers(0, 2, (2, 3, 200))
        expected = stats.wilcoxon(a.sum(axis=0) - b.sum(axis=0), zero_method="pratt").pvalue
        assert compare(a, b, resamples=50).p == pytest.approx(expected, rel=1e-9)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="finite"):
        compare([0.5, np.nan], [0.4, 0.4], resamples=50)
