"""A classifier of ImageNet on ImageNet-A, -R and -C."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from gps_seg.commands.train import train
from gps_seg.config import RunConfig
from gps_seg.errors import ConfigError, DataError
from gps_seg.models.classifiers import load_backbone
from gps_seg.runs.task_model import TaskModel, make_task
from gps_seg.tasks.classification import shifted_scores
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.shifted import ALEXNET_ERRORS, RobustSet
from gps_seg.tasks.classification.shifted_scores import accuracy_among, find_robustness, score_robustness
from gps_seg.tasks.task import Predict
from support.settings import classification

WNIDS = [f"n{number:08d}" for number in range(1000)]


def config(root: Path, *sets: str) -> RunConfig:
    return classification(None, ["data.name=imagenet", f"data.root={root}", "data.protocol=final", "model.name=tiny",
                                    "data.check_counts=false", f"data.robustness=[{','.join(sets)}]", "model.input_size=64"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for wnid in WNIDS:
            (tmp_path / "imagenet" / part / wnid).mkdir(parents=True)
    for wnid in WNIDS[::5]:
        (tmp_path / "imagenet-a" / wnid).mkdir(parents=True)
        Image.new("RGB", (8, 8), (90, 60, 30)).save(tmp_path / "imagenet-a" / wnid / "0.png")
    (tmp_path / "imagenet_c").mkdir()
    return tmp_path / "imagenet"


def predicting(root: Path, model: nn.Module) -> Predict:
    return TaskModel(make_task(config(root)), model, tuple(WNIDS), torch.device("cpu"), "fp32").predict


def test_a_subset_is_scored_over_its_own_classes_and_corruptions_by_their_mean_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_backbone("tiny", classes=1000).eval()
    with torch.no_grad():
        model.head.bias[0] += 10  # of the subset
        model.head.bias[1] += 20  # a class that the subset lacks
    scored = score_robustness(config(root, "imagenet_a").data, predicting(root, model))
    assert scored == {"imagenet_a": {"score": 1 / 200, "what": "accuracy"}}
    seen: list[tuple[str, int]] = []

    def load(name: str, *_: object, corruption: str, severity: int, **__: object) -> RobustSet:
        seen.append((corruption, severity))
        return RobustSet((Item(root, 0, "0"),), (0,), ("n",))

    monkeypatch.setattr(shifted_scores, "load_robustness", load)
    monkeypatch.setattr(shifted_scores, "accuracy_among", lambda *_: 1 - ALEXNET_ERRORS[seen[-1][0]])
    scored = score_robustness(config(root, "imagenet_c").data, predicting(root, model))
    assert scored["imagenet_c"]["score"] == pytest.approx(1) and len(seen) == 15 * 5


def test_only_the_outputs_asked_for_are_predicted(root: Path) -> None:
    images = [Item(root.parent / "imagenet-a" / wnid / "0.png", 5 * number, wnid) for number, wnid in enumerate(WNIDS[:10:5])]
    model = load_backbone("tiny", classes=1000).eval()
    assert accuracy_among(images, [5], predicting(root, model)) == 0.5


def test_sets_that_are_not_there_or_do_not_fit_stop_the_run_before_it_trains(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imagenet_r: expected its folder at .*imagenet-r, found none; get it: https"):
        find_robustness(config(root, "imagenet_r").data)
    settings = classification(None, ["data.name=digits", "model.name=tiny", "data.robustness=[imagenet_a]"])
    with pytest.raises(ConfigError, match="data.robustness: expected data.name=imagenet, .* got digits"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
