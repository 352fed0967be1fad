"""The learning rate of each step: warm-up, cosine, cooldown."""

from __future__ import annotations

import math

from gps_seg.config import TrainConfig


def learning_rate(
    step: int, steps: int, config: TrainConfig, peak: float | None = None, *, steps_per_epoch: int = 1
) -> float:
    """The rate of a step, which counts from 0, of ``steps``, under ``train.schedule``.

    Args:
        peak: where the cosine begins; default: ``train.lr``.
        steps_per_epoch: read by the schedule that changes once an epoch.
    """
    peak = config.lr if peak is None else peak
    if config.schedule == "timm":
        return _by_epochs(step // steps_per_epoch, math.ceil(steps / steps_per_epoch), config, peak)
    warmup, steps = int(config.warmup * steps), steps - int(config.cooldown * steps)
    if step < warmup:
        return config.warmup_lr + (peak - config.warmup_lr) * (step + 1) / warmup
    return _cosine((step - warmup) / max(1, steps - warmup), config.min_lr, peak)


def _by_epochs(epoch: int, epochs: int, config: TrainConfig, peak: float) -> float:
    """As timm's CosineLRScheduler with its defaults, stepped at the end of each epoch.

    The first epoch of a warm-up has ``warmup_lr`` itself, and the cosine's time runs from the first epoch on: after the warm-up
    the rate is what is left of the cosine by then, so that the peak is never reached.

    Source: timm, scheduler/cosine_lr.py and scheduler_factory.py, as FightingFighting/GPS, train_gps.py, calls them (timm 0.6.5).
    """
    warmup, decay = round(config.warmup * epochs), epochs - round(config.cooldown * epochs)
    if epoch < warmup:
        return config.warmup_lr + epoch * (peak - config.warmup_lr) / warmup
    return _cosine(epoch / max(1, decay), config.min_lr, peak)


def _cosine(progress: float, low: float, peak: float) -> float:
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
