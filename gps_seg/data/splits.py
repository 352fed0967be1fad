"""A data set in its parts. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """A labelled image of a data set; ``id`` is unique in it."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


ItemT_co = TypeVar("ItemT_co", bound=Item, covariant=True)


@dataclass(frozen=True)
class Splits(Generic[ItemT_co]):
    """The parts of a data set: for training, for model selection (inner validation), and for the one test at the end.

    Disjoint by id, except under the released code's protocol, where the first images of training and all of the inner part are
    the test images. ``class_names`` is empty where images have masks.
    """

    train: tuple[ItemT_co, ...]
    inner: tuple[ItemT_co, ...]
    test: tuple[ItemT_co, ...]
    class_names: tuple[str, ...] = ()
