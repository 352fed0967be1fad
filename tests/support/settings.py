"""Settings of runs that end in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gps_seg.config import RunConfig, load_config

SETTINGS = ["model.name=tiny", "data.name=phantom", "data.phantom_images=20", "train.max_steps=4", "train.batch_size=4",
            "train.precision=fp32", "evaluate.overlays=1", "device=cpu", "selection.max_images=8"]


def classification(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Settings of a classification run, as ``gps-seg classify`` reads them."""
    return load_config(path, overrides, task="classification")


def silent(_: str) -> None:
    """Say nothing."""


def of_method(settings: Sequence[str], method: str) -> list[str]:
    """The settings with a method, without the options of gps where it is another one."""
    kept = settings if method == "gps" else [one for one in settings if not one.startswith("selection.")]
    return [*kept, f"method={method}"]
