"""From a run folder back to a model, whatever its task. Needs no data and no training state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gps_seg.config import RunConfig, parse_config
from gps_seg.core.attach import Attached
from gps_seg.methods.added import add_modules
from gps_seg.runs.base import find_base
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.device import resolve_device, resolve_precision
from gps_seg.runs.folder import CONFIG_FILE, read_config
from gps_seg.runs.ready import run_folder
from gps_seg.runs.task_model import TaskModel, make_task


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
    own = "auto" if config.train.precision == "fp16" and place.type == "cpu" else config.train.precision
    return Run(task, model, classes, place, resolve_precision(precision or own, place), folder, attached, description, config)


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
    return config.model_copy(update={"model": model})
