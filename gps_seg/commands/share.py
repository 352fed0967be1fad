"""``gps-seg select --tasks A,B,C``: one selection for several classification tasks, a small rest for each, and what that costs.

That every task needs a selection of its own is the limitation that the paper names (Zhang et al., GPS, CVPR 2024). What is
written is made for ``selection.files``, so that the cost in accuracy can be measured by training with the common part alone,
with common part and rest, and with the task's own selection.

The common part has the size of one task's selection, the smallest where their k differ. Each task's scores are divided by the
sum over its own selection, added up, and selected from as one task's would be: no other part of that size and level keeps more
of the tasks' scores on average. The scores of all tasks are held in main memory, four bytes a weight and task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gps_seg.config import GPSConfig, RunConfig, load_config
from gps_seg.core.overlap import Shared, check_same_base, share, size_of, split
from gps_seg.core.roles import matches
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError
from gps_seg.files import write_json
from gps_seg.methods import METHODS
from gps_seg.methods.parts import head_of
from gps_seg.methods.selection_file import save_selection
from gps_seg.runs.select import selection_scores
from gps_seg.runs.setup import Say, Setup, prepare
from gps_seg.tasks.classification.catalog import ADAPTERS, RANGE

INDEX_BYTES, VALUE_BYTES = 4, 4  # of a connection in a delta
NUMBERS = (2, 4, 8)  # of tasks, the first ones, for which it is said what sharing values saves
COMMON_FILE, REPORT_FILE = "common.safetensors", "shared.json"


@dataclass(frozen=True)
class Scored:
    """A task's own selection and the scores (fp32, in the weights' shapes, on the CPU) that it was made from."""

    own: Selection
    scores: Mapping[str, Tensor]

    def mass(self, selection: Selection) -> float:
        """Sum of this task's scores over the connections of a selection."""
        return sum(float(self.scores[name].flatten()[indices].double().sum()) for name, indices in selection.sparse.items())


def share_tasks(path: Path, overrides: Sequence[str], tasks: Sequence[str], out: Path, *, least: float | None = None,
                say: Say = print) -> dict[str, Any]:
    """Select for each task, share, write ``common.safetensors``, ``own/TASK``, ``rest/TASK`` and ``shared.json``.

    Args:
        path, overrides: settings of a classification run of method gps; each task replaces ``data.name``, and ``{data}`` in
            the path, so that each may have settings of its own.
        tasks: names of data sets; NAME=K selects K connections a neuron for it. The common part has the smallest k of them.
        out: folder to make.
        least: instead of by scores, the common part holds what this part of the tasks chose, 0..1, whatever its size.

    Returns:
        The document in ``shared.json``.

    Raises:
        ConfigError: fewer than two tasks, ``out`` is not empty, or another method.
        DataError: a data set is not there; nothing is written then.
    """
    configs = task_configs(path, overrides, own_k(tasks))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty: choose another --out")
    found: dict[str, Scored] = {}
    for task, config in configs.items():
        say(f"selecting for {task}")
        setup = prepare(config, say)
        found[task] = _score(setup, say)
        check_same_base({name: scored.own for name, scored in found.items()})  # before further passes
    own = {task: scored.own for task, scored in found.items()}
    shared = _share(setup, configs, found, least)
    rows = {task: {"k": _k(configs[task])} | _task(scored, shared, task) for task, scored in found.items()}
    whole = _trained_whole(setup, own)
    growth = {number: values_bytes(own, _share(setup, configs, found, least, number), whole, number)
              for number in NUMBERS if number <= len(own)}
    document = {"tasks": rows, "least": least, **_totals(own, shared), "trained_whole": whole,
                "bytes_with_shared_values": {str(number): stored for number, stored in growth.items()}, "config": str(path)}
    save_selection(out / COMMON_FILE, shared.common)
    for task in configs:
        save_selection(out / "own" / f"{task}.safetensors", own[task])
        save_selection(out / "rest" / f"{task}.safetensors", shared.rests[task])
    write_json(out / REPORT_FILE, document)
    say(describe(document, out))
    return document


def own_k(tasks: Sequence[str]) -> dict[str, str | None]:
    """Task -> its own k as text, if it has one, of texts NAME or NAME=K. Raises ConfigError: fewer than two different names."""
    parts = [text.partition("=") for text in tasks]
    found = {name: k if equals else None for name, equals, k in parts}
    if len(found) < max(2, len(tasks)):
        raise ConfigError("--tasks: expected at least two different data sets, such as digits,polyp_patches, got "
                          f"{','.join(tasks)}")
    return found


def task_configs(path: Path, overrides: Sequence[str], tasks: Mapping[str, str | None]) -> dict[str, RunConfig]:
    """The settings of each task, by its name. Raises ConfigError: they are not of gps on classes, or k is left open."""
    configs = {}
    for task, k in tasks.items():
        own = [*_read_by(task, overrides), f"data.name={task}", *(() if k is None else (f"selection.k={k}",))]
        configs[task] = load_config(Path(str(path).replace("{data}", task)), own, task="classification")
    for config in configs.values():
        if config.task != "classification" or not isinstance(config.selection, GPSConfig):
            raise ConfigError(f"--tasks: expected task=classification method=gps, got task={config.task} method={config.method}")
        if config.selection.files or config.selection.k == "auto":
            raise ConfigError("--tasks: expected a number for selection.k and no selection.files, got "
                              f"selection.k={config.selection.k} and {len(config.selection.files)} files")
    return configs


