"""Images with masks as batches, and images without."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from gps_seg.data.batches import Batch
from gps_seg.data.images import read_image, read_mask
from gps_seg.data.transforms import Augment, Geometry, Mask, Pixels, fit_image, fit_mask, normalise, sample_seed
from gps_seg.errors import DataError
from gps_seg.models.spec import SamSpec
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.pasting import paste

Triple = tuple[float, float, float]
DRAWN = 8  # images among which one with a polyp is looked for
Change = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]


@dataclass(frozen=True)
class MaskBatch(Batch):
    """A batch of images with masks.

    Attributes:
        target: all zero for images without a mask.
        valid: bool (B, 1, S, S), False in the padding.
        boxes: float32 (B, 4) xyxy in input pixels around all mask pixels; the whole content for an empty mask.
        geometry: per image.
    """

    valid: Tensor
    boxes: Tensor
    geometry: tuple[Geometry, ...]


@dataclass(frozen=True)
class Fitted:
    """One image of a :class:`MaskBatch`, as arrays of its own."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    id: str
    geometry: Geometry


def collate(items: Sequence[Fitted]) -> MaskBatch:
    """Stack items of one input size."""
    return MaskBatch(
        image=torch.from_numpy(np.stack([item.image for item in items])),
        target=torch.from_numpy(np.stack([_pad(item.mask, item.geometry.input_size) for item in items])[:, None]).float(),
        valid=torch.from_numpy(np.stack([_valid(item.geometry) for item in items])[:, None]),
        boxes=torch.from_numpy(np.stack([_box(item.mask) for item in items])),
        ids=tuple(item.id for item in items),
        geometry=tuple(item.geometry for item in items),
    )


def _pad(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    square = np.zeros((size, size), np.bool_)
    square[: mask.shape[0], : mask.shape[1]] = mask
    return square


def _valid(geometry: Geometry) -> NDArray[np.bool_]:
    return _pad(np.ones(geometry.content_size, np.bool_), geometry.input_size)


def _box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        rows, columns = np.array([0, mask.shape[0] - 1]), np.array([0, mask.shape[1] - 1])
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


class PolypDataset(Dataset[Fitted]):
    """Labelled images, resized, augmented and normalised.

    Args:
        pairs: image and mask files.
        input_size, resize, mean, std, stretch: what the model expects, see ``models.sam.SamSpec``.
        augment: from ``transforms.augmentation``; None for none.
        pasted: before it, the probability that an image without a polyp gets one of another image, see ``pasting``.
        seed: with the epoch and the index it decides an image's augmentation.
        cache: keep resized images and masks in memory.
        change: (image uint8 RGB (H, W, 3), id) -> image of the same size, before the resizing; masks stay as they are.

    Raises:
        DataError: from indexing, for an unreadable file or a mask that has not its image's size.
    """

    def __init__(
        self, pairs: Sequence[Pair], *, input_size: int, resize: str, mean: Triple, std: Triple,
        stretch: bool = False, augment: Augment | None = None, pasted: float = 0.0, seed: int = 0, cache: bool = True,
        change: Change | None = None,
    ) -> None:
        self.pairs, self.input_size, self.resize, self.mean, self.std = list(pairs), input_size, resize, mean, std
        self.stretch = stretch
        self.augment, self.pasted, self.seed, self.epoch, self.change = augment, pasted, seed, 0, change
        self._cache: dict[int, Any] | None = {} if cache else None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentations come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Fitted:
        image, mask, geometry = self._fitted(index)
        seed = sample_seed(self.seed, self.epoch, index)
        if self.pasted and not mask.any():
            image, mask = self._with_polyp(image, mask, random.Random(f"{seed}/paste"))
        if self.augment is not None:
            image, mask = self.augment(image, mask, seed)
        values = normalise(image, self.input_size, self.mean, self.std, stretch=self.stretch)
        return Fitted(values, mask, self.pairs[index].id, geometry)

    def _with_polyp(self, image: Pixels, mask: Mask, chance: random.Random) -> tuple[Pixels, Mask]:
        """By chance a polyp of another image on this one; the image itself if those drawn have none either."""
        if chance.random() < self.pasted:
            for _ in range(DRAWN):
                donor, polyp, _ = self._fitted(chance.randrange(len(self.pairs)))
                if polyp.any():
                    return paste(image, donor, polyp, chance)
        return image, mask

    def _fitted(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Geometry]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        pair = self.pairs[index]
        native = read_image(pair.image)
        native = self.change(native, pair.id) if self.change else native
        image, geometry = fit_image(native, self.input_size, self.resize)
        mask = read_mask(pair.mask)
        if mask.shape != geometry.native_size:  # stretching it over the image would teach wrong outlines
            (height, width), (rows, columns) = geometry.native_size, mask.shape
            raise DataError(f"{pair.mask}: the mask is {columns} x {rows} pixels, its image {width} x {height}; make them equal")
        fitted = image, fit_mask(mask, geometry.content_size), geometry
        if self._cache is not None:
            self._cache[index] = fitted
        return fitted


def fit_picture(pixels: NDArray[np.uint8], id_: str, spec: SamSpec) -> Fitted:
    """A picture without a mask, RGB (H, W, 3), resized and normalised as a model expects it."""
    image, geometry = fit_image(pixels, spec.input_size, spec.resize)
    empty = np.zeros(geometry.content_size, np.bool_)
    return Fitted(spec.normalise(image), empty, id_, geometry)


class UnlabelledImages(Dataset[Fitted]):
    """Images to predict, by path; the id is the file's stem and the mask is empty."""

    def __init__(self, paths: Sequence[Path], spec: SamSpec) -> None:
        self.paths, self.spec = list(paths), spec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Fitted:
        return fit_picture(read_image(self.paths[index]), self.paths[index].stem, self.spec)
