"""Several tasks in one training run: a model each, and in every step a batch of each, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gps_seg.data.batches import Batch, EpochBatches, Turn, TurnBatches
from gps_seg.errors import ConfigError
from gps_seg.runs.setup import Setup


class Models(nn.Module):
    """The tasks' models under one roof; each is called by itself."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.tasks, self.each = tuple(models), nn.ModuleList(models.values())

    def of(self, task: str) -> nn.Module:
        """One task's model."""
        return self.each[self.tasks.index(task)]


@dataclass(frozen=True)
class TaskBatch(Batch):
    """A batch of one of the tasks."""

    task: str = ""


class TurnDataset(Dataset[tuple[int, Any]]):
    """The tasks' data sets behind each other; an index says which one, and in which of its epochs."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the data sets' epochs differ, so that each index brings its own."""

    def __getitem__(self, turn: Turn) -> tuple[int, Any]:
        part = self.parts[turn.place]
        part.set_epoch(turn.epoch)
        return turn.place, part[turn.image]


@dataclass(frozen=True)
class Turns:
    """What the training loop asks for, of several tasks: the sum of their losses, each on its own batches.

    A task's own values so get the gradient that they would get alone, in the same steps.
    """

    setups: Mapping[str, Setup]

    @property
    def score_name(self) -> str:
        """What the mean over the tasks is of."""
        return next(iter(self.setups.values())).task.score_name

    def loss(self, model: Any, batch: TaskBatch, step: int = 0) -> Tensor:
        """The batch's task's loss, times the number of tasks: the loop takes the mean over the pieces of a step."""
        return len(self.setups) * self.setups[batch.task].task.loss(model.of(batch.task), batch, step)

    def models(self) -> Models:
        """All tasks' models."""
        return Models({task: setup.model for task, setup in self.setups.items()})

    def loader(self, pieces: int) -> DataLoader[Any]:
        """Batches of the tasks in turn, ``pieces`` of each in a step.

        Raises:
            ConfigError: a task has too few images for one step.
        """
        alone = {task: setup.training_loader() for task, setup in self.setups.items()}
        orders = [order for loader in alone.values() if isinstance(order := loader.batch_sampler, EpochBatches)]
        for task, order in zip(alone, orders, strict=True):
            if len(order) < pieces:
                raise ConfigError(f"train.accumulate: an epoch of {task} has {len(order)} pieces, a step needs {pieces}")
        dataset: Any = TurnDataset([loader.dataset for loader in alone.values()])
        return DataLoader(dataset, batch_sampler=TurnBatches(orders, pieces), collate_fn=partial(_collate, self.setups),
                          num_workers=max(loader.num_workers for loader in alone.values()))

    def validation(self) -> Callable[[nn.Module], float] | None:
        """The mean of the tasks' scores on their inner validation parts; None where the protocol keeps none."""
        own = {task: validate for task, setup in self.setups.items() if (validate := setup.validation()) is not None}
        if not own:
            return None

        def validate_all(models: Any) -> float:
            return mean(validate(models.of(task)) for task, validate in own.items())

        return validate_all


def _collate(setups: Mapping[str, Setup], samples: Sequence[tuple[int, Any]]) -> TaskBatch:
    task = tuple(setups)[samples[0][0]]
    batch = setups[task].task.collate([sample for _, sample in samples])
    return TaskBatch(batch.image, batch.target, batch.ids, task)
