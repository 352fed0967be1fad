"""Normalised tensors of labelled images: the training recipes, the two views of the selection loss, the test cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gps_seg.config import ClassAugmentConfig
from gps_seg.data.batches import Batch
from gps_seg.data.images import read_image
from gps_seg.data.seeding import all_seeded
from gps_seg.data.transforms import normalise, sample_seed
from gps_seg.errors import ConfigError
from gps_seg.packages import import_torchvision
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.task import Change

Triple = tuple[float, float, float]
Transform = Callable[[Image.Image], Image.Image]
VIEW_JITTER, VIEW_JITTER_PROBABILITY, VIEW_GREY_PROBABILITY = (0.4, 0.4, 0.4, 0.1), 0.8, 0.2
HALF_GREY = (127.5, 127.5, 127.5)


def train_transform(config: ClassAugmentConfig, input_size: int, mean: Triple = HALF_GREY) -> Transform:
    """The recipe of training images, RGB to RGB of the input size. Randomness comes from the global generators.

    Args:
        config: recipe and its strengths.
        input_size: pixels of a side of the result.
        mean: in 0..255; RandAugment fills what it moves in with it.

    Raises:
        ConfigError: timm cannot read ``config.rand_augment``.
    """
    if config.recipe == "resize":
        return eval_transform(config, input_size)
    return _timm(config, input_size, mean, auto_augment=config.rand_augment if config.recipe == "timm" else None)


def view_transform(config: ClassAugmentConfig, input_size: int) -> Transform:
    """One view of the supervised contrastive loss: random crop, flip, color jitter, grey; the same for every recipe."""
    return _timm(config, input_size, HALF_GREY, color_jitter=VIEW_JITTER, color_jitter_prob=VIEW_JITTER_PROBABILITY,
                 grayscale_prob=VIEW_GREY_PROBABILITY)


def eval_transform(config: ClassAugmentConfig, input_size: int) -> Transform:
    """Test images: squashed to the square (resize), or the short side enlarged and the center cut; bicubic."""
    def squash(image: Image.Image) -> Image.Image:
        return image.resize((input_size, input_size), Image.Resampling.BICUBIC)

    def cut(image: Image.Image) -> Image.Image:
        short = int(input_size / config.crop_fraction)
        width, height = (int(side * short / min(image.size)) for side in image.size)
        left, top = round((width - input_size) / 2), round((height - input_size) / 2)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + input_size, top + input_size))

    return squash if config.recipe == "resize" else cut


def _timm(config: ClassAugmentConfig, input_size: int, mean: Triple, **options: Any) -> Transform:
    """timm's training transform up to the tensor, which is made by our own ``normalise``."""
    import_torchvision()
    from timm.data import create_transform

    wanted = {"color_jitter": None, "auto_augment": None, **options}
    try:
        geometry, color, _ = create_transform(
            input_size, is_training=True, separate=True, interpolation="random", scale=(config.min_scale, 1.0),
            hflip=config.horizontal_flip, mean=tuple(value / 255 for value in mean), **wanted,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(f"data.augment.rand_augment: timm cannot read {config.rand_augment!r} ({error})") from None
    return lambda image: color(geometry(image))


@dataclass(frozen=True)
class Sample:
    """One image of a batch: float32 (3, S, S), or two views of it (2, 3, S, S); its label; its name."""

    image: Tensor
    label: int
    id: str


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one shape."""
    return Batch(torch.stack([sample.image for sample in samples]), torch.tensor([sample.label for sample in samples]),
                 tuple(sample.id for sample in samples))


class ClassDataset(Dataset[Sample]):
    """Labelled images, cut or augmented, and normalised.

    Args:
        items: from ``data.classes.load_classification``.
        input_size: S, pixels.
        mean, std: of the pretrained model, in 0..255 (timm's times 255).
        stretch: whether it wants its pixels stretched first, see ``transforms.normalise``.
        augment: the recipe.
        training: False cuts test images instead of augmenting.
        two_views: two independent random views of each image, for the supervised contrastive selection loss.
        seed: with the epoch and the index it decides an image's augmentation, whatever the worker or the order.
        change: of the image before it is cut, see ``tasks.task``.

    Raises:
        DataError: from indexing, for an unreadable file.
    """

    def __init__(
        self, items: Sequence[Item], *, input_size: int, mean: Triple, std: Triple, augment: ClassAugmentConfig,
        training: bool, stretch: bool = False, two_views: bool = False, seed: int = 0, change: Change | None = None,
    ) -> None:
        self.items, self.input_size, self.mean, self.std, self.stretch = items, input_size, mean, std, stretch
        self.seed, self.epoch, self.views, self.change = seed, 0, 2 if two_views else 1, change
        if two_views:
            self.transform = view_transform(augment, input_size)
        else:
            self.transform = train_transform(augment, input_size, mean) if training else eval_transform(augment, input_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentations come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        pixels = item.source if isinstance(item.source, np.ndarray) else read_image(item.source)
        pixels = self.change(pixels, item.id) if self.change else pixels
        image = Image.fromarray(pixels).convert("RGB")
        with all_seeded(sample_seed(self.seed, self.epoch, index)):
            views = [np.asarray(self.transform(image)) for _ in range(self.views)]
        values = [normalise(view, self.input_size, self.mean, self.std, stretch=self.stretch) for view in views]
        tensors = [torch.from_numpy(value) for value in values]
        return Sample(torch.stack(tensors) if self.views == 2 else tensors[0], item.label, item.id)
