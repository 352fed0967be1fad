"""What the app's encoder and precision cost against the model as it was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg_app.benchmarks.accuracy import benchmark, measure


def test_both_answers_are_scored_on_the_same_images(tmp_path: Path, trained: Callable[..., Path]) -> None:
    run = trained()
    shown = benchmark(run, device="cpu", json_path=tmp_path / "accuracy.json")
    document = json.loads((tmp_path / "accuracy.json").read_text())
    assert document["images"] > 0 and document["data"] == "phantom" and document["versions"]["torch"]
    assert document["dice_app"] == pytest.approx(document["dice_as_trained"], abs=0.02)
    assert document["dice_to_each_other"] > 0.97 and document["largest_change"] < 0.1 and document["times_as_fast"] > 0
    assert f"Dice {document['dice_app']:.4f}" in shown


def test_a_difference_between_the_two_is_seen(tmp_path: Path) -> None:
    from gps_seg.data.images import write_image, write_mask

    target = np.zeros((20, 20), np.bool_)
    target[5:15, 5:15] = True
    write_image(tmp_path / "image.png", np.zeros((20, 20, 3), np.uint8))
    write_mask(tmp_path / "mask.png", target)
    half = target & (np.arange(20) < 10)
    found = measure([Pair("one", tmp_path / "image.png", tmp_path / "mask.png")], lambda _: target, lambda _: half)
    assert found["dice_as_trained"] == 1 and found["dice_app"] == pytest.approx(2 / 3)
    assert found["largest_change"] == pytest.approx(1 / 3) and found["dice_to_each_other"] == pytest.approx(2 / 3)


def test_the_smaller_input_is_scored_beside_the_app(tmp_path: Path, trained: Callable[..., Path]) -> None:
    shown = benchmark(trained(), device="cpu", fast=True, json_path=tmp_path / "accuracy.json")
    document = json.loads((tmp_path / "accuracy.json").read_text())
    fast = document["fast"]
    assert fast["input_size"] == document["input_size"] * 3 // 4 and fast["dice_to_each_other"] < 1
    assert document["dice_app"] == pytest.approx(document["dice_as_trained"], abs=0.02)
    assert f"Dice {fast['dice_app']:.4f}" in shown and "--fast" in shown
