"""What every data set yields, and the order in which it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

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


class EpochBatches(Sampler[list[int]]):
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
        self.epoch, self.skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

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
