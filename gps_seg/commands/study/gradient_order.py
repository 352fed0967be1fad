"""``gps-seg study gradient-order``: is the order of accumulated gradients the order of change under full fine-tuning?

That it is, is what section 3 of the paper rests on (Zhang et al., GPS, CVPR 2024, arXiv 2312.10136). Here each finished run of
method full is asked: the selection pass scores its base, and the delta says how far each connection moved. The connections are
those that GPS would select from. What the scores predict is what this run did, with its optimizer: Adam moves by the steadiness
of gradients rather than by their size, and weight decay moves large weights whatever their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from gps_seg.commands.study.order_text import describe
from gps_seg.config import GPSConfig, RunConfig, parse_config
from gps_seg.core.roles import assign, neuron_rows, owners
from gps_seg.core.selection import fingerprint
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files import write_json
from gps_seg.methods.added import add_modules
from gps_seg.methods.gps import policy_of
from gps_seg.methods.parts import head_of
from gps_seg.metrics.order import Values, agreement, mean_of, order_of
from gps_seg.metrics.plots.order import order_plot
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.device import resolve_device
from gps_seg.runs.folder import CONFIG_FILE
from gps_seg.runs.load import run_config
from gps_seg.runs.provenance import surroundings
from gps_seg.runs.select import every_score
from gps_seg.runs.setup import Say, Setup, prepare
from gps_seg.runs.task_model import make_task


@dataclass(frozen=True)
class Question:
    """What is asked of each run.

    Attributes:
        k: connections a neuron that count as its best.
        options: settings of the selection pass, ``selection.*`` of method gps, such as ``{"max_images": 100}``.
        base: the base's weight file, where it is not found by itself.
    """

    k: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    base: Path | None = None


def study(folders: Sequence[Path], question: Question, say: Say = print) -> dict[str, Any]:
    """Ask every run; the document has one entry a run under ``runs`` and the mean over them under ``mean``.

    Raises:
        ConfigError: the same run twice, a run of another method, one that began from another run, or a setting that the pass
            does not read.
        CheckpointError: a run without a delta or base, or runs of different bases; nothing was computed then.
        DataError: the data set of a run is not there.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"expected each run once, got {', '.join(map(str, folders))}")
    configs = {folder: _settings(folder, question) for folder in folders}
    _check_same_base(configs)
    runs = {str(folder): _ask(folder, config, question, say) for folder, config in configs.items()}
    first = next(iter(configs.values()))
    setup = {"k": question.k, "selection": first.selection.model_dump(mode="json", include=_read_by_the_pass(first)),
             **surroundings(resolve_device(question.device), "fp32")}
    scores = mean_of([run["scores"] for run in runs.values()])
    return {"setting": setup, "runs": runs, "mean": scores}


def _read_by_the_pass(config: RunConfig) -> set[str]:
    return {"max_images", "batch_size", "precision", "loss", "temperature"} & set(type(config.selection).model_fields)


def _settings(folder: Path, question: Question) -> RunConfig:
    """The run's settings with gps in the place of full, so that the selection pass sees the run's own training part."""
    description = read_delta_config(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder}: expected a run with its {CONFIG_FILE}, which says what it was trained on, found none")
    config = run_config(folder, description, question.base)
    if (method := description["meta"].get("method")) != "full":
        raise ConfigError(f"{folder}: expected a run of method full, which lets every weight change, got method {method}")
    if config.train.start is not None:
        raise ConfigError(f"{folder}: expected a run that began from the base, got one with train.start={config.train.start}")
    values = config.model_dump(mode="json")
    values["train"] |= {"precision": "fp32", "backend": "auto"}  # nothing trains; another machine may lack the run's own
    values |= {"method": "gps", "selection": dict(question.options), "device": question.device}
    return parse_config(values, str(folder))


def _check_same_base(configs: Mapping[Path, RunConfig]) -> None:
    """Heads may differ: a classifier's is fresh for every seed and task. Raises CheckpointError."""
    bases = {folder: _encoder(config, read_delta_config(folder)) for folder, config in configs.items()}
    if len(set(bases.values())) > 1:
        shown = ", ".join(f"{folder} {base[:12]} ({configs[folder].model.name})" for folder, base in bases.items())
        raise CheckpointError(f"expected runs of one base, whose weights can be told apart by name, got {shown}: study them one "
                              "base at a time")


def _encoder(config: RunConfig, description: Mapping[str, Any]) -> str:
    model = make_task(config).model(tuple(description.get("classes") or ()))
    return fingerprint(model, head_of(model))


def _ask(folder: Path, config: RunConfig, question: Question, say: Say) -> dict[str, Any]:
    say(f"{folder}: {config.data.name}, {config.model.name}")
    setup = prepare(config, say)
    plan = assign(setup.model, policy_of(setup.model, cast(GPSConfig, config.selection)))
    names = [name for name, assignment in plan.items() if assignment.treatment == "select"]
    change = _change(setup, folder, names)
    moved = order_of(change)
    scores = {kind: agreement(order_of(_rows(setup.model, found)), moved, question.k)
              for kind, found in every_score(setup, names, say)}
    train = config.train
    return {"task": config.task, "data": config.data.name, "model": config.model.name, "seed": config.seed,
            "optimizer": train.optimizer, "lr": train.lr, "weight_decay": train.weight_decay,
            "best_step": read_delta_config(folder).get("best_step"), "images": len(setup.splits.train[: _most(config)]),
            "unchanged": _unchanged(change), "scores": scores}


def _most(config: RunConfig) -> int | None:
    return cast(GPSConfig, config.selection).max_images


def _unchanged(change: Values) -> float:
    """Part of the connections that did not move at all."""
    return sum(int((rows == 0).sum()) for rows in change.values()) / sum(rows.size for rows in change.values())


def _change(setup: Setup, folder: Path, names: Sequence[str]) -> Values:
    """|value that the run kept - value of the base| of each weight; the model is the base before and after."""
    parameters = dict(setup.model.named_parameters())
    before = {name: parameters[name].detach().cpu().clone() for name in names}
    attached = load_delta(folder, setup.model, add_modules)  # which compares the base, bit for bit
    moved = {name: (parameters[name].detach().cpu() - before[name]).abs() for name in names}
    attached.unmerge()
    return _rows(setup.model, moved)


def _rows(model: nn.Module, tensors: Mapping[str, Tensor]) -> Values:
    """Weight-shaped tensors as (neurons, connections)."""
    owner_of = owners(model)
    return {name: neuron_rows(owner_of[name][0], tensor).float().cpu().numpy() for name, tensor in tensors.items()}


def report(
    folders: Sequence[Path], question: Question, *, json_path: Path | None = None, plot_path: Path | None = None, say: Say = print
) -> str:
    """Ask, write what was asked for, and say it in words; see :func:`study` for what it raises."""
    document = study(folders, question, say)
    if json_path:
        write_json(json_path, document)
    if plot_path:
        order_plot(document["mean"], plot_path, ", ".join(f"{Path(name).name}" for name in document["runs"]))
    return describe(document)
