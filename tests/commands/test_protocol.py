"""The released code's protocol can be run, and cannot be mistaken for an honest one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from gps_seg.commands.compare.settings import load_comparison
from gps_seg.commands.train import train
from gps_seg.config import load_config
from gps_seg.data.maps import Prediction
from gps_seg.metrics.measures import parse_blocks, score_blocks
from gps_seg.metrics.report import gps_legacy, report
from gps_seg.metrics.tables import table
from gps_seg.tasks.segmentation.parts import load_splits

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_released_scorer_calls_an_all_foreground_mask_perfect() -> None:
    assert gps_legacy(1.0)["dice"] == gps_legacy(1.0)["iou"] == 1.0
    assert gps_legacy(0.5)["dice"] == pytest.approx(2 / 3)


def test_the_released_scorer_can_be_asked_for_beside_ours_and_drops_the_background() -> None:
    """Against its own steps by hand: pixels whose target is 0 are left out, then areas are pooled over all images."""
    draw = np.random.default_rng(0)
    pairs = [(draw.random((20, 30), np.float32), draw.random((20, 30)) > 0.7) for _ in range(3)]
    blocks = parse_blocks("per_image,gps_legacy")
    found = report([score_blocks(str(at), Prediction(probability), target, blocks)
                    for at, (probability, target) in enumerate(pairs)], settings={})
    probability, truth = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    predicted, target = probability[truth] > 0.5, truth[truth]
    both = (predicted & target).sum()
    assert found["gps_legacy"]["iou"] == pytest.approx(both / (predicted | target).sum())
    assert found["gps_legacy"]["dice"] == pytest.approx(2 * both / (predicted.sum() + target.sum()))
    assert found["gps_legacy"]["dice"] > found["dataset"]["dice"] and "never compare" in table(found)
    assert "gps_legacy" not in parse_blocks("all")


def test_the_released_protocol_trains_selects_and_chooses_on_the_test_images_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))
    config = load_config(None, ["model.name=tiny", "data.name=phantom", "data.phantom_images=12", "data.protocol=released",
                                "train.max_steps=2", "train.batch_size=2", "evaluate.overlays=0", "selection.max_images=1"])
    splits = load_splits(config.data)
    assert set(splits.test) <= set(splits.train) and splits.inner == splits.test
    said: list[str] = []
    document = train(config, tmp_path / "run", say=said.append)
    assert any("selects and trains on the test images" in line for line in said)
    assert document["settings"]["data_protocol"] == "released"
    assert document["gps_legacy"]["iou"] == document["dataset"]["recall"]
    assert any("the released scorer would say mDice" in line and "never compare" in line for line in said)
    honest = load_config(None, ["data.name=phantom", "data.phantom_images=12"])
    assert not set(load_splits(honest.data).test) & set(load_splits(honest.data).train)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_accepted(path: Path) -> None:
    if "base" in yaml.safe_load(path.read_text()):
        load_comparison(path)
    else:
        load_config(path)