def _k(config: RunConfig) -> int:
    return int(config.selection.k)  # type: ignore[attr-defined]  # a page of gps with a number, as task_configs makes sure


def _share(
    setup: Setup, configs: Mapping[str, RunConfig], found: Mapping[str, Scored], least: float | None, number: int | None = None
) -> Shared:
    """The common part and the rests of the first ``number`` tasks; default: of all."""
    chosen = dict(list(found.items())[:number])
    own = {task: scored.own for task, scored in chosen.items()}
    if least is not None:
        return share(own, least)
    return split(own, _joint(_with_smallest_k(setup, {task: configs[task] for task in chosen}), chosen))


def _trained_whole(setup: Setup, own: Mapping[str, Selection]) -> int:
    """Values of the encoder that train as a whole, such as biases."""
    sizes, head = dict(setup.model.named_parameters()), head_of(setup.model)
    return sum(sizes[name].numel() for name in next(iter(own.values())).dense if not matches(name, head))


def values_bytes(own: Mapping[str, Selection], shared: Shared, whole: int, tasks: int) -> dict[str, int]:
    """Bytes of the deltas of so many tasks without heads: apart, and with one set of common values, with and without rests.

    Args:
        whole: values of the encoder that train as a whole, which are common too.
    """
    each, sizes = INDEX_BYTES + VALUE_BYTES, shared.sizes()
    apart = sum(size_of(own[task]) for task in shared.rests)
    alone = sizes["common"] * each + whole * VALUE_BYTES
    return {"apart": apart * each + tasks * whole * VALUE_BYTES, "common_and_rest": alone + sizes["rest"] * each,
            "common_alone": alone}


def _with_smallest_k(setup: Setup, configs: Mapping[str, RunConfig]) -> Setup:
    """So that no task trains more connections in common than it would by itself."""
    smallest = {"k": min(_k(config) for config in configs.values())}
    selection = setup.config.selection.model_copy(update=smallest)
    return replace(setup, config=setup.config.model_copy(update={"selection": selection}))


def _read_by(task: str, overrides: Sequence[str]) -> list[str]:
    """The overrides without a folder for a data set that has none."""
    whole = task.partition(RANGE)[0]
    is_file_less = whole in ADAPTERS and not ADAPTERS[whole].layouts
    return [one for one in overrides if not (is_file_less and one.startswith("data.root="))]


def _score(setup: Setup, say: Say) -> Scored:
    kept: dict[str, Tensor] = {}

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        kept.update({name: score.cpu() for name, score in selection_scores(setup, names, say).items()})
        return kept

    return Scored(METHODS["gps"](setup.model, setup.config.selection, scores, setup.config.seed), kept)


def _joint(setup: Setup, found: Mapping[str, Scored]) -> Selection:
    """The selection of the smallest task's size that keeps most of all tasks' scores; the encoder is any task's."""
    total: dict[str, Tensor] = {}
    for scored in found.values():
        mass = scored.mass(scored.own) or 1.0
        for name, score in scored.scores.items():
            total[name] = total[name].add_(score / mass) if name in total else score / mass
    joint = METHODS["gps"](setup.model, setup.config.selection, lambda _names: total, setup.config.seed)
    return replace(joint, meta={**joint.meta, "tasks": ", ".join(found)})


def _task(scored: Scored, shared: Shared, task: str) -> dict[str, Any]:
    """What the common part keeps of a task's own selection and score, and what it adds."""
    size, common, rest = size_of(scored.own), size_of(shared.common), size_of(shared.rests[task])
    mass = scored.mass(scored.own)
    return {"own": size, "connections_kept": (size - rest) / max(1, size),
            "mass_kept": scored.mass(shared.common) / mass if mass else 0.0,
            "not_chosen": common - (size - rest), "rest": rest, "trained": common + rest}


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
    lines = [f"{'task':<{wide}} {'k':>3} {'own':>10} {'kept by common':>15} {'of its score':>13} {'not chosen':>11} {'rest':>10} "
             f"{'common + rest':>14}"]
    lines += [f"{task:<{wide}} {row['k']:>3} {row['own']:>10,} {row['connections_kept']:>15.1%} {row['mass_kept']:>13.1%} "
              f"{row['not_chosen']:>11,} {row['rest']:>10,} {row['trained']:>14,}" for task, row in tasks.items()]
    first = next(iter(tasks))
    return "\n".join([
        *lines, f"indices to store: {sizes['apart']:,} apart, {sizes['common'] + sizes['rest']:,} with a common part of "
        f"{sizes['common']:,}; deltas without biases and heads: {stored['apart'] / 1e6:.2f} MB apart, "
        f"{stored['common_and_rest'] / 1e6:.2f} MB with rests, {stored['common_alone'] / 1e6:.2f} MB with the common part alone",
        *(f"values shared too (gps-seg share-values), {number} tasks: deltas without heads {found['apart'] / 1e6:.2f} MB apart, "
          f"{found['common_and_rest'] / 1e6:.2f} MB with rests, {found['common_alone'] / 1e6:.2f} MB with the common part alone"
          for number, found in document["bytes_with_shared_values"].items()),
        f"train with it: gps-seg train {document['config'].replace('{data}', first)} data.name={first} "
        f"selection.files=[{out / COMMON_FILE},{out / 'rest' / (first + '.safetensors')}] --out RUN",
    ])
