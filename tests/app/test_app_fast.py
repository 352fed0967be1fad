"""What ``gps-seg app --fast`` changes, and where it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.answer.result import analyse
from gps_seg_app.benchmarks.video import benchmark
from gps_seg_app.export.files import report_json
from gps_seg_app.inference.fast import fast_size
from gps_seg_app.inference.loading import Models
from gps_seg_app.inference.model_card import card
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.limits import AppError

PIXELS = phantom(3, size=(90, 120))[0]


@pytest.mark.parametrize(("whole", "fast"), [(256, 192), (1024, 768), (128, 96), (64, 48), (80, 48), (32, 32)])
def test_three_quarters_in_steps_that_every_model_takes(whole: int, fast: int) -> None:
    assert fast_size(whole) == fast


@pytest.mark.parametrize("settings", [(), ("method=lora",)])
def test_the_model_looks_at_the_smaller_picture(settings: tuple[str, ...], trained: Callable[..., Path]) -> None:
    run = trained(*settings)
    whole, fast = (Predictor({"run": run}, device="cpu", precision="fp32", fast=on) for on in (False, True))
    assert fast.input_size == fast_size(whole.input_size) < whole.input_size and fast.threshold == whole.threshold
    assert fast.embed(PIXELS).image.shape[-1] == fast.input_size
    ours, theirs = fast.predict(PIXELS)[0], whole.predict(PIXELS)[0]
    assert ours.shape == theirs.shape and not np.array_equal(ours, theirs) and np.abs(ours - theirs).mean() < 0.2
    assert np.isfinite(fast.probability(fast.embed(PIXELS), points=[(30, 20, 1)], box=(20, 10, 60, 50))).all()


def test_the_card_and_the_exports_say_which_size_was_used(trained: Callable[..., Path]) -> None:
    predictor = Predictor({"run": trained()}, device="cpu", fast=True)
    told = predictor.card("run")
    assert told.input_size == predictor.input_size and f"trained and scored at {told.trained_size} px" in told.markdown()
    assert "trained and scored at" not in card(trained()).markdown()
    report = json.loads(report_json(analyse(Picture(PIXELS, "0"), predictor), told))
    assert report["preprocessing"]["input_size"] == predictor.input_size


def test_modules_of_their_own_size_are_refused(trained: Callable[..., Path]) -> None:
    with pytest.raises(AppError, match="open that run without --fast"):
        Predictor({"run": trained("method=adapter")}, device="cpu", fast=True)


def test_the_background_loads_it_so(trained: Callable[..., Path]) -> None:
    models = Models({"run": trained()}, device="cpu", fast=True)
    models.start()
    assert models.get().fast and models.get().input_size < Predictor({"run": trained()}, device="cpu").input_size


def test_frames_a_second_are_counted_with_the_models_share(tmp_path: Path, trained: Callable[..., Path]) -> None:
    shown = benchmark(trained(), clip=None, frames=6, device="cpu", fast=True, json_path=tmp_path / "video.json")
    found = json.loads((tmp_path / "video.json").read_text())
    assert found["frames"] == found["assessable"] == 6 and found["size"] == "1920x1072" and found["clip"] == "drawn"
    assert found["model_s"] > 0 and found["frames_per_second"] > 0 and f"at {found['input_size']} px" in shown
