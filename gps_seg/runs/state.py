"""What a run needs to go on after it was killed: one safetensors file, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gps_seg.core.trained import Trained
from gps_seg.errors import CheckpointError
from gps_seg.files.tensors import read_tensors, write_tensors

FORMAT = "gps-seg training state 1"


@dataclass
class TrainingState:
    """Progress of a run. ``step`` counts finished optimizer steps; ``best`` and ``ema`` are keyed like ``trainable()``."""

    step: int = 0
    best_step: int = 0
    best_score: float = float("-inf")
    validations_without_gain: int = 0
    scores: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)

    def record(self, score: float, values: dict[str, Tensor]) -> bool:
        """Note a validation score; True if it is the best so far. The first of equal scores stays."""
        self.scores.append(score)
        if score > self.best_score:
            self.best_score, self.best_step, self.best = score, self.step, values
            self.validations_without_gain = 0
            return True
        self.validations_without_gain += 1
        return False

    def keep_last(self, values: dict[str, Tensor]) -> None:
        """Take the values of this step as the run's, whatever was better before; its score is the last validation's, else 0."""
        self.scores = self.scores or [0.0]
        self.best_score, self.best_step, self.best = self.scores[-1], self.step, values

    @torch.no_grad()
    def update_ema(self, attached: Trained, decay: float) -> None:
        """Move the running average towards the current values; nothing for decay 0."""
        if decay == 0:
            return
        if not self.ema:
            self.ema = attached.state()
            return
        for name, parameter in attached.trainable().items():
            self.ema[name].lerp_(parameter.detach().to(self.ema[name].device), 1 - decay)


def save_state(path: Path, state: TrainingState, attached: Trained, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    """Write everything that decides the rest of the run."""
    tensors = {f"value/{name}": value for name, value in attached.state().items()}
    tensors |= {f"best/{name}": value.clone() for name, value in state.best.items()}
    tensors |= {f"ema/{name}": value for name, value in state.ema.items()}
    names = _names(attached, optimizer)
    for index, slots in optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{names[index]}/{key}"] = value.cpu()
    numbers = {
        "step": state.step, "best_step": state.best_step, "best_score": state.best_score if state.scores else None,
        "validations_without_gain": state.validations_without_gain, "scores": state.scores,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    write_tensors(path, tensors, {"format": FORMAT, "base_sha256": attached.selection.base, "state": json.dumps(numbers)})


def load_state(path: Path, attached: Trained, optimizer: torch.optim.Optimizer, scaler: Any) -> TrainingState:
    """Put values and optimizer back. Raises CheckpointError for a damaged file or one of another run."""
    tensors, metadata = read_tensors(path, "a training state")
    if metadata.get("format") != FORMAT or metadata.get("base_sha256") != attached.selection.base:
        raise CheckpointError(f"{path}: expected a training state of this run, got another; start with a new --out folder")
    numbers = json.loads(metadata["state"])
    attached.load(_part(tensors, "value/"))
    index_of = {name: index for index, name in enumerate(_names(attached, optimizer))}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer/").items():
        parameter, _, key = name.rpartition("/")
        slots.setdefault(index_of[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler is not None and numbers["scaler"]:
        scaler.load_state_dict(numbers["scaler"])
    best_score = numbers["best_score"] if numbers["scores"] else float("-inf")
    return TrainingState(
        numbers["step"], numbers["best_step"], best_score, numbers["validations_without_gain"], numbers["scores"],
        _part(tensors, "best/"), _part(tensors, "ema/"),
    )


def _names(attached: Trained, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names in the optimizer's order, which is by group."""
    name_of = {id(parameter): name for name, parameter in attached.trainable().items()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
