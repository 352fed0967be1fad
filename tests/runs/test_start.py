"""A run that begins where another ended, at another size, with the same selection."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.train import train
from gps_seg.config import RunConfig, load_config
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files.tensors import read_tensors
from gps_seg.runs.delta import read_delta_config
from gps_seg.runs.folder import DELTA_FILE, SELECTION_FILE
from gps_seg.runs.task_model import make_task
from gps_seg.tasks.segmentation.phantom import write_phantoms
from support.settings import silent

BASE = ["model.name=tiny", "data.name=phantom", "data.phantom_images=20", "train.batch_size=4", "train.precision=fp32",
        "evaluate.overlays=0", "device=cpu", "train.warmup=0", "train.keep=last"]


def config(*overrides: str) -> RunConfig:
    return load_config(None, [*BASE, *overrides])


@pytest.mark.parametrize("method", ["gps", "lora"])
def test_a_run_begins_with_the_selection_and_the_values_of_another_at_another_size(method: str, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(config(f"method={method}", "model.input_size=64", "train.max_steps=3"), first, say=silent)
    second = config(f"method={method}", "model.input_size=96", "train.max_steps=2", f"train.start={first}", "train.lr=1e-12")
    result = train(second, tmp_path / "second", say=silent)
    assert result["run"]["start"] == {"run": "first", "steps": 3}
    assert read_delta_config(tmp_path / "second")["model"]["input_size"] == 96
    values = [read_tensors(folder / DELTA_FILE, "a delta")[0] for folder in (first, tmp_path / "second")]
    assert values[0].keys() == values[1].keys()
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=0, atol=1e-6)
    selections = [read_tensors(folder / SELECTION_FILE, "a selection")[0] for folder in (first, tmp_path / "second")]
    assert all(torch.equal(value, selections[1][name]) for name, value in selections[0].items())
    third = config(f"method={method}", "train.max_steps=1", f"train.start={tmp_path / 'second'}")
    assert train(third, tmp_path / "third", say=silent)["run"]["start"] == {"run": "second", "steps": 5}


def test_a_run_from_another_resumes_where_it_was_killed(tmp_path: Path) -> None:
    train(config("train.max_steps=2"), tmp_path / "first", say=silent)
    settings = config("train.max_steps=4", "train.checkpoint_every=2", f"train.start={tmp_path / 'first'}")
    train(settings, tmp_path / "unbroken", say=silent)

    def stop(text: str) -> None:
        if "step 2/4" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings.model_copy(update={"train": settings.train.model_copy(update={"validate_every": 2})}), tmp_path / "killed",
              say=stop)
    resumed = settings.model_copy(update={"train": settings.train.model_copy(update={"validate_every": 2})})
    train(resumed, tmp_path / "killed", resume=True, say=silent)
    one, other = (read_tensors(tmp_path / name / DELTA_FILE, "a delta")[0] for name in ("unbroken", "killed"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    train(config("train.max_steps=1"), tmp_path / "first", say=silent)
    start = f"train.start={tmp_path / 'first'}"
    for settings, words in (((start, "method=head"), "is a run of segmentation by method gps, the settings ask for"),
                            ((start, "selection.k=2", "selection.head=freeze"), r"selection\..*k, .*: set them as they are")):
        with pytest.raises(ConfigError, match=words):
            train(config(*settings, "train.max_steps=1"), tmp_path / "second", say=silent)
    with pytest.raises(CheckpointError, match="expected a run folder at .*, found none"):
        train(config(f"train.start={tmp_path / 'none'}", "train.max_steps=1"), tmp_path / "second", say=silent)
    assert not (tmp_path / "second").exists()


def test_a_run_goes_on_where_the_one_it_began_from_is_gone(tmp_path: Path) -> None:
    train(config("train.max_steps=1"), tmp_path / "first", say=silent)
    settings = config("train.max_steps=4", "train.checkpoint_every=2", "train.validate_every=2", "train.keep=last",
                      f"train.start={tmp_path / 'first'}")

    def stop(text: str) -> None:
        if "step 4/4" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "second", say=stop)
    (tmp_path / "first").rename(tmp_path / "moved")
    result = train(settings, tmp_path / "second", resume=True, say=silent)
    assert result["run"]["steps"] == 4 and result["run"]["start"] == {"run": "first", "steps": None}


def test_steps_of_a_run_that_was_ended_early_count_up_to_the_values_it_left(tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if "step 4/6" in text:
            raise KeyboardInterrupt

    former = config("train.max_steps=6", "train.validate_every=2", "train.checkpoint_every=2")
    with pytest.raises(KeyboardInterrupt):
        train(former, tmp_path / "first", say=stop)
    result = train(config("train.max_steps=1", f"train.start={tmp_path / 'first'}"), tmp_path / "second", say=silent)
    best = read_delta_config(tmp_path / "first")["best_step"]
    assert best in (2, 4) and result["run"]["start"] == {"run": "first", "steps": best}


def test_images_of_an_earlier_run_are_not_taken_for_unseen(tmp_path: Path) -> None:
    """What the run that another began from has trained on counts; where that run is gone, nobody knows."""
    write_phantoms(tmp_path / "other", 12, seed=9)
    first, second = tmp_path / "first", tmp_path / "second"
    train(config("train.max_steps=1"), first, say=silent)
    own = [f"data.root={tmp_path / 'other'}" if one.startswith("data.phantom") else one.replace("=phantom", "=folder")
           for one in BASE]
    train(load_config(None, [*own, "train.max_steps=1", f"train.start={first}"]), second, say=silent)
    splits = make_task(config()).splits()
    seen = evaluate_run(second, data="phantom", split="train")["settings"]["images_trained_on"]
    assert seen == len(splits.train) + len(splits.inner) > 0
    first.rename(tmp_path / "moved")
    assert evaluate_run(second, data="phantom", split="train")["settings"]["images_trained_on"] is None


@pytest.mark.parametrize(("former", "now", "words"), [
    (("data.protocol=final",), (), "trained on more than its training part .data.protocol=final.*set data.protocol=final"),
    (("data.negatives=phantom", "train.quality=true"), ("train.quality=true",),
     "trained with phantom of data.negatives, which must"),
    (("train.quality=true",), (), "trained its quality head: set train.quality=true, or it would stay behind"),
])
def test_what_an_earlier_run_saw_or_learned_is_not_left_out(
    former: tuple[str, ...], now: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    own = ("data.name=folder", f"data.root={tmp_path / 'data'}")
    write_phantoms(tmp_path / "data", 12, seed=9)
    plain = [one for one in BASE if not one.startswith("data.")]
    train(load_config(None, [*plain, *own, *former, "train.max_steps=1"]), tmp_path / "first", say=silent)
    settings = load_config(None, [*plain, *own, *now, "train.max_steps=1", f"train.start={tmp_path / 'first'}"])
    with pytest.raises(ConfigError, match=words):
        train(settings, tmp_path / "second", say=silent)
    assert not (tmp_path / "second").exists()
