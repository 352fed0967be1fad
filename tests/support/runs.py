"""Real run folders for the tests of the app: a tiny model, trained for two steps on phantoms."""

from __future__ import annotations

from pathlib import Path

import pytest

from gps_seg.commands.train import train
from gps_seg.config import load_config
from support.settings import of_method, silent


def train_tiny(folder: Path, cache: Path, *settings: str, model: str = "tiny_lite") -> Path:
    """A run folder with a delta of the given model; ``settings`` as on the command line."""
    common = [f"model.name={model}", "data.name=phantom", "data.phantom_images=12", "train.max_steps=2", "train.batch_size=2",
              "train.lr=1e-2", "train.precision=fp32", "selection.max_images=2", "evaluate.overlays=0", "device=cpu",
              "data.protocol=tune"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(cache))
        method = next((one.partition("=")[2] for one in settings if one.startswith("method=")), "gps")
        train(load_config(None, [*of_method(common, method), *settings]), folder, say=silent)
    return folder
