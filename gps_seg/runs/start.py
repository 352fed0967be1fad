"""A run that begins where another ended: with its selection and its values, on the same base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gps_seg.config import RunConfig, SegmentationConfig
from gps_seg.core.attach import Attached
from gps_seg.core.selection import Selection
from gps_seg.errors import CheckpointError, ConfigError, GpsSegError
from gps_seg.files import read_json
from gps_seg.methods.added import add_modules, remove_modules
from gps_seg.runs.card import read_card
from gps_seg.runs.common_part import COMMON_KEY, TRAINED_WITH
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.folder import RESULT_FILE, read_config
from gps_seg.runs.hub import name_of
from gps_seg.runs.ready import is_ready, run_folder
from gps_seg.runs.select import with_apart
from gps_seg.runs.setup import Setup
from gps_seg.runs.task_model import make_task
from gps_seg.settings import differences
from gps_seg.tasks.task import Task


@dataclass(frozen=True)
class Start:
    """What another run trained, and its values at its end."""

    selection: Selection
    state: Mapping[str, Tensor]

    def choose(self, model: nn.Module) -> Selection:
        """The selection, with what trains apart today, and on the model the modules that it trains."""
        add_modules(model, self.selection.meta)
        return with_apart(self.selection, model)

    def load(self, attached: Attached) -> None:
        """Begin with the values; what the other run did not train begins as the base has it."""
        attached.load({**attached.state(), **self.state})


def read_start(setup: Setup) -> Start | None:
    """The run that ``train.start`` names; None if it names none. The model is the base before and after.

    Raises:
        CheckpointError: no run there, or one on another base.
        ConfigError: it was made by another method or another selection than the settings ask for.
    """
    folder = _folder(setup)
    if folder is None:
        return None
    _check_same_method(setup, folder)
    _check_what_it_saw(setup, read_config(folder), folder)
    attached = load_delta(folder, setup.model, add_modules)
    start = Start(attached.selection, attached.state())
    attached.unmerge()
    remove_modules(setup.model, start.selection.meta)
    return start


def _folder(setup: Setup) -> Path | None:
    named = setup.config.train.start
    return None if named is None else run_folder(str(named))


def _check_same_method(setup: Setup, folder: Path) -> None:
    former, config = read_config(folder), setup.config
    if (former.task, former.method) != (config.task, config.method):
        raise ConfigError(f"train.start: {folder} is a run of {former.task} by method {former.method}, the settings ask for "
                          f"{config.task} by {config.method}")
    if changed := differences(former.selection.model_dump(), config.selection.model_dump()):
        raise ConfigError(f"train.start: {folder} brings its selection along, and the settings ask for another one in selection."
                          f"{', selection.'.join(changed)}: set them as they are in its config.yaml")


def _check_what_it_saw(setup: Setup, former: RunConfig, folder: Path) -> None:
    """What the other run learned from would be taken for unseen, or what it learned be lost, if these settings left it out."""
    ours, theirs = setup.config, former
    if theirs.data.protocol in ("final", "released") and ours.data.protocol != theirs.data.protocol:
        raise ConfigError(f"train.start: {folder} trained on more than its training part (data.protocol={theirs.data.protocol}), "
                          f"which this run would validate or test on: set data.protocol={theirs.data.protocol}")
    if not isinstance(theirs, SegmentationConfig) or not isinstance(ours, SegmentationConfig):
        return
    for name in ("negatives", "negative_centers"):
        if missing := [one for one in getattr(theirs.data, name) if one not in getattr(ours.data, name)]:
            raise ConfigError(f"train.start: {folder} trained with {', '.join(map(str, missing))} of data.{name}, which must be "
                              "named here too, as they are no test any more")
    if theirs.train.quality and not ours.train.quality:
        raise ConfigError(f"train.start: {folder} trained its quality head: set train.quality=true, or it would stay behind")


def earlier_tasks(config: RunConfig) -> list[Task] | None:
    """The tasks of the runs that a run began from, the last first; None where one of them is gone, so that nobody knows."""
    tasks: list[Task] = []
    while (named := config.train.start) is not None:
        try:
            config = read_config(run_folder(str(named), say=lambda _text: None, network=False))
        except GpsSegError:
            return None
        tasks.append(make_task(config))
    return tasks


def tasks_beside(folder: Path, description: Mapping[str, Any]) -> list[Task] | None:
    """The tasks that a run's common values were trained on, none where it shares none; None where one of their runs is gone."""
    if COMMON_KEY not in description:
        return []
    try:
        return [make_task(read_config(folder.absolute().parent / str(name))) for name in description[TRAINED_WITH]]
    except (GpsSegError, KeyError, TypeError):
        return None


def start_facts(setup: Setup) -> dict[str, Any]:
    """For a run's result: what it began from, and the steps that were taken before; nothing if it began from the base."""
    named = setup.config.train.start
    if named is None:
        return {}
    try:
        folder = run_folder(str(named))
    except CheckpointError:  # gone since this run began
        return {"start": {"run": named.name, "steps": None}}
    return {"start": {"run": name_of(folder) or folder.name, "steps": _steps(folder)}}


def _steps(folder: Path) -> int | None:
    """How many a run took, with those before it; of one that was ended early those up to the values it left. None: not known."""
    if is_ready(folder):
        return read_card(folder).made.steps
    if (folder / RESULT_FILE).is_file():
        made = read_json(folder / RESULT_FILE, "a result")["run"]
        return int(made["steps"]) + (made.get("start", {}).get("steps") or 0)
    return None if read_config(folder).train.start else read_delta_config(folder).get("best_step")
