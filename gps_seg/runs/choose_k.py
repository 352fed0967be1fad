"""``selection.k=auto``: the number of connections a neuron that does best on the validation part, within a stated budget.

One selection pass serves all candidates of ``selection.auto_k``. Each is trained for ``selection.auto_steps`` steps from the
pretrained weights, with the run's own settings and the same images, and scored once on the validation part; the best
score wins, the smaller k of equals. Afterwards the model is the base again, bit for bit. The test part is never read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gps_seg.config import GPSConfig, TrainConfig
from gps_seg.core.attach import attach
from gps_seg.core.overlap import size_of
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS, Scores
from gps_seg.runs.device import make_accelerator
from gps_seg.runs.fit import fit
from gps_seg.runs.log import RunLog
from gps_seg.tasks.task import Task

TRIALS = "k_trials"  # in a selection's meta


@dataclass(frozen=True)
class Trial:
    """A short run: what it trains, on what, and the score of the validation part that it returns."""

    model: nn.Module
    task: Task
    loader: DataLoader[Any]
    validate: Callable[[nn.Module], float]
    train: TrainConfig
    device: torch.device
    precision: str

    def score(self, selection: Selection, steps: int, log: RunLog) -> float:
        """Score after so many steps; the model is the base before and after."""
        settings = self.train.model_copy(update={"max_steps": steps, "validate_every": steps, "patience": None, "keep": "best"})
        attached = attach(self.model, selection)
        try:
            fitted = fit(self.model, attached, self.task, self.loader, self.validate, config=settings,
                         accelerator=make_accelerator(self.device, self.precision), log=log)
        finally:
            attached.unmerge()
        return fitted.best_score


def is_open(config: GPSConfig) -> bool:
    """Whether k is still to be chosen."""
    return config.k == "auto" and not config.files


def choose_k(config: GPSConfig, scores: Scores, trial: Trial, log: RunLog, seed: int) -> Selection:
    """The selection of the best candidate, which records all of them in its meta.

    Args:
        log: disabled; its ``say`` gets a line a candidate.

    Raises:
        ConfigError: several processes train together.
    """
    if torch.distributed.is_initialized():
        raise ConfigError("selection.k=auto: expected one process, got several; choose k in one, then launch with its number")
    kept: dict[str, Tensor] = {}

    def once(names: Sequence[str]) -> dict[str, Tensor]:
        if not kept:
            kept.update(scores(names))
        return kept

    chosen = {k: METHODS["gps"](trial.model, config.model_copy(update={"k": k}), once, seed) for k in sorted(config.auto_k)}
    kept.clear()
    found = []
    for k, selection in chosen.items():
        began = time.perf_counter()
        score = trial.score(selection, config.auto_steps, log)
        found.append({"k": k, "score": score, "selected": size_of(selection), "steps": config.auto_steps,
                      "seconds": time.perf_counter() - began})
        log.say(f"k = {k}: validation {trial.task.score_name} {score:.4f} after {config.auto_steps} steps")
    best = max(found, key=lambda one: (one["score"], -one["k"]))
    log.say(f"k = {best['k']} is taken")
    selection = chosen[int(best["k"])]
    return replace(selection, meta={**selection.meta, TRIALS: json.dumps(found)})


def k_facts(selection: Selection) -> dict[str, Any]:
    """For a run's result: the k taken and the candidates with their scores; nothing if k was given."""
    if TRIALS not in selection.meta:
        return {}
    return {"k": int(selection.meta["k"]), TRIALS: json.loads(selection.meta[TRIALS])}
