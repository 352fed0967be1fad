"""Runs made before there was one page of settings, and runs that have moved: both load, and go on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from gps_seg.cli import app
from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.train import train
from gps_seg.config import ClassGPSConfig, LoraOptions, RunConfig, load_config, parse_config
from gps_seg.errors import CheckpointError, ConfigError, TrainingError
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.fit import Fit
from gps_seg.runs.folder import DELTA_CONFIG, DELTA_FILE, load_settings, read_config
from gps_seg.runs.load import load_run
from gps_seg.runs.old_settings import modernise
from support.settings import SETTINGS, classification, silent

OLD = Path(__file__).parent / "old"  # config.yaml of runs of version 0.1.0


def old(name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((OLD / f"{name}.yaml").read_text())
    for section, change in changes.items():
        values[section] = {**values[section], **change}
    return values


def test_the_settings_of_an_old_segmentation_run_are_read_in_todays_words() -> None:
    config = parse_config(modernise(old("segmentation", evaluate={"test": False}, selection={"lora_rank": 5})), "old")
    assert (config.task, config.method, config.selection) == ("segmentation", "lora", LoraOptions(rank=5, alpha=16))
    assert (config.data.protocol, config.train.max_steps, config.model.name) == ("tune", 20, "tiny_lite")


def test_the_settings_of_an_old_classification_run_are_read_in_todays_words() -> None:
    values = old("classification", train={"seed": 7, "epochs": 100, "warmup_epochs": 10, "cooldown_epochs": 10})
    config = parse_config(modernise(values), "old")
    assert (config.task, config.seed, config.data.protocol) == ("classification", 7, "tune")
    assert (config.train.epochs, config.train.warmup, config.train.cooldown) == (110, 10 / 110, 10 / 110)
    assert isinstance(config.selection, ClassGPSConfig) and config.selection.max_images == 160
    assert (config.selection.loss, config.selection.temperature) == ("supcon", 0.07)


@pytest.mark.parametrize("method", ["gps", "full", "head", "bitfit", "partial", "lora", "shira", "adapter", "ssf", "vpt_deep"])
def test_the_page_of_all_methods_options_becomes_the_methods_own(method: str) -> None:
    values = {**old("segmentation"), "method": method}
    assert parse_config(modernise(values), "old").method == method


@pytest.mark.parametrize(("former", "today"), [(True, "blocks"), (False, "none")])
def test_recomputed_blocks_have_another_word_today(former: bool, today: str, tmp_path: Path) -> None:
    values = old("segmentation", train={"checkpoint_blocks": former})
    assert parse_config(modernise(values), "old").train.recompute == today  # type: ignore[attr-defined]
    page = load_config(None, SETTINGS).model_dump(mode="json")
    page["train"]["checkpoint_blocks"] = former
    del page["train"]["recompute"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(page))
    expected = load_config(None, [*SETTINGS, f"train.recompute={today}"])
    assert read_config(tmp_path) == load_settings(tmp_path / "config.yaml") == expected
    with pytest.raises(ConfigError, match="'train.checkpoint_blocks': it is train.recompute: blocks where it was true"):
        load_config(None, ["train.checkpoint_blocks=true"])


SMALL = ["data.few_shot=2", "model.name=vit_tiny_patch16_224", "model.input_size=32", "train.max_steps=4", "train.batch_size=10",
         "train.precision=fp32", "selection.batch_size=10", "data.augment.min_scale=0.5"]


def in_old_words(config: RunConfig) -> dict[str, Any]:
    """What version 0.1.0 would have written for these settings, as far as they are set here."""
    new = config.model_dump(mode="json")
    train = {key: new["train"][key] for key in ("max_steps", "batch_size", "precision", "lr")}
    if config.task == "segmentation":
        data = {key: new["data"][key] for key in ("name", "phantom_images")}
        return {"model": {"name": new["model"]["name"]}, "data": data, "selection": {"max_images": 8, "lora_rank": 8},
                "train": train, "evaluate": {"overlays": new["evaluate"]["overlays"], "test": True}, "seed": 0, "device": "cpu"}
    return {"model": {key: new["model"][key] for key in ("name", "input_size")}, "selection": {"batch_size": 10},
            "data": {"name": "digits", "few_shot": 2, "augment": {"min_scale": 0.5}}, "selection_loss": {"name": "supcon"},
            "train": {**train, "epochs": 100, "warmup_epochs": 10, "cooldown_epochs": 0, "seed": 0}}


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_an_old_interrupted_run_goes_on_to_where_an_unbroken_one_ends(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, SETTINGS) if task == "segmentation" else classification(None, SMALL)
    train(config, tmp_path / "whole", say=silent)
    step, calls = Fit.step, [0]

    def killed(run: Fit, pieces: Any, number: int) -> tuple[float, float]:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, pieces, number)

    monkeypatch.setattr(Fit, "step", killed)
    with pytest.raises(TrainingError, match="interrupted at step 2 of 4"):
        train(config, tmp_path / "broken", say=silent)
    monkeypatch.setattr(Fit, "step", step)
    (tmp_path / "broken" / "config.yaml").write_text(yaml.safe_dump(in_old_words(config)))
    assert read_config(tmp_path / "broken") == config
    train(config, tmp_path / "broken", resume=True, say=silent)
    deltas = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert deltas[0] == deltas[1]


@pytest.mark.parametrize(("name", "command"), [("segmentation", "train"), ("classification", "classify")])
def test_the_command_of_then_goes_on_with_the_folder_of_then(name: str, command: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    values = old(name, train={"max_steps": 1}, data={"phantom_images": 12} if name == "segmentation" else {"few_shot": 1})
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    app([command, str(run / "config.yaml"), "--resume", "--out", str(run)], standalone_mode=False)
    assert (run / "result.json").is_file() and "task" in yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.parametrize("changes", [
    {"train": {"momentum": 0.5}}, {"data": {"name": "kvasir-seg", "phantom_images": 40}},
    {"selection": {"auto_k": [1, 2]}}, {"selection": {"preset": "official", "bias": "freeze"}},
])
def test_what_had_no_effect_then_is_no_error_now(changes: dict[str, Any]) -> None:
    values = {**old("segmentation", **changes), "method": "gps"}
    assert parse_config(modernise(values), "old").method == "gps"


# Runs that have moved


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, Path]:
    """A finished run and the base it was made on, both no longer where they were."""
    place = tmp_path_factory.mktemp("moved")
    state = build_sam("tiny", seed=5).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, place / "base.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(cache))
        config = load_config(None, [*SETTINGS, f"model.checkpoint={place / 'base.safetensors'}", "evaluate.overlays=0"])
        train(config, place / "run", say=silent)
    (place / "elsewhere").mkdir()
    shutil.move(place / "base.safetensors", place / "elsewhere" / "renamed.safetensors")
    return place / "run", place / "elsewhere" / "renamed.safetensors"


def test_a_base_that_is_nowhere_is_asked_for(moved: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"the base weights base.safetensors are not at .*with --base FILE"):
        load_run(moved[0], device="cpu")


def test_a_base_is_taken_from_where_the_user_says_it_is(moved: tuple[Path, Path]) -> None:
    run, base = moved
    assert evaluate_run(run, device="cpu", base=base)["n"] == 4
    other = base.with_name("other.safetensors")
    save_file({name: value.contiguous() for name, value in build_sam("tiny", seed=6).state_dict().items()}, other)
    with pytest.raises(CheckpointError, match="--base .*: expected the weights with sha256"):
        load_run(run, device="cpu", base=other)


@pytest.mark.parametrize("delta_alone", [False, True])
@pytest.mark.parametrize("place", ["runs/copy", "runs", "cache"])
def test_a_base_is_found_by_its_hash_in_the_run_beside_it_and_in_the_cache(
    place: str, delta_alone: bool, moved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPS_SEG_CACHE", "cache")
    for folder in ("runs/copy", "cache"):
        Path(folder).mkdir(parents=True)
    for file in (DELTA_FILE, DELTA_CONFIG) if delta_alone else os.listdir(moved[0]):
        if (moved[0] / file).is_file():
            shutil.copy(moved[0] / file, "runs/copy")
    with pytest.raises(CheckpointError, match=r"the base weights base.safetensors are not at .*with --base FILE"):
        load_run("runs/copy", device="cpu")
    shutil.copy(moved[1], Path(place) / "another_name.safetensors")
    monkeypatch.chdir(tmp_path / "runs")  # of whatever folder the path is told
    monkeypatch.setenv("GPS_SEG_CACHE", "../cache")
    assert load_run("copy", device="cpu").attached.selection.base == load_run(moved[0], base=moved[1]).attached.selection.base


def test_a_run_is_not_taken_over_by_other_settings(moved: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="is not empty: choose another --out"):
        train(load_config(None, SETTINGS), moved[0], say=silent)
