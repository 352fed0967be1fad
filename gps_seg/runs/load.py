"""From a run folder back to a model, whatever its task. Needs no data and no training state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gps_seg.config import RunConfig, SegmentationTrainConfig, parse_config
from gps_seg.core.attach import Attached
from gps_seg.errors import ConfigError
from gps_seg.methods.added import add_modules
from gps_seg.runs.base import find_base
from gps_seg.runs.calibration import read_calibration
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.device import resolve_device, resolve_precision
from gps_seg.runs.folder import CONFIG_FILE, read_config
from gps_seg.runs.ready import run_folder
from gps_seg.runs.task_model import TaskModel, make_task

QUALITY = "quality"  # key of a delta's description: the quality head was trained after all else, see runs.quality


@dataclass(frozen=True)
class Run(TaskModel):
    """A tuned model, ready to predict.

    Attributes:
        model: the base with the delta attached, in eval mode, on ``device``.
        description: adapter_config.json.
        config: the settings it was made with, as far as the folder holds them.
    """

    folder: Path
    attached: Attached
    description: dict[str, Any]
    config: RunConfig

    @property
    def threshold(self) -> float:
        """The operating point the run was made with."""
        return float(self.description.get("threshold", 0.5))

    @property
    def presence(self) -> float | None:
        """Below which quality it answers with none, see :func:`presence_of`."""
        return presence_of(self.folder, self.config)


def presence_of(folder: Path, config: RunConfig) -> float | None:
    """Below which quality a run answers with none: the settings', else the calibration's; None: it always gives its masks.

    Raises:
        CheckpointError: its calibration is damaged.
    """
    if not isinstance(config.train, SegmentationTrainConfig) or not config.train.quality:
        return None
    own: float | None = config.evaluate.presence  # type: ignore[attr-defined]
    found = read_calibration(folder) if own is None else None
    return found.presence if found else own


def with_presence(run: Run, presence: float | None = None) -> Run:
    """The run, answering with none below a quality; default: its own, see :attr:`Run.presence`.

    Raises:
        ConfigError: the run has no quality that was trained.
        CheckpointError: its calibration is damaged.
    """
    if presence is None:
        presence = run.presence
    elif not isinstance(run.config.train, SegmentationTrainConfig) or not run.config.train.quality:
        raise ConfigError(f"--presence: the run in {run.folder} has no quality to compare with: train it with "
                          "train.quality=true, or gps-seg calibrate RUN --quality")
    if presence is None:
        return run
    task: Any = run.task
    return replace(run, task=replace(task, evaluate=task.evaluate.model_copy(update={"presence": presence})))


def load_run(folder: str | Path, *, device: str = "auto", precision: str | None = None, base: Path | None = None) -> Run:
    """Rebuild the base model a run names, check that it is the same to the bit, and attach the delta.

    Args:
        folder: of the run, or the name of a ready model.
        precision: of arithmetic; default: the run's own.
        base: the base's weight file, where it is not found by itself; see :func:`gps_seg.runs.base.find_base`.

    Raises:
        CheckpointError: the folder holds no delta, a damaged one, or the base differs.
    """
    folder = run_folder(folder)
    description = read_delta_config(folder)
    config = run_config(folder, description, base)
    classes = tuple(description.get("classes") or ())
    task, place = make_task(config), resolve_device(device)
    model = task.model(classes)
    attached = load_delta(folder, model, add_modules)
    model.to(place).eval()
    found = resolve_precision(precision, place) if precision else own_precision(config, place)
    return Run(task, model, classes, place, found, folder, attached, description, config)


def own_precision(config: RunConfig, device: torch.device) -> str:
    """The precision a run answers in where nobody says: that of its training, or where a CPU lacks that, what is fast there."""
    own = "auto" if config.train.precision == "fp16" and device.type == "cpu" else config.train.precision
    return resolve_precision(own, device)


def run_config(folder: Path, description: dict[str, Any], base: Path | None = None) -> RunConfig:
    """The settings of a run: its config.yaml, the model as its delta describes it, the base where it is now."""
    config = read_config(folder) if (folder / CONFIG_FILE).is_file() else None
    task = config.task if config else str(description.get("task", "segmentation"))
    if config is None:
        config = parse_config({"task": task}, str(folder))
    model = config.model
    if described := description.get("model"):
        model = parse_config({"task": task, "model": described}, str(folder)).model
    model = model.model_copy(update={"checkpoint": find_base(folder, description, model.checkpoint, base)})
    config = config.model_copy(update={"model": model})
    return with_quality(config, description[QUALITY], str(folder)) if QUALITY in description else config


def with_quality(config: RunConfig, trained: Any, source: str) -> RunConfig:
    """The settings of a run whose quality head was trained afterwards: what ``runs.quality`` noted in the delta counts too.

    Raises:
        ConfigError: the note was edited or damaged.
    """
    if not isinstance(trained, dict) or not isinstance(trained.get("data"), dict):
        raise ConfigError(f"{source}: expected how the quality head was trained, the delta's note of it was edited or damaged")
    values = config.model_dump(mode="json")
    values["data"] |= trained["data"]
    values["train"] |= {"quality": True}
    return parse_config(values, source)
