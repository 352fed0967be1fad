"""Metrics against slow sets, MONAI and algebra; the empty-mask convention; impossible pairs refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from gps_seg.errors import DataError, GpsSegError
from gps_seg.metrics.masks import (
    METRICS,
    Counts,
    aggregate,
    check_consistent,
    count,
    dice,
    f2,
    iou,
    precision,
    recall,
    score_image,
    specificity,
)

Mask = NDArray[np.bool_]
masks = arrays(np.bool_, (5, 7))


@given(masks, masks)
def test_counts_and_scores_equal_a_slow_version_with_sets(predicted: Mask, target: Mask) -> None:
    p = {place for place in np.ndindex(5, 7) if predicted[place]}
    t = {place for place in np.ndindex(5, 7) if target[place]}
    counts = count(predicted, target)
    assert counts == Counts(len(p & t), len(p - t), len(t - p), 35 - len(p | t))
    if p | t:
        assert dice(counts) == pytest.approx(2 * len(p & t) / (len(p) + len(t)))
        assert iou(counts) == pytest.approx(len(p & t) / len(p | t))
        assert precision(counts) == (pytest.approx(len(p & t) / len(p)) if p else 0)
        assert recall(counts) == (pytest.approx(len(p & t) / len(t)) if t else 0)
        assert f2(counts) == pytest.approx(5 * len(p & t) / (4 * len(t) + len(p)))
    assert specificity(counts) == (pytest.approx((35 - len(p | t)) / (35 - len(t))) if len(t) < 35 else 1)


@given(masks, masks)
def test_f2_and_dice_are_the_weighted_means_of_precision_and_recall(predicted: Mask, target: Mask) -> None:
    counts = count(predicted, target)
    p, r = precision(counts), recall(counts)
    if counts.tp:
        assert f2(counts) == pytest.approx(5 * p * r / (4 * p + r))
        assert dice(counts) == pytest.approx(2 * p * r / (p + r))
    assert all(0 <= metric(counts) <= 1 for metric in METRICS.values())


@given(masks)
def test_growing_a_perfect_prediction_lowers_every_overlap(target: Mask) -> None:
    from scipy.ndimage import binary_dilation

    grown = binary_dilation(target)
    perfect, larger = score_image("a", target, target), score_image("a", grown, target)
    if target.any() and grown.sum() > target.sum():
        assert larger.dice < perfect.dice and larger.iou < perfect.iou and larger.f2 < perfect.f2
        assert larger.recall == 1 and larger.specificity < 1


@given(masks, masks, st.permutations(range(35)))
def test_scores_do_not_depend_on_where_pixels_are(predicted: Mask, target: Mask, order: list[int]) -> None:
    shuffled = score_image("a", predicted.flatten()[order].reshape(5, 7), target.flatten()[order].reshape(5, 7))
    assert shuffled == score_image("a", predicted, target) == score_image("a", predicted[:, ::-1], target[:, ::-1])


@given(masks, masks)
def test_iou_and_dice_of_one_image_determine_each_other(predicted: Mask, target: Mask) -> None:
    counts = count(predicted, target)
    assert iou(counts) == pytest.approx(dice(counts) / (2 - dice(counts)))


@given(st.lists(st.tuples(masks, masks), min_size=1, max_size=6))
def test_every_real_set_of_masks_passes_the_consistency_check(pairs: list[tuple[Mask, Mask]]) -> None:
    found = aggregate([score_image(str(i), p, t) for i, (p, t) in enumerate(pairs)])
    for name in ("per_image", "dataset"):
        d = found[name]["dice"]
        assert d / (2 - d) - 1e-9 <= found[name]["iou"] <= d + 1e-9


def test_an_all_foreground_prediction_scores_its_true_dice_not_one() -> None:
    target = np.zeros((100, 100), np.bool_)
    target[30:55, 30:70] = True  # a tenth of the area: the released GPS scorer gives 1.0 here
    score = score_image("a", np.ones_like(target), target)
    assert score.dice == pytest.approx(2 * 0.1 / 1.1) and score.iou == pytest.approx(0.1)
    assert score.recall == 1 and score.precision == pytest.approx(0.1)


@pytest.mark.parametrize(("predicted", "target", "value"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)])
def test_the_empty_mask_convention(predicted: int, target: int, value: float) -> None:
    score = score_image("a", np.full((3, 3), bool(predicted)), np.full((3, 3), bool(target)))
    assert (score.dice, score.iou, score.precision, score.recall, score.f2) == (value,) * 5
    assert score.specificity == (0.0 if predicted and not target else 1.0)


def test_monai_agrees_image_by_image() -> None:
    from gps_seg.packages import import_torchvision

    import_torchvision()
    import torch
    from monai.metrics import compute_dice, compute_iou

    rng = np.random.default_rng(0)
    predicted, target = (rng.random((50, 1, 16, 16)) < rng.random((50, 1, 1, 1)) for _ in range(2))
    scores = [score_image(str(i), predicted[i, 0], target[i, 0]) for i in range(50)]
    p, t = torch.from_numpy(predicted).float(), torch.from_numpy(target).float()
    np.testing.assert_allclose([s.dice for s in scores], compute_dice(p, t, ignore_empty=False).flatten(), rtol=1e-6)
    np.testing.assert_allclose([s.iou for s in scores], compute_iou(p, t, ignore_empty=False).flatten(), rtol=1e-6)


def test_the_two_aggregations_differ_and_are_named() -> None:
    small, large = np.zeros((10, 10), np.bool_), np.ones((10, 10), np.bool_)
    small[0, 0] = True
    found = aggregate([score_image("missed", np.zeros_like(small), small), score_image("hit", large, large)])
    assert found["n"] == 2
    assert found["per_image"]["dice"] == 0.5
    assert found["dataset"]["dice"] == pytest.approx(200 / 201)
    assert found["per_image"]["iou_below_half"] == 0.5


def test_the_published_pair_of_the_gps_paper_is_refused() -> None:
    with pytest.raises(GpsSegError, match=r"mean Dice 0\.8810 needs a mean IoU of at least 0\.7873, got 0\.7250"):
        check_consistent(0.881, 0.725)
    with pytest.raises(GpsSegError, match="above mean Dice"):
        check_consistent(0.8, 0.9)
    check_consistent(0.881, 0.80)


def test_wrong_input_is_explained() -> None:
    with pytest.raises(DataError, match="polyp_7: predicted mask is 3 x 4 pixels, target 4 x 3"):
        score_image("polyp_7", np.zeros((3, 4), np.bool_), np.zeros((4, 3), np.bool_))
    with pytest.raises(DataError, match="expected bool masks, got uint8 and bool"):
        count(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.bool_))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one scored image"):
        aggregate([])
