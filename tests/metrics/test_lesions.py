"""Polyps one by one and frames without any, by hand-drawn scenes, scipy's labels and algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from gps_seg.metrics.lesions import auroc, compare, components, summarise_negatives, summarise_polyps

Mask = NDArray[np.bool_]
masks = arrays(np.bool_, (8, 9))


def scene(*boxes: tuple[int, int, int, int], size: int = 100) -> Mask:
    mask = np.zeros((size, size), np.bool_)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


EMPTY = scene()


@given(masks)
def test_polyps_are_the_eight_connected_components_of_scipy(mask: Mask) -> None:
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    found = components(mask)
    assert found.areas.size == number
    assert sorted(found.areas) == sorted(np.bincount(labels.ravel())[1:])
    np.testing.assert_array_equal(found.labels > 0, mask)


@given(masks, masks)
def test_found_missed_and_false_polyps_add_up(predicted: Mask, target: Mask) -> None:
    found = compare(predicted, target)
    assert len(found.areas) == len(found.found) == len(found.centred) == components(target).areas.size
    assert found.predicted - found.false == sum(found.found)
    assert sum(found.areas) == pytest.approx(target.mean()) and found.predicted_fraction == pytest.approx(predicted.mean())
    mirrored = compare(predicted[:, ::-1], target[:, ::-1])
    assert (sum(mirrored.found), mirrored.false, mirrored.predicted) == (sum(found.found), found.false, found.predicted)


@given(masks)
def test_a_prediction_equal_to_the_target_finds_everything(mask: Mask) -> None:
    found = compare(mask, mask)
    assert all(found.found) and found.false == 0 and found.empty == (not mask.any())


def test_one_of_two_polyps_found_and_one_false_alarm() -> None:
    target = scene((10, 30, 10, 30), (60, 80, 60, 80))
    predicted = scene((12, 30, 10, 30), (5, 12, 80, 90))
    found = compare(predicted, target)
    assert found.found == (True, False) and found.centred == (True, False)
    assert found.predicted == 2 and found.false == 1 and found.false_centre == 1
    assert found.areas == (0.04, 0.04)


def test_overlap_of_exactly_one_half_counts_and_just_below_does_not() -> None:
    target = scene((0, 20, 0, 20))
    assert compare(scene((0, 20, 0, 10)), target).found == (True,)
    assert compare(scene((0, 19, 0, 10)), target).found == (False,)
    assert compare(scene((0, 19, 0, 10)), target).centred == (True,)


def test_two_halves_of_one_polyp_are_one_find_and_one_false_alarm() -> None:
    target = scene((0, 20, 0, 21))
    target[:, 10] = False
    target[0:20, 10] = [True] + [False] * 19  # a bridge of one pixel: one polyp of 401 pixels
    found = compare(scene((0, 20, 0, 10), (0, 20, 11, 21)), target)
    assert found.predicted == 2 and found.found == (False,) and found.false == 2
    exact = scene((0, 20, 0, 20))
    split = compare(scene((0, 20, 0, 10)) | scene((1, 20, 11, 20)), exact)
    assert split.found == (True,) and split.false == 1


def test_specks_under_a_twentieth_of_a_percent_are_no_polyps() -> None:
    target = scene((10, 30, 10, 30), (90, 92, 90, 92))  # 400 and 4 of 10,000 pixels
    assert compare(target, target).areas == (0.04,)
    assert compare(scene((90, 92, 90, 92)), EMPTY).predicted == 0
    assert compare(scene((90, 91, 90, 95)), EMPTY).predicted == 1  # 5 pixels


def test_the_polyps_block_counts_by_size() -> None:
    small, large = scene((0, 10, 0, 10)), scene((0, 60, 0, 60))
    block = summarise_polyps([compare(small, small), compare(EMPTY, small), compare(large, large),
                              compare(scene((50, 60, 50, 60)), EMPTY)])
    assert block["frames"] == 4 and block["polyps"] == 3 and block["predicted"] == 3
    assert block["detection_rate"] == pytest.approx(2 / 3) and block["precision"] == pytest.approx(2 / 3)
    assert block["f1"] == pytest.approx(2 / 3) and block["false_positives_per_frame"] == 0.25
    assert block["count_error"] == 0.5
    assert block["by_size"] == {
        "under_2_percent": {"polyps": 2, "detection_rate": 0.5}, "2_to_10_percent": {"polyps": 0, "detection_rate": None},
        "10_to_30_percent": {"polyps": 0, "detection_rate": None}, "over_30_percent": {"polyps": 1, "detection_rate": 1.0},
    }


def test_nothing_anywhere_has_rates_of_none_and_never_nan() -> None:
    block = summarise_polyps([compare(EMPTY, EMPTY)])
    assert block["detection_rate"] is block["precision"] is block["f1"] is block["detection_rate_centre"] is None
    assert block["false_positives_per_frame"] == block["count_error"] == 0


def test_the_negatives_block_looks_at_frames_without_a_target_only() -> None:
    polyp, speck = scene((10, 30, 10, 30)), scene((0, 1, 0, 2))
    images = [compare(EMPTY, EMPTY, confidence=0.1), compare(polyp, EMPTY, confidence=0.9), compare(speck, EMPTY, confidence=0.6),
              compare(polyp, polyp, confidence=0.7), compare(EMPTY, EMPTY, confidence=0.2)]
    block = summarise_negatives(images)
    assert block["frames"] == 4 and block["false_positive_rate"] == block["specificity"] == 0.5
    assert block["polyp_alarm_rate"] == 0.25 and block["false_positives_per_frame"] == 0.25
    assert block["area_mean"] == pytest.approx((0.04 + 0.0002) / 4) and 0 < block["area_p95"] <= 0.04
    assert "presence_auroc" not in block
    assert summarise_negatives(images, has_probabilities=True)["presence_auroc"] == 0.75
    assert summarise_negatives([compare(polyp, polyp)]) == {"frames": 0}


values = st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=12)


@given(values, values)
def test_auroc_is_the_chance_that_a_positive_ranks_above_a_negative(positives: list[float], negatives: list[float]) -> None:
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert auroc(positives, negatives) == pytest.approx(np.mean(wins))
