"""``gps-seg select --tasks A,B,C``: one selection for several classification tasks, a small rest for each, and what that costs.

That every task needs a selection of its own is the limitation that the paper names (Zhang et al., GPS, CVPR 2024). What is
written is made for ``selection.files``, so that the cost in accuracy can be measured by training with the common part alone,
with common part and rest, and with the task's own selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gps_seg.checkpoint import save_selection, write_json
from gps_seg.class_bench import prepare
from gps_seg.class_config import ClassConfig, load_class_config
from gps_seg.classify import Say, selection_scores
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.overlap import Shared, share, size_of
from gps_seg.selection import Selection

Mass = Mapping[str, Tensor]
INDEX_BYTES, VALUE_BYTES = 4, 4  # of a connection in a delta
COMMON_FILE, REPORT_FILE = "common.safetensors", "shared.json"


def share_tasks(path: Path, overrides: Sequence[str], tasks: Sequence[str], out: Path, *, least: float = 0.5,
                say: Say = print) -> dict[str, Any]:
    """Select for each task, split, write ``common.safetensors``, ``own/TASK``, ``rest/TASK`` and ``shared.json``.

    Args:
        path, overrides: settings of a classification run of method gps; each task replaces ``data.name``.
        tasks: names of data sets.
        out: folder to make.
        least: part of the tasks that must have chosen a connection for it to be common, 0..1.

    Returns:
        The document in ``shared.json``.

    Raises:
        ConfigError: fewer than two tasks, ``out`` is not empty, or another method.
        DataError: a data set is not there; nothing is written then.
    """
    configs = _configs(path, overrides, tasks)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty: choose another --out")
    found: dict[str, tuple[Selection, Mass]] = {}
    for task, config in configs.items():
        say(f"selecting for {task}")
        found[task] = _select(config, say)
    own = {task: selection for task, (selection, _) in found.items()}
    shared = share(own, least)
    document = {"tasks": {task: _task(selection, mass, shared, task) for task, (selection, mass) in found.items()},
                "least": least, **_totals(own, shared), "config": str(path)}
    save_selection(out / COMMON_FILE, shared.common)
    for task in tasks:
        save_selection(out / "own" / f"{task}.safetensors", own[task])
        save_selection(out / "rest" / f"{task}.safetensors", shared.rests[task])
    write_json(out / REPORT_FILE, document)
    say(describe(document, out))
    return document


def _configs(path: Path, overrides: Sequence[str], tasks: Sequence[str]) -> dict[str, ClassConfig]:
    if len(set(tasks)) < max(2, len(tasks)):
        raise ConfigError("--tasks: expected at least two different data sets, such as digits,polyp_patches, got "
                          f"{','.join(tasks)}")
    configs = {task: load_class_config(path, [*overrides, f"data.name={task}"]) for task in tasks}
    first = configs[tasks[0]]
    if first.method != "gps" or first.selection.files or first.selection.k == "auto":
        raise ConfigError("--tasks: expected method=gps with a number for selection.k and without selection.files, got "
                          f"method={first.method} selection.k={first.selection.k} and {len(first.selection.files)} files")
    return configs


def _select(config: ClassConfig, say: Say) -> tuple[Selection, Mass]:
    """A task's own selection, and the score of each of its connections, in the order of the indices."""
    bench = prepare(config)
    kept: dict[str, Tensor] = {}

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        kept.update(selection_scores(bench, names, say))
        return kept

    selection = METHODS["gps"](bench.model, config.selection, scores)
    return selection, {name: kept[name].flatten().cpu()[indices] for name, indices in selection.sparse.items()}


def _task(own: Selection, mass: Mass, shared: Shared, task: str) -> dict[str, Any]:
    """What the common part keeps of a task's own selection, and what it adds to it."""
    empty = torch.zeros(0, dtype=torch.long)
    kept = {name: torch.isin(indices, shared.common.sparse.get(name, empty)) for name, indices in own.sparse.items()}
    size, in_common = size_of(own), sum(int(inside.sum()) for inside in kept.values())
    whole = sum(float(values.double().sum()) for values in mass.values())
    held = sum(float(values[kept[name]].double().sum()) for name, values in mass.items())
    common, rest = size_of(shared.common), size_of(shared.rests[task])
    return {"own": size, "connections_kept": in_common / max(1, size), "mass_kept": held / whole if whole else 0.0,
            "not_chosen": common - in_common, "rest": rest, "trained": common + rest}


def _totals(own: Mapping[str, Selection], shared: Shared) -> dict[str, Any]:
    """Connections and bytes of all tasks' deltas: apart, with common part and rests, with the common part alone.

    Values are every task's own; only the common indices are stored once.
    """
    sizes, apart, tasks = shared.sizes(), sum(size_of(selection) for selection in own.values()), len(own)
    alone = sizes["common"] * (INDEX_BYTES + tasks * VALUE_BYTES)
    each = INDEX_BYTES + VALUE_BYTES
    return {"connections": {"apart": apart, **sizes},
            "delta_bytes": {"apart": apart * each, "common_and_rest": alone + sizes["rest"] * each, "common_alone": alone}}


def describe(document: Mapping[str, Any], out: Path) -> str:
    """The document as text; ends with how to train with it."""
    tasks, sizes, stored = document["tasks"], document["connections"], document["delta_bytes"]
    wide = max(4, *(len(task) for task in tasks))
    lines = [f"{'task':<{wide}} {'own':>10} {'kept by common':>15} {'of its score':>13} {'not chosen':>11} {'rest':>10} "
             f"{'common + rest':>14}"]
    lines += [f"{task:<{wide}} {row['own']:>10,} {row['connections_kept']:>15.1%} {row['mass_kept']:>13.1%} "
              f"{row['not_chosen']:>11,} {row['rest']:>10,} {row['trained']:>14,}" for task, row in tasks.items()]
    first = next(iter(tasks))
    return "\n".join([
        *lines, f"indices to store: {sizes['apart']:,} apart, {sizes['common'] + sizes['rest']:,} with a common part of "
        f"{sizes['common']:,}; deltas without biases and heads: {stored['apart'] / 1e6:.2f} MB apart, "
        f"{stored['common_and_rest'] / 1e6:.2f} MB with rests, {stored['common_alone'] / 1e6:.2f} MB with the common part alone",
        f"train with it: gps-seg classify {document['config']} data.name={first} "
        f"selection.files=[{out / COMMON_FILE},{out / 'rest' / (first + '.safetensors')}] --out RUN",
    ])
