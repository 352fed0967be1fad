"""``gps-seg share-values``: one set of trained values for the common part of several classification tasks.

``gps-seg select --tasks`` shares indices alone, and each task trains values of its own. Here the tasks train together, in every
step a batch of each: the values of the common connections, and of what trains as a whole in the encoder, are the same for all;
a task's rest and its head are its own. What is written is one file of common values and a run folder a task, which loads,
scores and predicts as any other.

A step's loss is the sum of the tasks' losses, so that a task's own values get the gradient they would get alone, in the same
steps, on the same batches. ``train.clip`` is of the norm over all tasks; an epoch is the longest task's. Each task keeps a
model in memory.

Source of training shared and own parameters by the sum of losses: Caruana, Multitask Learning, Machine Learning 28, 1997. That
every task needs values of its own is the limitation that Zhang et al., GPS, CVPR 2024, leaves open.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gps_seg.commands.share import COMMON_FILE as COMMON_SELECTION
from gps_seg.commands.share import INDEX_BYTES, REPORT_FILE, VALUE_BYTES, own_k, share_tasks, task_configs
from gps_seg.commands.train import bind, description, finish, run_facts
from gps_seg.config import RunConfig
from gps_seg.core.attach import Attached
from gps_seg.core.overlap import size_of
from gps_seg.core.roles import matches
from gps_seg.core.selection import Selection
from gps_seg.core.together import Together
from gps_seg.errors import ConfigError
from gps_seg.files import read_json, write_json
from gps_seg.methods.parts import head_of
from gps_seg.methods.selection_file import load_selection, save_selection
from gps_seg.metrics.tables import markdown_table
from gps_seg.runs.common_part import COMMON_FILE, TRAINED_WITH, CommonPart
from gps_seg.runs.delta import save_delta
from gps_seg.runs.device import make_accelerator, resolve_device, resolve_precision
from gps_seg.runs.fit import FitResult, fit
from gps_seg.runs.folder import CONFIG_FILE, DELTA_FILE, RESULT_FILE, SELECTION_FILE, STATE_FILE, check_free, write_config
from gps_seg.runs.log import RunLog
from gps_seg.runs.select import make_selection
from gps_seg.runs.setup import Say, Setup, prepare
from gps_seg.runs.turns import Turns
from gps_seg.settings import differences

SELECTIONS = "selections"
OF_A_TASK = {"train.batch_size", "train.label_smoothing", "train.mixup", "train.cutmix"}  # all else of train is the loop's


@dataclass(frozen=True)
class Sharing:
    """What is to be shared.

    Attributes:
        config, overrides, tasks, least: as for :func:`gps_seg.commands.share.share_tasks`.
        selections: folder that ``gps-seg select --tasks`` made; None: selected first, into ``selections/``.
        rests: whether a task also trains what it alone chose; False: the common part and the head alone.
    """

    config: Path
    overrides: Sequence[str]
    tasks: Sequence[str]
    least: float | None = None
    selections: Path | None = None
    rests: bool = True


@dataclass(frozen=True)
class Shared:
    """The tasks, ready to train together."""

    setups: Mapping[str, Setup]
    attached: Mapping[str, Attached]
    common: Selection


def share_values(sharing: Sharing, out: Path, *, resume: bool = False, say: Say = print) -> dict[str, Any]:
    """Select, train together, write ``common.safetensors``, a run folder a task and ``result.json``; returns what is in that.

    Raises:
        ConfigError: settings that cannot train together, nothing in common, ``out`` holds something else, or several processes.
        DataError, CheckpointError: data or weights are not there, or not what they should be.
    """
    began = time.perf_counter()
    configs = _configs(sharing, out)
    config = next(iter(configs.values()))
    accelerator = _accelerator(config)
    _check_folder(out, configs, resume=resume)
    if resume and (out / RESULT_FILE).exists():
        say(f"{out} is finished; nothing to do")
        return read_json(out / RESULT_FILE, "a result")
    folder = sharing.selections or out / SELECTIONS
    if sharing.selections is None and not (folder / REPORT_FILE).exists():
        share_tasks(sharing.config, sharing.overrides, sharing.tasks, folder, least=sharing.least, say=say)
    selected = time.perf_counter() - began
    shared = _bind(configs, load_selection(folder / COMMON_SELECTION), say)
    for task, setup in shared.setups.items():
        write_config(out / task, setup.config)
        save_selection(out / task / SELECTION_FILE, shared.attached[task].selection)
    fitted = _fit(shared, out, accelerator, resume=resume, say=say)
    _save(shared, out, fitted)
    times = {"selection_s": selected, "total_s": time.perf_counter() - began, TRAINED_WITH: list(shared.setups)}
    document = _report(shared, out, folder, {task: _finish(shared, task, out, fitted, times, say) for task in shared.setups})
    write_json(out / RESULT_FILE, document)
    (out / STATE_FILE).unlink(missing_ok=True)
    say(describe(document))
    return document


def _configs(sharing: Sharing, out: Path) -> dict[str, RunConfig]:
    """Settings of each task that make its run what it is: its connections come from files."""
    tasks = own_k(sharing.tasks)
    if sharing.selections is not None and (sharing.least is not None or any(tasks.values())):
        raise ConfigError("--selections brings connections along: leave out --least, and the numbers behind the tasks")
    configs = task_configs(sharing.config, sharing.overrides, tasks)
    _check_alike(configs)
    folder = sharing.selections or out / SELECTIONS
    found = {}
    for task, config in configs.items():
        files = (folder / COMMON_SELECTION, *([folder / "rest" / f"{task}.safetensors"] if sharing.rests else []))
        found[task] = from_files(config, files)
    return found


def from_files(config: RunConfig, files: Sequence[Path]) -> RunConfig:
    """The settings with connections from files; what chose them is not read then."""
    fields = type(config.selection).model_fields
    chosen = {"files": tuple(files)} | {name: fields[name].default for name in ("k", "score", "level")}
    return config.model_copy(update={"selection": config.selection.model_copy(update=chosen)})


def _check_alike(configs: Mapping[str, RunConfig]) -> None:
    """One loop trains all, on one base. Raises ConfigError that names the settings in which tasks differ."""
    (first, base), *others = configs.items()
    if base.train.start is not None:
        raise ConfigError("train.start is not read where tasks train together: they begin from the base")
    for task, config in others:
        changed = [key for key in differences(base.model_dump(), config.model_dump()) if key not in OF_A_TASK
                   and (key.startswith("train.") or key in ("model.name", "model.checkpoint", "data.protocol", "seed", "device"))]
        if changed:
            raise ConfigError(f"--tasks: {task} differs from {first} in {', '.join(changed)}: tasks that train together need one "
                              "base, one protocol and one schedule")


def _accelerator(config: RunConfig) -> Accelerator:
    device = resolve_device(config.device)
    accelerator = make_accelerator(device, resolve_precision(config.train.precision, device))
    if accelerator.num_processes > 1:
        raise ConfigError(f"gps-seg share-values trains in one process, got {accelerator.num_processes}: start it without "
                          "accelerate launch or torchrun")
    return accelerator


def _check_folder(out: Path, configs: Mapping[str, RunConfig], *, resume: bool) -> None:
    """Refuse a folder that is not this command's. Raises ConfigError."""
    taken = out.exists() and (not out.is_dir() or any(path.suffix != ".tmp" for path in out.iterdir()))
    if taken and not resume:
        raise ConfigError(f"{out} is not empty: choose another --out, or add --resume to go on with what is in it")
    if taken and not (out / SELECTIONS).is_dir() and not any((out / task / CONFIG_FILE).exists() for task in configs):
        raise ConfigError(f"{out} holds nothing to resume, but other files: choose another --out")
    for task, config in configs.items():
        check_free(config, out / task, resume=resume)


