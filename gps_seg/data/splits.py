"""A data set in its parts, and the lists that name them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from gps_seg.errors import DataError

AnyT = TypeVar("AnyT")


class Item(Protocol):
    """A labelled image of a data set; ``id`` is unique in it."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


ItemT_co = TypeVar("ItemT_co", bound=Item, covariant=True)


@dataclass(frozen=True)
class Negatives(Generic[ItemT_co]):
    """Images of further sets that show nothing of what is looked for.

    Attributes:
        train: are mixed into training.
        held: are kept from it, to choose on when a model should answer nothing.
        share: part of an epoch's images that are of ``train``, below 1.
    """

    train: tuple[ItemT_co, ...] = ()
    held: tuple[ItemT_co, ...] = ()
    share: float = 0.0

    def beside(self, images: int) -> tuple[tuple[ItemT_co, ...], int]:
        """Beside an epoch's other images: items to draw from, each as often as it may come, and how many are drawn."""
        if not self.train:
            return (), 0
        number = max(1, round(images * self.share / (1 - self.share)))
        return self.train * -(-number // len(self.train)), number


@dataclass(frozen=True)
class Splits(Generic[ItemT_co]):
    """The parts of a data set: for training, for model selection (inner validation), and for the one test at the end.

    Disjoint by id, except under the released code's protocol, where the first images of training and all of the inner part are
    the test images. ``class_names`` is empty where images have masks; ``negatives`` come from further sets.
    """

    train: tuple[ItemT_co, ...]
    inner: tuple[ItemT_co, ...]
    test: tuple[ItemT_co, ...]
    class_names: tuple[str, ...] = ()
    negatives: Negatives[ItemT_co] = Negatives()


def read_lines(path: Path) -> list[str]:
    """The lines of a list of images, stripped; blank ones are empty. Raises DataError: there is no such list."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark before the first name
    except (OSError, UnicodeDecodeError):
        raise DataError(f"expected a list of images at {path}, cannot read it") from None
    return [line.strip() for line in text.splitlines()]


def spread(items: Sequence[AnyT], most: int | None) -> tuple[AnyT, ...]:
    """At most so many items, spread evenly over their order; the same ones every time, all for None."""
    if most is None or most >= len(items):
        return tuple(items)
    return tuple(items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int).tolist())
