"""The comparison of runtimes, with runtimes that are always there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import ConfigError
from gps_seg.models.sam_zoo import build_sam
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.benchmarks.runtimes import PACKAGES, agreement, benchmark, measure, table


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    made = []
    for number in range(2):
        pixels, mask = phantom(number, size=(90, 120))
        pair = Pair(str(number), tmp_path / f"{number}.png", tmp_path / f"{number}-mask.png")
        write_image(pair.image, pixels)
        write_mask(pair.mask, mask)
        made.append(pair)
    return made


def test_the_same_embedding_gives_the_same_masks_and_another_does_not(pairs: list[Pair]) -> None:
    model = build_sam("tiny_lite").eval()
    found = {"packaged fp32": model.encode, "again": lambda image: model.encode(image.clone()),
             "noise": lambda image: torch.randn(model.encode(image).shape)}
    with torch.inference_mode():
        alike = agreement(model, found, pairs)
        rows = measure(found, torch.zeros(2, 3, model.spec.input_size, model.spec.input_size), 2)
    assert alike["again"] == {**alike["packaged fp32"]} and alike["again"]["least_dice_to_packaged"] == 1
    assert alike["noise"]["dice_to_packaged"] < 1
    assert [row["runtime"] for row in rows] == list(found) and all(0 < row["least_seconds"] <= row["seconds"] for row in rows)
    assert "again" in table([{**row, **alike[row["runtime"]]} for row in rows])


@pytest.mark.skipif(all(importlib.util.find_spec(name) for name in PACKAGES), reason="the other runtimes are installed")
def test_a_missing_runtime_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError, match="pip install onnx"):
        benchmark("phantom", images=1, repetitions=1)
