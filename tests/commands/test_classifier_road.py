"""What segmentation could always do, a classifier does by the same road: evaluate, predict, export, info, workers, validation."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from gps_seg import Predictor
from gps_seg.cli import app
from gps_seg.commands.evaluate import Wanted, evaluate_run
from gps_seg.commands.info import describe_run
from gps_seg.commands.predict import find_images, predict_files
from gps_seg.commands.predict_kinds import Wanted as PredictWanted
from gps_seg.commands.train import train
from gps_seg.data.images import write_image
from gps_seg.errors import ConfigError, DataError
from gps_seg.models.weights import read_state
from gps_seg.runs.load import load_run
from gps_seg.runs.log import read_log
from support.settings import classification, silent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve bright and twelve dark pictures, told apart by anything that learns."""
    root, chance = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for name, low in (("bright", 180), ("dark", 10)):
        for number in range(12):
            write_image(root / name / f"{name}{number}.png", chance.integers(low, low + 60, (40, 40, 3), dtype=np.uint8))
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = ["data.name=folder", f"data.root={folder}", "data.protocol=honest", "data.workers=1", "data.inner_images=2",
                "model.name=tiny_lite", "model.input_size=64", "train.max_steps=6", "train.validate_every=2", "train.lr=1e-2",
                "train.batch_size=6", "train.warmup=0", "selection.batch_size=6", "train.precision=fp32", "device=cpu"]
    train(classification(None, settings), out, say=silent)
    return out


def test_a_run_validates_as_often_as_asked_on_a_fixed_part_and_reads_the_test_part_once(run: Path) -> None:
    scores = {row["step"]: row["validation_accuracy"] for row in read_log(run) if "validation_accuracy" in row}
    assert list(scores) == [2, 4, 6] and all(score in (0, 0.5, 1) for score in scores.values())
    document = json.loads((run / "result.json").read_text())
    assert (document["part"], document["n"], document["settings"]["data_protocol"]) == ("test", 4, "honest")


def test_evaluating_again_gives_the_runs_own_numbers_and_says_what_was_trained_on(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    document = json.loads((run / "result.json").read_text())
    again = evaluate_run(run, device="cpu", wanted=Wanted(json=tmp_path / "e.json", csv=tmp_path / "e.csv"))
    assert again["images"] == document["images"] and again["settings"]["images_trained_on"] == 0
    assert json.loads((tmp_path / "e.json").read_text())["accuracy"] == again["accuracy"]
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == [image["id"] for image in again["images"]]
    whole = evaluate_run(run, data=str(folder), device="cpu")
    assert whole["n"] == 24 and whole["settings"]["images_trained_on"] == 20
    with pytest.raises(DataError, match=r"expected the model's 2 classes \(bright, dark\), found 10"):
        evaluate_run(run, data="digits", device="cpu")
    with pytest.raises(ConfigError, match="--threshold, --prompt, --plots: only masks have it"):
        evaluate_run(run, threshold=0.3, prompt="clicks", device="cpu", wanted=Wanted(plots=tmp_path))


def test_images_without_labels_get_a_class_each(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["predict", str(run), str(folder / "bright"), "--out", str(tmp_path / "p"), "--device", "cpu"], standalone_mode=False)
    assert "12 of 12 images predicted" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "p" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 12 and {row["class"] for row in rows} <= {"bright", "dark"}
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    with pytest.raises(DataError, match="already holds 1 of these predictions"):
        app(["predict", str(run), str(folder / "dark"), "--out", str(tmp_path / "p"), "--device", "cpu"], standalone_mode=False)


def test_classes_of_images_go_on_after_a_kill(run: Path, folder: Path, tmp_path: Path) -> None:
    loaded, images = load_run(run, device="cpu"), find_images([folder / "bright"])
    list(predict_files(loaded, images, tmp_path / "whole"))
    list(islice(predict_files(loaded, images, tmp_path / "broken"), 5))
    again = list(predict_files(loaded, images, tmp_path / "broken", PredictWanted(resume=True)))
    assert [answer.earlier for answer in again] == [True] * 5 + [False] * 7
    whole, broken = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def test_a_predictor_of_masks_refuses_a_classifier(run: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run of segmentation, the one in .* is of classification"):
        Predictor.from_pretrained(run, device="cpu")


def test_a_classifier_is_exported_and_described(run: Path, tmp_path: Path) -> None:
    app(["export", str(run), "--merged", str(tmp_path / "m.safetensors")], standalone_mode=False)
    merged, model = read_state(tmp_path / "m.safetensors"), load_run(run, device="cpu").attached.merge()
    assert all((merged[name] == value).all() for name, value in model.state_dict().items())
    assert "gps on tiny_lite" in describe_run(run) and describe_run(run).splitlines()[-1].startswith("accuracy ")
