"""A task's model on a device: the one prediction loop and the one scoring loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from gps_seg.config import RunConfig
from gps_seg.data.batches import Batch
from gps_seg.runs.device import autocast, pictures_at_once
from gps_seg.tasks.lookup import TASKS
from gps_seg.tasks.task import Change, Task


def make_task(config: RunConfig) -> Task:
    """The task of a run, from the sections of its settings that it reads."""
    kind: Any = TASKS[config.task]
    return kind(config.model, config.data, config.train, config.evaluate, config.seed)


def predictions(
    model: nn.Module, predict: Callable[[Any, Any], Iterable[Any]], batches: Iterable[Batch], device: torch.device, precision: str
) -> Iterator[tuple[str, Any]]:
    """Stream (id, prediction) in the order of the batches; holds one batch at a time. Leaves the model in eval mode.

    Args:
        predict: (model, batch) -> one prediction an image.
    """
    model.eval()
    for batch in batches:
        with torch.no_grad(), autocast(device, precision):
            found = predict(model, batch.to(device))
        yield from zip(batch.ids, found, strict=True)


@dataclass(frozen=True)
class TaskModel:
    """A task, its model, and where and how it computes.

    Attributes:
        classes: names of the classes; empty where images have masks.
    """

    task: Task
    model: Any
    classes: tuple[str, ...]
    device: torch.device
    precision: str

    def loader(
        self, items: Sequence[Any], batch_size: int, *, workers: int = 0, change: Change | None = None
    ) -> DataLoader[Any]:
        """Labelled items as they are, in order."""
        dataset = self.task.dataset(self.model, items, training=False, change=change)
        return DataLoader(dataset, batch_size=batch_size, collate_fn=self.task.collate, num_workers=workers)

    def predict(
        self, items: Sequence[Any], batch_size: int = 8, *, workers: int = 0, change: Change | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Stream (id, prediction) of labelled items, in their order."""
        return self.run_through(self.loader(items, batch_size, workers=workers, change=change))

    def predict_files(
        self, paths: Sequence[Path], batch_size: int | None = None, predict: Callable[[Any, Any], Iterable[Any]] | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Stream (stem, prediction) of image files, in their order; ``predict`` as for :meth:`run_through`.

        Args:
            batch_size: default: :func:`gps_seg.runs.device.pictures_at_once`.
        """
        dataset, size = self.task.unlabelled(self.model, paths), batch_size or pictures_at_once(self.device)
        return self.run_through(DataLoader(dataset, batch_size=size, collate_fn=self.task.collate), predict)

    def run_through(
        self, loader: Iterable[Batch], predict: Callable[[Any, Any], Iterable[Any]] | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Stream (id, prediction) of batches; ``predict`` is the task's own, or features instead."""
        return predictions(self.model, predict or self.task.predict, loader, self.device, self.precision)

    def score(
        self, items: Sequence[Any], loader: Iterable[Batch] | None = None, *, batch_size: int = 8, blocks: Sequence[str] = (),
        progress: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Score every item, in order; one batch in memory at a time.

        Args:
            loader: of these items, where they are to be read otherwise than :meth:`loader` reads them.
        """
        by_id = {item.id: item for item in items}
        scores = []
        answer = self.task.examine if blocks else self.task.predict
        for id_, prediction in self.run_through(loader if loader is not None else self.loader(items, batch_size), answer):
            scores.append(self.task.score(by_id[id_], prediction, blocks))
            if progress:
                progress()
        return scores
