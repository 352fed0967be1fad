"""The one seam between kinds of work: what a task gives to the training loop, the prediction loop, the folder and the reports.

A task is made from sections of the settings; it knows no method, no device and no run folder. :mod:`gps_seg.tasks.lookup` lists
all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gps_seg.data.batches import Batch
from gps_seg.data.splits import Splits

Document = dict[str, Any]
# Items of a data set -> (id, prediction), in their order; the model, its device and its precision are the caller's.
Predict = Callable[[Sequence[Any]], Iterator[tuple[str, Any]]]
Change = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]  # (image uint8 RGB (H, W, 3), id) -> image of the same size


class Learner(Protocol):
    """What the training loop asks for."""

    @property
    def score_name(self) -> str:
        """What the inner validation measures, in one word, such as dice; higher is better."""
        ...

    def loss(self, model: nn.Module, batch: Any, step: int = 0) -> Tensor:
        """Scalar training loss; seed and step decide all that is random in it."""
        ...


class Task(Learner, Protocol):
    """One kind of work. Items are what its data sets hold, scores what it says of one item's prediction."""

    # Data and model

    def splits(self) -> Splits[Any]:
        """The configured data set in its parts, as far as the protocol lets a run see them. Raises DataError."""
        ...

    def check(self, splits: Splits[Any]) -> list[str]:
        """Warnings about the data. Raises DataError for what no run should train on."""
        ...

    def items(self, data: str | None, split: str, classes: Sequence[str]) -> list[Any]:
        """What to evaluate on: a known name or a folder, or None for the task's own data. Raises DataError, ConfigError."""
        ...

    def files(self, item: Any) -> tuple[Path, ...]:
        """The files of an item, its image first; none for images that are made, not read."""
        ...

    def model(self, classes: Sequence[str]) -> nn.Module:
        """The pretrained model, on the CPU; ``classes`` are the data set's, empty where images have masks."""
        ...

    def facts(self, model: Any) -> Document:
        """What a saved delta must say of its model, so that the model can be rebuilt and judged."""
        ...

    # Batches

    def dataset(self, model: Any, items: Sequence[Any], *, training: bool, change: Change | None = None) -> Dataset[Any]:
        """Labelled items as the model expects them; in training with the configured augmentation and a ``set_epoch``.

        Args:
            change: of the image at its native size; targets stay as they are.
        """
        ...

    def unlabelled(self, model: Any, paths: Sequence[Path]) -> Dataset[Any]:
        """Image files to predict; the id is the file's stem."""
        ...

    def collate(self, samples: Sequence[Any]) -> Batch:
        """A batch of what the data sets yield."""
        ...

    def selection_loader(self, model: Any, items: Sequence[Any], options: Any) -> DataLoader[Any]:
        """The batches of a selection pass."""
        ...

    # Arithmetic, beside the loss

    def selection_loss(self, model: nn.Module, batch: Any, options: Any) -> Tensor:
        """What the selection pass differentiates."""
        ...

    def predict(self, model: nn.Module, batch: Any) -> Sequence[Any]:
        """One prediction an image: probabilities, before any threshold."""
        ...

    def examine(self, model: nn.Module, batch: Any) -> Sequence[Any]:
        """What a report scores: predictions, or more than a prediction of each image. For :meth:`score` with blocks."""
        ...

    # Judgement

    def score(self, item: Any, prediction: Any, blocks: Sequence[str] = ()) -> Any:
        """One item's score; ``blocks`` ask for more than the validation needs."""
        ...

    def mean_score(self, scores: Sequence[Any]) -> float:
        """The number that ``score_name`` names."""
        ...

    def protocol(self, model: Any, data: str | None, split: str) -> Document:
        """What a reader must know of scores beside the numbers; texts under keys that end in ``warning`` are said aloud.

        Args:
            data: as for :meth:`items`.
        """
        ...

    def report(
        self, scores: Sequence[Any], *, settings: Mapping[str, Any], classes: Sequence[str], groups: Sequence[str] | None = None
    ) -> Document:
        """The document of many scores, with one row an image under ``images``."""
        ...

    def table(self, document: Document) -> str:
        """The document for a terminal; the last line is :meth:`headline`."""
        ...

    def headline(self, document: Document) -> str:
        """The document in one line."""
        ...

    def finish(self, items: Sequence[Any], scores: Sequence[Any], predict: Predict, folder: Path) -> Document:
        """What a finished run leaves beside its report: files in its folder, and further keys of the document."""
        ...
