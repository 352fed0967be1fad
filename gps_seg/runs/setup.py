"""From settings to everything that a training run works with, loaded and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from gps_seg.config import RunConfig
from gps_seg.core.kernels import why_not
from gps_seg.data.batches import EpochBatches
from gps_seg.data.splits import Splits
from gps_seg.errors import ConfigError
from gps_seg.runs.allocator import keep_freed_memory
from gps_seg.runs.device import resolve_device, resolve_precision
from gps_seg.runs.task_model import TaskModel, make_task

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup(TaskModel):
    """A task's model with its settings and its checked data."""

    config: RunConfig
    splits: Splits[Any]

    def training_loader(self, rank: int = 0, processes: int = 1) -> DataLoader[Any]:
        """Shuffled, augmented batches; seed, epoch and index alone decide them. Raises ConfigError: they cannot be shared."""
        config = self.config.train
        if config.batch_size % (config.accumulate * processes):
            raise ConfigError(f"train.batch_size: {config.batch_size} images cannot be shared by {processes} processes in "
                              f"{config.accumulate} pieces each")
        negatives, drawn = self.splits.negatives.beside(len(self.splits.train))
        dataset = self.task.dataset(self.model, (*self.splits.train, *negatives), training=True)
        sampler = EpochBatches(len(self.splits.train), config.batch_size // config.accumulate, self.config.seed, shuffle=True,
                               share=(rank, processes), mixed=(len(negatives), drawn))
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=self.task.collate, num_workers=self.config.data.workers)

    def validation(self) -> Callable[[nn.Module], float] | None:
        """Scores a model on the inner validation part; None where the protocol keeps none."""
        inner = self.splits.inner
        if not inner:
            return None
        loader = self.loader(inner, self.config.evaluate.batch_size, workers=self.config.data.workers)

        def validate(model: nn.Module) -> float:
            return self.task.mean_score(replace(self, model=model).score(inner, loader))

        return validate

    def reported(self) -> tuple[str, tuple[Any, ...]]:
        """The part that the run's result speaks of: test, or inner where the protocol or the data set has no test part."""
        return ("test", self.splits.test) if self.splits.test else ("inner", self.splits.inner)


def prepare(config: RunConfig, say: Say = print) -> Setup:
    """Load and check data and model; the data's warnings are said, its errors raised.

    Raises:
        DataError, ConfigError, CheckpointError: what is wrong, in one line.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    precision = resolve_precision(config.train.precision, device)
    if config.train.backend == "triton" and (reason := why_not(device)):
        raise ConfigError(f"train.backend=triton: {reason}")
    task = make_task(config)
    splits = task.splits()
    for text in task.check(splits):
        say(f"warning: {text}")
    return Setup(task, task.model(splits.class_names).to(device), splits.class_names, device, precision, config, splits)