def _bind(configs: Mapping[str, RunConfig], common: Selection, say: Say) -> Shared:
    if not common.sparse:
        raise ConfigError(f"--tasks: {', '.join(configs)} have no connection in common: lower --least, or leave it out, so that "
                          "scores decide")
    setups = {task: prepare(config, say) for task, config in configs.items()}
    selections = {task: make_selection(setup, say) for task, setup in setups.items()}
    _check_same_kind(setups, selections)
    first = next(iter(setups))
    head = head_of(setups[first].model)
    dense = {name: role for name, role in selections[first].dense.items() if not matches(name, head)}
    attached = {task: bind(setup, selections[task], say) for task, setup in setups.items()}
    return Shared(setups, attached, replace(common, dense=dense))


def _check_same_kind(setups: Mapping[str, Setup], selections: Mapping[str, Selection]) -> None:
    """Raises ConfigError: the tasks' heads, or what else trains as a whole, are of different kinds."""
    (first, base), *others = selections.items()
    for task, selection in others:
        if different := sorted(set(base.dense) ^ set(selection.dense)):
            of_head = [name for name in different if matches(name, head_of(setups[task].model))]
            what = "heads of different kinds" if of_head else "different parameters as a whole"
            raise ConfigError(f"--tasks: {first} and {task} train {what}, {', '.join(different[:3])} on one side only: give "
                              "them the same settings of selection")


