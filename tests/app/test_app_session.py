"""One page's desks: each model at its own threshold until the user moves it, corrections kept for the model they correct."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gps_seg.files import sha256
from gps_seg.runs.calibration import CALIBRATION_FILE, Calibration
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.session import Session

PICTURE = Picture(phantom(0, size=(72, 100))[0], "ab" * 32)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory, trained: Callable[..., Path]) -> Predictor:
    runs = {"one": trained(), "two": shutil.copytree(trained("seed=1"), tmp_path_factory.mktemp("session") / "two")}
    known = Calibration(2.0, "phantom", "inner", 3, 100, 0.4, 0.3, 0.1, 0.05, sha256(runs["two"] / "adapter_model.safetensors"),
                        threshold=0.31, dice=0.9, best_dice=0.9, found=1.0)
    (runs["two"] / CALIBRATION_FILE).write_text(json.dumps(vars(known)))
    return Predictor(runs, device="cpu", precision="fp32")


def opened(predictor: Predictor, name: str, **more: float) -> Session:
    session = Session(picture=PICTURE, **more)  # type: ignore[arg-type]
    session.place(PICTURE, predictor, name)
    return session


def test_every_model_begins_at_its_own_threshold(predictor: Predictor) -> None:
    for name, own in (("one", 0.5), ("two", 0.31)):
        desk = opened(predictor, name).desk
        assert desk is not None and desk.threshold == own and desk.name == name
        desk = opened(predictor, name, threshold=0.7).desk
        assert desk is not None and desk.threshold == 0.7  # as the user has set it


def test_corrections_come_back_with_their_model_and_hold_no_embedding_meanwhile(predictor: Predictor) -> None:
    session = opened(predictor, "one")
    first = session.desk
    assert first is not None and not session.lay_aside() and not session.corrected  # nothing was done to it
    first.point(20, 30, add=True)
    assert session.lay_aside() and first._embedding is None
    session.place(PICTURE, predictor, "two")
    assert session.desk is not first and not session.lay_aside()
    session.place(PICTURE, predictor, "one")
    assert session.desk is first and first.can_undo and not session.corrected
    first.undo()
    assert not session.lay_aside() and session.corrected  # not corrected, but it can be redone
    first.redo()
    assert first.step.points == ((20, 30, 1),)


def test_a_picture_that_came_meanwhile_keeps_the_desk(predictor: Predictor) -> None:
    session = opened(predictor, "one")
    kept = session.desk
    session.place(Picture(PICTURE.pixels, "cd" * 32), predictor, "two")
    assert session.desk is kept
