"""The quality as a presence score, end to end: trained, chosen by calibrate, used by evaluate and predict, or trained last."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_seg.commands.calibrate import PASTES, calibrate
from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.predict import find_images, predict_files
from gps_seg.commands.predict_kinds import PRESENCE_FILE, Wanted
from gps_seg.data.images import read_mask
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files.tensors import read_tensors
from gps_seg.runs.calibration import CALIBRATION_FILE, describe, read_calibration
from gps_seg.runs.load import load_run, with_presence
from gps_seg.runs.quality import train_quality
from gps_seg.tasks.segmentation.negatives import load_negatives
from gps_seg.tasks.segmentation.phantom import phantom_folder
from support.commands import gps_seg
from support.settings import silent

NEGATIVES = ("data.negatives=phantom", "data.negative_phantoms=10")
HEAD = "mask_decoder.iou_prediction_head."


@pytest.fixture
def run(tmp_path: Path, trained: Callable[..., Path]) -> Path:
    """A run whose quality head was trained with it."""
    return shutil.copytree(trained("train.quality=true", *NEGATIVES, "train.max_steps=6"), tmp_path / "run")


@pytest.fixture
def plain(tmp_path: Path, trained: Callable[..., Path]) -> Path:
    """A run like those made before there was a quality to train."""
    return shutil.copytree(trained("selection.head=select"), tmp_path / "plain")


def test_calibrate_chooses_the_presence_on_inner_images_and_held_negatives_and_evaluate_uses_it(run: Path) -> None:
    frames = str(phantom_folder(12))
    before = evaluate_run(run, data=frames, device="cpu")
    assert before["settings"]["presence"] is None and before["negatives"]["frames"]
    found = calibrate(run, device="cpu")
    assert found == read_calibration(run) and found.presence is not None and found.without is not None and found.without >= 2
    assert f"no polyp below a quality of {found.presence:.3f}" in describe(found)
    after = evaluate_run(run, data=frames, device="cpu")
    assert after["settings"]["presence"] == found.presence
    for old, new in zip(before["images"], after["images"], strict=True):
        assert new["presence"] == old["presence"]
        assert (new["tp"] + new["fp"] == 0) if new["presence"] < found.presence else (new["dice"] == old["dice"])
    quality = [name for name in after["negatives"] if name.endswith("auroc") or "sensitivity" in name]
    assert len(quality) == 9  # of what was seen, not of what was cut
    assert all(after["negatives"][name] == before["negatives"][name] for name in quality)


def test_frames_with_pasted_polyps_and_decoys_choose_the_presence_too(run: Path) -> None:
    loaded = load_run(run, device="cpu")
    task: Any = loaded.task
    inner, held = task.items(None, "inner", ()), load_negatives(task.data).held
    own_empty = sum(not read_mask(pair.mask).any() for pair in inner)
    found = calibrate(run, device="cpu")
    assert found.without is not None and own_empty + len(held) < found.without <= own_empty + (1 + PASTES) * len(held)
    assert calibrate(run, device="cpu") == found


def test_a_presence_can_be_given_and_0_and_1_are_all_and_nothing(run: Path) -> None:
    calibrate(run, device="cpu")
    frames = str(phantom_folder(12))
    assert evaluate_run(run, data=frames, presence=0.0, device="cpu")["settings"]["presence"] == 0
    none = evaluate_run(run, data=frames, presence=1.0, device="cpu")
    assert not any(row["tp"] + row["fp"] for row in none["images"] if row["presence"] < 1)
    assert with_presence(load_run(run, device="cpu"), 0.3).task.evaluate.presence == 0.3  # type: ignore[attr-defined]


def test_a_presence_of_the_settings_goes_before_the_calibrations(tmp_path: Path, trained: Callable[..., Path]) -> None:
    own = shutil.copytree(trained("train.quality=true", *NEGATIVES, "evaluate.presence=0.75"), tmp_path / "own")
    calibrate(own, device="cpu")
    assert load_run(own, device="cpu").presence == 0.75


def test_predict_leaves_empty_masks_below_it_and_a_table(run: Path, tmp_path: Path) -> None:
    images = find_images([phantom_folder(12)])[:4]
    loaded = load_run(run, device="cpu")
    shown = {}
    for name, presence in (("all", 0.0), ("none", 1.0)):
        answers = list(predict_files(with_presence(loaded, presence), images, tmp_path / name, Wanted(overlays=False)))
        rows = list(csv.DictReader((tmp_path / name / PRESENCE_FILE).read_text().splitlines()))
        assert [row["file"] for row in rows] == [path.name for path in images] and len(answers) == 4
        assert all(0 <= float(row["presence"]) <= 1 for row in rows)
        shown[name] = [read_mask(tmp_path / name / f"{path.stem}.png").mean() for path in images]
        assert [row["answer"] for row in rows] == ["polyp" if part else "none" for part in shown[name]]
        assert [float(row["area"]) for row in rows] == pytest.approx(shown[name], abs=1e-4)
    refused = [float(row["presence"]) < 1 for row in rows]
    assert not any(part for part, no in zip(shown["none"], refused, strict=True) if no) and any(refused)
    assert "no polyp: quality " in answers[refused.index(True)].text


def test_an_old_run_answers_as_before_and_has_no_presence(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    frames = str(phantom_folder(12))
    found = evaluate_run(plain, data=frames, device="cpu")
    assert "presence" not in found["settings"] and "presence" not in found["images"][0]
    assert calibrate(plain, device="cpu").presence is None and load_run(plain, device="cpu").presence is None
    again = evaluate_run(plain, data=frames, device="cpu")
    assert again["images"] == found["images"]
    few = find_images([phantom_folder(12)])[:2]
    list(predict_files(load_run(plain, device="cpu"), few, tmp_path / "p", Wanted(overlays=False)))
    assert sorted(path.suffix for path in (tmp_path / "p").iterdir()) == [".jsonl", ".png", ".png"]
    with pytest.raises(ConfigError, match="has no quality to compare with: train it with train.quality=true, or gps-seg cal"):
        evaluate_run(plain, presence=0.5, device="cpu")
    assert gps_seg(monkeypatch, "predict", plain, phantom_folder(12), "--out", tmp_path / "q", "--presence", "0.5") == 2
    assert "--presence: the run in" in capsys.readouterr().err


def test_a_damaged_presence_is_named(run: Path) -> None:
    calibrate(run, device="cpu")
    document = json.loads((run / CALIBRATION_FILE).read_text())
    for wrong in ({"presence": 1.5}, {"presence": "0.5"}, {"kept": None}):
        (run / CALIBRATION_FILE).write_text(json.dumps(document | wrong))
        with pytest.raises(CheckpointError, match=r"calibration\.json: expected a calibration"):
            read_calibration(run)
    older = {name: value for name, value in document.items() if name not in ("presence", "kept", "refused", "without")}
    (run / CALIBRATION_FILE).write_text(json.dumps(older))
    found = read_calibration(run)
    assert found is not None and found.presence is None


# Last and alone


def test_the_quality_head_of_a_finished_run_learns_and_no_mask_changes_by_a_bit(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = load_run(plain, device="cpu").task.items(None, "inner", ())
    before = [probability for _, probability in load_run(plain, device="cpu").predict(pairs)]
    delta = read_tensors(plain / "adapter_model.safetensors", "a delta")[0]
    assert not any(name.startswith(HEAD) for name in delta)
    assert gps_seg(monkeypatch, "calibrate", plain, *NEGATIVES, "train.max_steps=3", "--quality", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "quality head: " in printed and "3 steps on" in printed and "no polyp below a quality of" in printed
    run = load_run(plain, device="cpu")
    assert all(np.array_equal(old, new) for old, (_, new) in zip(before, run.predict(pairs), strict=True))
    after = read_tensors(plain / "adapter_model.safetensors", "a delta")[0]
    assert all(torch.equal(after[name], value) for name, value in delta.items())
    assert {name for name in after if name not in delta} == {name for name, _ in run.model.named_parameters()
                                                             if name.startswith(HEAD)}
    found = evaluate_run(plain, data=str(phantom_folder(12)), device="cpu")
    assert found["settings"]["negatives_trained_on"] == "phantom" and "quality_auroc" in found["negatives"]
    assert run.description["quality"]["steps"] == 3 and run.presence is not None


@pytest.mark.parametrize("settings", [("method=lora",), ("method=full",), ("selection.head=freeze",), ("train.quality=true",)])
def test_it_does_so_under_other_methods_too(settings: tuple[str, ...], tmp_path: Path, trained: Callable[..., Path]) -> None:
    folder = shutil.copytree(trained(*settings), tmp_path / "run")
    pairs = load_run(folder, device="cpu").task.items(None, "inner", ())
    before = [probability for _, probability in load_run(folder, device="cpu").predict(pairs)]
    train_quality(load_run(folder, device="cpu"), ["train.max_steps=2", *NEGATIVES], silent)
    run = load_run(folder, device="cpu")
    assert all(np.array_equal(old, new) for old, (_, new) in zip(before, run.predict(pairs), strict=True))
    base = load_run(trained(*settings), device="cpu").model
    moved = [name for name, parameter in run.model.named_parameters() if not torch.equal(parameter, base.get_parameter(name))]
    assert moved and all(name.startswith(HEAD) for name in moved)


def test_settings_that_its_training_does_not_read_are_errors(
    run: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, text in (
        ((plain, "train.epochs=3", "--quality"), "calibrate --quality: train.epochs is not read here; expected some of"),
        ((run, "data.negatives=polypgen", "--quality"), "the run has trained with the frames of phantom"),
        ((plain, "train.lr=1"), "settings are read with --quality alone"),
    ):
        assert gps_seg(monkeypatch, "calibrate", *words, "--device", "cpu") == 2
        assert text in capsys.readouterr().err


def test_a_damaged_note_of_its_training_is_named(plain: Path) -> None:
    path = plain / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quality": {"steps": 3}}))
    with pytest.raises(ConfigError, match="expected how the quality head was trained"):
        load_run(plain, device="cpu")
