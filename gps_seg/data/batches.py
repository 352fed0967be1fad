"""What every data set yields, and the order in which it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import Sampler

from gps_seg.data.transforms import sample_seed


@dataclass(frozen=True)
class Batch:
    """B images as a model takes them, S pixels on each side.

    Attributes:
        image: float32 (B, 3, S, S), normalised; (B, 2, 3, S, S) for two views of each image.
        target: what the task learns: masks float32 (B, 1, S, S) of 0 and 1, or labels int64 (B,).
        ids: of the images.
    """

    image: Tensor
    target: Tensor
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()
                                 if isinstance(value, Tensor)}
        return replace(self, **moved)


class ResumableBatches(Sampler[Any]):
    """Batches whose order depends on (seed, epoch) alone, and which can start in an epoch's middle, after ``skip`` of them."""

    epoch, skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        raise NotImplementedError


class EpochBatches(ResumableBatches):
    """Batches of indices whose order depends on (seed, epoch) alone, and which can start in the middle of an epoch.

    Args:
        n: number of images.
        batch_size: images a batch, all processes together; an incomplete last batch is dropped unless it is the only one.
        share: (rank, number of processes); each process gets every n-th image of each batch.
        mixed: (number of images whose indices follow the n, how many of them an epoch draws and mixes into its order).
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, *, shuffle: bool, share: tuple[int, int] = (0, 1),
        mixed: tuple[int, int] = (0, 0),
    ) -> None:
        self.n, self.batch_size, self.seed, self.shuffle, self.share = n, batch_size, seed, shuffle, share
        self.mixed = mixed

    def __len__(self) -> int:
        return max(1, (self.n + self.mixed[1]) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        further, drawn = self.mixed
        order = [*range(self.n), *(self.n + index for index in self._permuted(further, -2)[:drawn])]
        if self.shuffle:
            order = [order[at] for at in self._permuted(len(order), -1)]
        rank, processes = self.share
        for number in range(self.skip, len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size][rank::processes]

    def _permuted(self, n: int, stream: int) -> list[int]:
        """The numbers below n in an order that seed, epoch and stream decide."""
        generator = torch.Generator().manual_seed(sample_seed(self.seed, self.epoch, stream))
        return torch.randperm(n, generator=generator).tolist()


class Turn(NamedTuple):
    """An image in a batch of :class:`TurnBatches`: of which data set, in which of that set's epochs, and its index there."""

    place: int
    epoch: int
    image: int


class TurnBatches(ResumableBatches):
    """Batches of several data sets in turn. Each set's batches come as they would if it were alone, epoch after epoch.

    An epoch has as many rounds as the longest set's own; in a round each set gives ``pieces`` batches, one set after the other.

    Args:
        orders: of each set; an epoch of each holds at least ``pieces`` batches.
        pieces: batches of a set in a round.
    """

    def __init__(self, orders: Sequence[EpochBatches], pieces: int) -> None:
        self.orders, self.pieces = orders, pieces
        self.rounds = [len(order) // pieces for order in orders]
        self._known: dict[int, tuple[int, list[list[int]]]] = {}  # by set: an epoch and its batches

    def __len__(self) -> int:
        return max(self.rounds) * len(self.orders) * self.pieces

    def __iter__(self) -> Iterator[list[Turn]]:
        for number in range(self.skip, len(self)):
            round_, rest = divmod(number, len(self.orders) * self.pieces)
            place, piece = divmod(rest, self.pieces)
            epoch, done = divmod(self.epoch * max(self.rounds) + round_, self.rounds[place])
            yield [Turn(place, epoch, image) for image in self._batches(place, epoch)[done * self.pieces + piece]]

    def _batches(self, place: int, epoch: int) -> list[list[int]]:
        if self._known.get(place, (-1,))[0] != epoch:
            order = self.orders[place]
            order.set_epoch(epoch)
            self._known[place] = epoch, list(order)
        return self._known[place][1]