def _fit(shared: Shared, out: Path, accelerator: Accelerator, *, resume: bool, say: Say) -> FitResult:
    """Train all tasks together; leaves the values of the kept step in all models."""
    turns = Turns(shared.setups)
    train = next(iter(shared.setups.values())).config.train
    together = Together(shared.attached, shared.common)
    pieces = train.model_copy(update={"accumulate": train.accumulate * len(shared.setups)})
    log = RunLog(out, lambda _values, _step: None, say=say, shows_progress=sys.stderr.isatty())
    return fit(turns.models(), together, turns, turns.loader(train.accumulate), turns.validation(), config=pieces,
               accelerator=accelerator, log=log, resume=resume)


def _save(shared: Shared, out: Path, fitted: FitResult) -> None:
    """The common values once, then each task's own beside them."""
    part = CommonPart(out / COMMON_FILE, shared.common)
    first = next(iter(shared.attached.values()))
    part.save(part.of(first.selection.sparse, first.state()))
    for task, setup in shared.setups.items():
        facts = {**description(setup), "best_step": fitted.best_step, TRAINED_WITH: list(shared.setups)}
        save_delta(out / task, shared.attached[task], facts, common=part)


def _finish(shared: Shared, task: str, out: Path, fitted: FitResult, times: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """A task's result, of its own score; its test part is read once, also where the command was killed in between."""
    if (out / task / RESULT_FILE).exists():
        return read_json(out / task / RESULT_FILE, "a result")
    setup = shared.setups[task]
    validate = setup.validation()
    own = replace(fitted, best_score=validate(setup.model)) if validate else fitted
    sizes = shared.attached[task].counts(head_of(setup.model))
    return finish(setup, out / task, {**run_facts(setup, own, sizes), **times}, say)


def _report(shared: Shared, out: Path, selections: Path, results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A row a task, and bytes: of the files, and of deltas that each hold the task's own selection and all its values."""
    known = read_json(selections / REPORT_FILE, "the report of gps-seg select --tasks")["tasks"]
    rows, apart = {}, 0
    for task, result in results.items():
        attached, head = shared.attached[task], head_of(shared.setups[task].model)
        sizes = attached.counts(head)
        whole = sizes["trainable"] - sizes["selected"]
        apart += known[task]["own"] * (INDEX_BYTES + VALUE_BYTES) + whole * VALUE_BYTES
        score = {name: result[name] for name in ("accuracy", "interval", "n", "part") if name in result}
        rows[task] = score | {"own_selection": known[task]["own"], "trained": size_of(attached.selection),
                              "delta_bytes": (out / task / DELTA_FILE).stat().st_size}
    common = (out / COMMON_FILE).stat().st_size
    total = common + sum(row["delta_bytes"] for row in rows.values())
    return {"tasks": rows, "common": size_of(shared.common), "common_bytes": common, "bytes": total, "bytes_apart": apart}


def describe(document: Mapping[str, Any]) -> str:
    """The document as text."""
    rows = [[task, f"{row['accuracy']:.4f}" if "accuracy" in row else "-", f"{row['own_selection']:,}", f"{row['trained']:,}",
             f"{row['delta_bytes'] / 1e6:.2f}"] for task, row in document["tasks"].items()]
    columns = ("task", "accuracy", "own selection", "common + rest", "its delta, MB")
    return "\n".join([*markdown_table(columns, rows, left=("task",)), "",
                      f"common: {document['common']:,} connections, {document['common_bytes'] / 1e6:.2f} MB; all deltas "
                      f"{document['bytes'] / 1e6:.2f} MB, with own selections and values {document['bytes_apart'] / 1e6:.2f} MB"])
