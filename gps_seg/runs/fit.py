"""One training loop for every task and method. It knows no method's name and no data set.

Built on Hugging Face accelerate: mixed precision, gradient accumulation and several processes (``accelerate launch`` or
``torchrun``). Only what trains is reduced between processes: the small vectors, biases and the head.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gps_seg.config import TrainConfig
from gps_seg.core.roles import Role, matches
from gps_seg.core.trained import Trained
from gps_seg.data.batches import Batch, ResumableBatches
from gps_seg.errors import ConfigError, TrainingError
from gps_seg.methods.parts import apart_in
from gps_seg.runs.device import repeatable, training_mode
from gps_seg.runs.log import Interruption, RunLog
from gps_seg.runs.schedule import learning_rate
from gps_seg.runs.state import TrainingState, load_state, save_state
from gps_seg.tasks.task import Learner

# Scores the model on the inner validation part; higher is better. None where nothing is kept for it: the last step counts.
Validation = Callable[[nn.Module], float] | None


@dataclass(frozen=True)
class FitResult:
    """``best_step`` and ``best_score`` of the inner validation; ``seconds`` per training step, validation excluded."""

    steps: int
    best_step: int
    best_score: float
    seconds: float
    stopped: str


def peak_rate(role: Role | None, config: TrainConfig) -> float:
    """The highest rate of what trains under a role; None: of selected connections."""
    own = config.lr_selected if role is None else config.lr_bias if role in ("bias", "norm", "scale") else None
    return config.lr if own is None else own


def rate_groups(attached: Trained, config: TrainConfig) -> list[dict[str, Any]]:
    """What trains, grouped by its highest rate (``peak``), as torch's optimizers take it.

    Raises:
        ConfigError: a rate was given for what the method does not train.
    """
    roles = {name: attached.role_of(name) for name in attached.trainable()}
    for name, reads in (("lr_selected", None in roles.values()),
                        ("lr_bias", not {"bias", "norm", "scale"}.isdisjoint(roles.values()))):
        if getattr(config, name) is not None and not reads:
            raise ConfigError(f"train.{name} is not read here: nothing of its kind trains")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in attached.trainable().items():
        groups.setdefault(peak_rate(roles[name], config), []).append(parameter)
    return [{"params": parameters, "lr": peak, "peak": peak} for peak, parameters in groups.items()]


def make_optimizer(config: TrainConfig, parameters: list[Any]) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over the trained values only (or groups of them); fused: there are hundreds of small vectors."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


class Fit:
    """One training run; :func:`fit` is its only use. Holds what a step needs, so that functions stay short."""

    def __init__(
        self, model: nn.Module, attached: Trained, task: Learner, loader: DataLoader[Any], config: TrainConfig,
        accelerator: Accelerator,
    ) -> None:
        self.attached, self.task, self.loader, self.config = attached, task, loader, config
        self.accelerator = accelerator
        self.model, self.plain = accelerator.prepare(model), model
        # what has a loss of its own is clipped by itself: in one norm, either would shrink the other's steps
        self.clipped = [[parameter for name, parameter in attached.trainable().items() if matches(name, apart_in(model)) is apart]
                        for apart in (False, True)]
        optimizer = make_optimizer(config, rate_groups(attached, config))
        attached.follow(optimizer)
        self.optimizer = accelerator.prepare(optimizer)
        if not isinstance(loader.batch_sampler, ResumableBatches):
            raise TypeError("the loader needs a sampler of ResumableBatches, which can start in the middle of an epoch")
        self.sampler = loader.batch_sampler
        self.seconds = 0.0  # spent in steps, validation excluded
        self.steps_per_epoch = len(self.sampler) // config.accumulate
        if self.steps_per_epoch == 0:
            raise ConfigError(f"train.accumulate: an epoch has {len(self.sampler)} pieces, a step needs {config.accumulate}")
        self.steps = config.max_steps or config.epochs * self.steps_per_epoch

    def batches(self, start: int) -> Iterator[list[Batch]]:
        """The pieces of every step from ``start`` on; which images they hold depends on seed and step alone."""
        step = start
        while step < self.steps:
            epoch, done = divmod(step, self.steps_per_epoch)
            self.loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            self.sampler.set_epoch(epoch)
            self.sampler.skip = done * self.config.accumulate
            pieces: list[Batch] = []
            for piece in self.loader:
                pieces.append(piece)
                if len(pieces) == self.config.accumulate:
                    yield pieces
                    pieces, step = [], step + 1
                    if step == self.steps:
                        return

    def step(self, pieces: list[Batch], step: int) -> tuple[float, float]:
        """One optimizer step; returns (mean loss, gradient norm before clipping)."""
        began = time.perf_counter()
        training_mode(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.config, group["peak"],
                                        steps_per_epoch=self.steps_per_epoch)
        total = 0.0
        for number, piece in enumerate(pieces, start=1):
            with self.accelerator.autocast(), self._sync(last=number == len(pieces)):
                loss = self.task.loss(self.model, piece.to(self.accelerator.device), step)
                self._check(loss, step)
                self.accelerator.backward(loss / len(pieces))
            total += loss.item() / len(pieces)
        self.attached.gather()
        norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds += time.perf_counter() - began
        return total, norm

    def _clip(self) -> float:
        """Clip gradients; returns their norm before, without what has a loss of its own."""
        (shared, apart), largest = self.clipped, self.config.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(shared, largest)  # first: under fp16 it takes the scale out of all of them
        torch.nn.utils.clip_grad_norm_(apart, largest)
        return float(norm) if norm is not None else 0.0

    def _sync(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def _check(self, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {step + 1}: the last good state is on disk; "
                                "try a smaller train.lr, train.precision=fp32, or gps-seg data check")


def fit(
    model: nn.Module, attached: Trained, task: Learner, loader: DataLoader[Any], validate: Validation, *,
    config: TrainConfig, accelerator: Accelerator, log: RunLog, resume: bool = False,
) -> FitResult:
    """Train what is attached; leaves the best validated values in the model. Where nothing is, no step is taken.

    A checkpoint is written every ``checkpoint_every`` steps, atomically; with ``resume`` a run goes on from it and ends as
    if it had never stopped (bit for bit on one CPU).

    Raises:
        TrainingError: the loss is not a number, the disk is full, or the run was interrupted; a good state is on disk.
    """
    if not attached.trainable():
        return _as_it_is(model, attached, config, validate, log)
    run = Fit(model, attached, task, loader, config, accelerator)
    state = TrainingState()
    if resume and log.state_path.exists():
        state = load_state(log.state_path, attached, run.optimizer.optimizer, accelerator.scaler)
    first_step, every = state.step, config.validate_every or run.steps_per_epoch
    log.open(state.step, run.steps)
    with Interruption() as interruption, repeatable(accelerator.device):
        for pieces in run.batches(state.step):
            if _has_converged(state, config):
                break
            loss, norm = run.step(pieces, state.step)
            state.step += 1
            state.update_ema(attached, config.ema)
            rate = learning_rate(state.step - 1, run.steps, config, steps_per_epoch=run.steps_per_epoch)
            log.row({"step": state.step, "loss": loss, "lr": rate, "gradient_norm": norm})
            if validate is not None and (state.step % every == 0 or state.step == run.steps):
                _validate(run, state, validate, log)
            if state.step == run.steps and (validate is None or config.keep == "last"):
                state.keep_last({name: value.clone() for name, value in (state.ema or attached.state()).items()})
            due = state.step % config.checkpoint_every == 0 or state.step == run.steps or interruption.asked
            if due and log.enabled:
                save_state(log.state_path, state, attached, run.optimizer.optimizer, accelerator.scaler)
            if interruption.asked:
                raise TrainingError(f"interrupted at step {state.step} of {run.steps}; run again with --resume to go on")
    log.close()
    accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
    attached.load(state.best)
    stopped = f"no better score in {config.patience} validations" if state.step < run.steps else "finished"
    return FitResult(state.step, state.best_step, state.best_score, run.seconds / max(1, state.step - first_step), stopped)


def _as_it_is(model: nn.Module, attached: Trained, config: TrainConfig, validate: Validation, log: RunLog) -> FitResult:
    """The result of no step at all, with the base's own score on the inner validation part."""
    rate_groups(attached, config)  # a rate of what does not train is refused here too
    score = 0.0 if validate is None else validate(model)
    log.say("nothing trains: the base is scored as it is")
    return FitResult(0, 0, score, 0.0, "nothing trains")


def _has_converged(state: TrainingState, config: TrainConfig) -> bool:
    return config.patience is not None and state.validations_without_gain >= config.patience


def _validate(run: Fit, state: TrainingState, validate: Callable[[nn.Module], float], log: RunLog) -> None:
    """Score the current values (their average, if there is one) and remember the best."""
    current = run.attached.state()
    if state.ema:
        run.attached.load(state.ema)
    score = validate(run.plain)  # each process scores the same images, so they agree without talking
    improved = state.record(score, run.attached.state())
    run.attached.load(current)
    name = run.task.score_name
    log.row({"step": state.step, f"validation_{name}": score})
    log.say(f"step {state.step}/{run.steps}: inner validation {name} {score:.4f}{', the best so far' if improved else ''}")
    if improved:
        log.best(state.best, state.step)
