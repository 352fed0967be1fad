"""A tiny run, calibrated, and what it takes to pack it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from gps_seg.commands.calibrate import calibrate

WORDS = {"summary": "finds drawn polyps", "purpose": ["Tests of this program."], "not_for": ["Anything with a patient."],
         "limits": ["It was trained for two steps."]}


def calibrated_run(place: Path, trained: Callable[..., Path]) -> Path:
    """A copy of a run with a test part, calibrated; its threshold is one at which so short a training finds something."""
    settings = ("data.protocol=honest", "data.phantom_images=30", "train.max_steps=12", "train.batch_size=4",
                "selection.head=select", "evaluate.threshold=0.45")
    run = shutil.copytree(trained(*settings), place / "run")
    calibrate(run, device="cpu")
    return run


def words_file(folder: Path, **changes: object) -> Path:
    """The YAML for --words; a change to None leaves a key out."""
    path = folder / "words.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**WORDS, **changes}.items() if value is not None}))
    return path
