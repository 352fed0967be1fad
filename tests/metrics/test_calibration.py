"""Calibration in the band around lesions, against a slow version and maps whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from gps_seg.metrics.calibration import band, errors, reliability, summarise

maps = arrays(np.float32, (12, 9), elements=st.sampled_from([0, 0.05, 0.2, 0.5, 0.55, 0.8, 1]))
masks = arrays(np.bool_, (12, 9))


def square(size: int = 200) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), np.bool_)
    mask[60:140, 60:140] = True
    return mask


def test_the_band_holds_what_is_within_two_percent_of_the_diagonal_of_a_boundary() -> None:
    where = band(square(), np.zeros((200, 200), np.bool_))  # 2 % of the diagonal is 5.66 pixels
    assert where[100, 60 - 5] and not where[100, 60 - 6]
    assert where[100, 60 + 5] and not where[100, 60 + 6]
    assert not where[100, 100] and not where[0, 0]
    np.testing.assert_array_equal(where, band(np.zeros((200, 200), np.bool_), square()))
    assert not band(np.zeros((5, 5), np.bool_), np.zeros((5, 5), np.bool_)).any()


@given(maps, masks)
def test_ece_and_brier_equal_a_slow_version(probability: NDArray[np.float32], target: NDArray[np.bool_]) -> None:
    predicted = probability > 0.5
    where = band(predicted, target)
    p, y = probability[where].astype(float), target[where].astype(float)
    ece = 0.0
    for index in range(15):
        chosen = (np.minimum((p * 15).astype(int), 14)) == index
        if chosen.any():
            ece += chosen.mean() * abs(y[chosen].mean() - p[chosen].mean())
    block = summarise([reliability(probability, predicted, target)])
    assert block["ece"] == pytest.approx(ece, abs=1e-12)
    assert block["brier"] == pytest.approx(np.mean((p - y) ** 2) if p.size else 0, abs=1e-12)
    assert block["pixels"] == p.size == sum(row["pixels"] for row in block["curve"])


def test_a_calibrated_map_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    rng = np.random.default_rng(0)
    honest, sharp = [], []
    for _ in range(20):
        probability = rng.random((60, 60))
        target = rng.random((60, 60)) < probability
        honest.append(reliability(probability, probability > 0.5, target))
        sharp.append(reliability((probability > 0.5).astype(float), probability > 0.5, target))
    assert summarise(honest)["ece"] < 0.01
    assert summarise(honest)["brier"] == pytest.approx(1 / 6, abs=0.005)  # the mean of p (1 - p)
    assert summarise(sharp)["ece"] == pytest.approx(0.25, abs=0.01)
    for row in summarise(honest)["curve"]:
        assert row["from"] <= row["probability"] <= row["to"] and abs(row["frequency"] - row["probability"]) < 0.05


def test_a_perfect_sure_map_has_no_error_and_its_opposite_all_of_it() -> None:
    target = square()
    perfect = summarise([reliability(target.astype(np.float32), target, target)])
    assert perfect["ece"] == perfect["brier"] == 0
    wrong = summarise([reliability((~target).astype(np.float32), ~target, target)])
    assert wrong["ece"] == wrong["brier"] == 1


def test_images_are_pooled_by_pixel_and_frames_without_a_lesion_are_counted() -> None:
    empty = np.zeros((200, 200), np.bool_)
    images = [reliability(np.full((200, 200), 0.3), empty, empty), reliability(np.full((200, 200), 0.3), empty, square())]
    block = summarise(images)
    assert block["images_without_band"] == 1 and block["pixels"] == images[1].pixels.sum()
    assert errors(images[0].sums).tolist() == [0, 0]
    np.testing.assert_allclose(errors(np.stack([image.sums for image in images]).sum(axis=0)), [block["ece"], block["brier"]])
