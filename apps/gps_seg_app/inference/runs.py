"""Run folders loaded as one base model and named deltas that take turns on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gps_seg.config import RunConfig, SamConfig
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.core.swap import Switchboard
from gps_seg.methods.added import ADDITIONS, add_modules, fold_modules
from gps_seg.models.sam import SamModel
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.device import resolve_device, resolve_precision
from gps_seg.runs.load import load_run, own_precision, presence_of, run_config
from gps_seg.tasks.segmentation.task import Segmentation
from gps_seg_app.inference.fast import fast_size
from gps_seg_app.limits import AppError

Delta = tuple[Selection, dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that holds one delta at a time.

    Attributes:
        board: None where modules were added that no weight can hold, and the only delta is always on.
        thresholds: of each run, as it was made.
        heard: the prompts that each run was tuned with, of "box" and "clicks".
        presence: of each run, below which quality its answer is none; None: it always gives its masks.
        flips: the runs whose answers without a prompt are means over mirror images.
    """

    model: SamModel
    board: Switchboard | None
    thresholds: dict[str, float]
    heard: dict[str, frozenset[str]]
    presence: dict[str, float | None]
    flips: frozenset[str]
    device: torch.device
    precision: str

    def switch(self, name: str | None) -> None:
        """Make a delta the active one, or with None the untuned base; costs nothing if it is already."""
        if self.board is not None and self.board.active != name:
            self.board.switch(name)


def load_runs(runs: Mapping[str, Path], *, device: str = "auto", precision: str | None = None, fast: bool = False) -> Loaded:
    """Load every run on one base.

    Args:
        precision: of arithmetic; default: the first run's own, as in ``gps-seg predict``.
        fast: at three quarters of the input size, see ``fast``.

    Raises:
        AppError: no run, or runs that do not go together.
        CheckpointError: a run is missing or damaged.
    """
    if not runs:
        raise AppError("Expected at least one run folder, got none: gps-seg train CONFIG --out DIR makes one.")
    described = {name: read_delta_config(Path(folder)) for name, folder in runs.items()}
    alone = [name for name, found in described.items() if _kind(found) and ADDITIONS[_kind(found)].fold is None]
    if alone:
        if fast:
            raise AppError("Expected runs that can look at smaller pictures, but the modules that "
                           f"{alone[0]} adds are of its own size: open that run without --fast.")
        return _load_alone(runs, alone[0], device=device, precision=precision)
    shared = _common_base(runs, described)
    if fast:
        shared = shared.model_copy(update={"input_size": fast_size(_input_size(next(iter(described.values()))))})
    place = resolve_device(device)
    model = Segmentation(shared).model()
    deltas = {name: _merged(Path(folder), shared) if _kind(described[name]) else _delta(Path(folder), model)
              for name, folder in runs.items()}
    board = Switchboard(model.to(place).eval())
    for name, (selection, state) in deltas.items():
        board.add(name, selection, state)
    thresholds = {name: float(description["threshold"]) for name, description in described.items()}
    configs = {name: run_config(Path(runs[name]), description) for name, description in described.items()}
    heard = {name: _heard(config) for name, config in configs.items()}
    presence = {name: presence_of(Path(runs[name]), config) for name, config in configs.items()}
    found = resolve_precision(precision, place) if precision else own_precision(next(iter(configs.values())), place)
    return Loaded(model, board, thresholds, heard, presence, _flipped(configs), place, found)


def _kind(description: Mapping[str, Any]) -> str:
    """Of the modules that a run adds to its base; empty for a run that changes weights only."""
    return str(json.loads(description["meta"]["insert"])["kind"]) if "insert" in description["meta"] else ""


def _input_size(description: Mapping[str, Any]) -> int:
    return int(description["model"]["input_size"])


def _delta(folder: Path, model: SamModel) -> Delta:
    """A run's delta; the model is the base again afterwards."""
    attached = load_delta(folder, model)
    delta = attached.selection, attached.state()
    attached.unmerge()
    return delta


def _merged(folder: Path, config: SamConfig) -> Delta:
    """What a run that adds modules (lora, shira, ssf) does to the base's weights, its modules merged into them."""
    base = Segmentation(config).model()
    before, digest = {name: value.detach().clone() for name, value in base.named_parameters()}, fingerprint(base)
    attached = load_delta(folder, base, add_modules)
    attached.merge()
    fold_modules(base, attached.selection.meta)
    state = {name: value.detach() for name, value in base.named_parameters() if not torch.equal(value, before[name])}
    return Selection({}, dict.fromkeys(state, "inserted"), digest), state  # all that differs came by what was inserted


def _load_alone(runs: Mapping[str, Path], alone: str, *, device: str, precision: str | None) -> Loaded:
    if len(runs) > 1:
        raise AppError(f"Expected runs that can take turns on one base, but the modules that {alone} adds cannot be merged into "
                       "its weights: open that run alone.")
    run = load_run(Path(runs[alone]), device=device, precision=precision)
    heard, presence = {alone: _heard(run.config)}, {alone: run.presence}
    flips = _flipped({alone: run.config})
    return Loaded(run.model, None, {alone: run.threshold}, heard, presence, flips, run.device, run.precision)


def _heard(config: RunConfig) -> frozenset[str]:
    """The prompts that a run saw in training."""
    train: Any = config.train
    return frozenset(name for name, share in (("box", train.box_probability), ("clicks", train.click_probability)) if share)


def _flipped(configs: Mapping[str, RunConfig]) -> frozenset[str]:
    """The runs whose answers without a prompt are means over mirror images."""
    found: dict[str, Any] = {name: config.evaluate for name, config in configs.items()}
    return frozenset(name for name, evaluate in found.items() if evaluate.flips)


def _common_base(runs: Mapping[str, Path], described: Mapping[str, dict[str, Any]]) -> SamConfig:
    configs = {name: run_config(Path(runs[name]), found).model for name, found in described.items()}
    if other := [name for name, config in configs.items() if not isinstance(config, SamConfig)]:
        raise AppError(f"Expected runs that segment, but {other[0]} is a classifier: the app shows masks.")
    first = next(iter(configs))
    for name, config in configs.items():
        if config != configs[first]:
            raise AppError(f"Expected runs of one base and input size, but {first} has {configs[first].name} and {name} has "
                           f"{config.name}, or their sizes differ: open them one after the other.")
    return configs[first]  # type: ignore[return-value]
