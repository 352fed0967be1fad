"""Correction of one picture, step by step, against masks made by hand; the server's numbers under load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.answer.desk import MOST_POINTS, Desk
from gps_seg_app.answer.outlines import mask_of_polygons
from gps_seg_app.inference.loading import Models
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.limits import AppError
from gps_seg_app.page.correct import use_tool
from gps_seg_app.page.layers import map_png, picture_png, rings


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained()


@pytest.fixture
def desk(run: Path) -> Desk:
    pixels, _ = phantom(2, size=(120, 160))
    return Desk(Picture(pixels, "0" * 64), Predictor({"a": run}), "a", 0.99)


def test_strokes_stay_when_the_threshold_moves_and_undo_forgets_them_one_by_one(desk: Desk) -> None:
    rows, columns = np.mgrid[:120, :160] + 0.5
    disc = (rows - 60) ** 2 + (columns - 80) ** 2 <= 100
    desk.stroke([(80, 60)], 10, add=True)
    assert (desk.finding.mask ^ disc).mean() < 0.004
    desk.set_threshold(0.0001)
    desk.stroke([(80, 60)], 10, add=False)
    assert not desk.finding.mask[disc & (np.hypot(rows - 60, columns - 80) < 9)].any() and desk.finding.mask[5, 80]
    result = desk.result()
    assert result.edited and result.dice_to_model is not None and 0.5 < result.dice_to_model < 1
    desk.undo()
    assert desk.finding.mask.all()
    desk.undo()
    assert not desk.can_undo and not desk.result().edited
    desk.redo()
    desk.reset()
    assert not desk.step.touched and desk.can_undo


def test_prompts_change_the_probabilities_and_undo_brings_the_first_back(desk: Desk) -> None:
    first = desk.probability
    desk.point(30, 40, add=True)
    assert not np.array_equal(desk.probability, first) and desk.step.points == ((30, 40, 1),)
    desk.box((100, 90), (20, 10))
    assert desk.step.box == (20, 10, 100, 90)
    desk.undo()
    desk.undo()
    assert np.array_equal(desk.probability, first)


def test_gestures_that_make_no_sense_are_one_sentence(desk: Desk) -> None:
    for gesture, words in (
        ({"tool": "point add", "points": [[160, 5]]}, "x from 0 to 159"),
        ({"tool": "box", "points": [[5, 5], [6, 6]]}, "at least 2"),
        ({"tool": "look", "points": [[5, 5]]}, "Choose a tool"),
        ({"tool": "brush add", "points": [["a", 5]]}, "could not be read"),
        ({"points": []}, "could not be read"),
        ({"tool": "brush add", "points": [[5, 5]], "radius": -1}, "Expected a brush stroke"),
        ({"tool": "point add", "points": [[float("nan"), 5]]}, "within the picture"),
    ):
        with pytest.raises(AppError, match=words):
            use_tool(desk, dict(gesture))
    for _ in range(MOST_POINTS):
        desk.point(5, 5, add=True)
    with pytest.raises(AppError, match="At most 50 points"):
        desk.point(5, 5, add=True)


def test_a_pixel_is_not_polyp_and_no_polyp_at_once(desk: Desk) -> None:
    desk.point(5, 5, add=True)
    with pytest.raises(AppError, match="clicked as polyp and as not polyp"):
        desk.point(5, 5, add=False)
    assert desk.step.points == ((5, 5, 1),)


def test_the_drawn_outline_is_the_mask(desk: Desk) -> None:
    desk.stroke([(20, 20), (120, 90)], 7, add=True)
    desk.stroke([(60, 50)], 3, add=False)
    result = desk.result()
    parts = [{"exterior": part[0], "holes": part[1:]} for part in rings(result)]
    assert np.array_equal(mask_of_polygons(parts, (120, 160)), result.finding.mask)


def test_what_the_browser_gets_is_lossless_and_never_stretched() -> None:
    import cv2

    pixels, _ = phantom(1, size=(50, 70))
    decoded = cv2.imdecode(np.frombuffer(picture_png(pixels), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], pixels)
    faint = cv2.imdecode(np.frombuffer(map_png(np.full((20, 20), 0.04, np.float32), 1.0), np.uint8), cv2.IMREAD_UNCHANGED)
    assert faint.shape == (20, 20, 4) and not faint[..., 3].any()


def test_a_model_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    models = Models({"a": tmp_path})
    assert models.status.startswith("The model is loading")
    with pytest.raises(AppError, match="still loading"):
        models.get(wait_seconds=0)
    models.start()
    with pytest.raises(AppError, match="could not be loaded"):
        models.get()
    assert models.ready and "could not be loaded" in models.status


def test_several_users_at_once_are_served_in_fair_order_without_an_error(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gps_seg.cli", "benchmark", "app", str(run), "--users", "4", "--seconds", "4",
               "--repetitions", "1", "--json", str(tmp_path / "app.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads((tmp_path / "app.json").read_text())
    load = numbers["load"]
    assert load["errors"] == 0 and load["pictures"] >= 4 and load["served_most"] - load["served_least"] <= 2
    assert load["memory_end_mb"] < load["memory_start_mb"] + 300
    assert {"first_page_s", "picture_s", "click_s", "threshold_s", "machine"} <= set(numbers)
