"""Everything between a file and a model: the resize rule, normalisation, augmentation."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gps_seg.config import AugmentConfig

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Augment = Callable[[Pixels, Mask, int], tuple[Pixels, Mask]]


@dataclass(frozen=True)
class Geometry:
    """How an image was fitted. Sizes are (height, width); the content is the upper left part of the square."""

    native_size: tuple[int, int]
    content_size: tuple[int, int]
    input_size: int


def content_size(native: tuple[int, int], input_size: int, rule: str) -> tuple[int, int]:
    """Size of the image inside the input square; ``longest_side`` rounds as segment-anything's ResizeLongestSide."""
    if rule == "squash":
        return input_size, input_size
    scale = input_size / max(native)
    return max(1, int(native[0] * scale + 0.5)), max(1, int(native[1] * scale + 0.5))


def fit_image(image: Pixels, input_size: int, rule: str) -> tuple[Pixels, Geometry]:
    """Resize RGB (H, W, 3) to its content size, antialiased bilinear, as the stock predictor does. No padding yet."""
    native = (image.shape[0], image.shape[1])
    size = content_size(native, input_size, rule)
    resized = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return resized, Geometry(native, size, input_size)


def fit_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask (H, W) to a content size: area average, then one half, which keeps thin parts better than nearest."""
    resized = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized) > 127


def normalise(
    image: Pixels, input_size: int, mean: tuple[float, float, float], std: tuple[float, float, float], *, stretch: bool = False
) -> NDArray[np.float32]:
    """(h, w, 3) in 0..255 -> float32 (3, S, S): (image - mean) / std, then zeros to the right and below.

    Args:
        stretch: before it, the darkest value of all channels becomes 0 and the brightest 255; an even image becomes 0.
    """
    square = np.zeros((3, input_size, input_size), np.float32)
    values = image.astype(np.float32)
    if stretch:
        values -= values.min()
        values *= 255 / max(float(values.max()), 1.0)
    square[:, : image.shape[0], : image.shape[1]] = (
        (values - np.array(mean, np.float32)) / np.array(std, np.float32)
    ).transpose(2, 0, 1)
    return square


def augmentation(config: AugmentConfig) -> Augment:
    """A function (image, mask, seed) -> (image, mask) of the same size. Its result depends on the three alone.

    Built on albumentations 2.0.8; every call seeds it anew, so neither worker nor order matters.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network at import otherwise
    import albumentations as A
    import cv2

    low, high = 1 - config.scale_limit, 1 + config.scale_limit
    limit = config.color_limit
    steps: list[Any] = [
        A.HorizontalFlip(p=config.horizontal_flip),
        A.VerticalFlip(p=config.vertical_flip),
        A.Affine(rotate=(-config.rotate_limit, config.rotate_limit), scale=(low, high), translate_percent=(-0.05, 0.05),
                 shear=(-config.shear_limit, config.shear_limit), border_mode=cv2.BORDER_CONSTANT, p=config.rotate),
        A.ColorJitter(brightness=(1 - limit, 1 + limit), contrast=(1 - limit, 1 + limit), saturation=(1 - limit, 1 + limit),
                      hue=(-limit / 4, limit / 4), p=config.color),
        A.GaussianBlur(sigma_limit=(0.3, 1.5), p=config.blur),
        A.GaussNoise(std_range=(0.01, 0.05), p=config.noise),
    ]

    @functools.cache
    def composed(height: int, width: int) -> Any:
        crop = A.RandomResizedCrop((height, width), scale=config.crop_area, ratio=(width / height, width / height), p=config.crop)
        return A.Compose([crop, *steps] if config.crop else steps)  # a step that never acts would still draw a random number

    def augment(image: Pixels, mask: Mask, seed: int) -> tuple[Pixels, Mask]:
        chance = random.Random(f"{seed}/empty")
        if chance.random() < config.empty_crop:
            image, mask = empty_crop(image, mask, config.crop_area, chance)
        compose = composed(*mask.shape)
        compose.set_random_seed(seed)
        done = compose(image=image, mask=mask.astype(np.uint8))
        return done["image"], done["mask"] > 0

    return augment


def empty_crop(image: Pixels, mask: Mask, area: tuple[float, float], chance: random.Random) -> tuple[Pixels, Mask]:
    """A crop without any mask pixel, enlarged to the image's size; the image itself where no crop of the least area is free.

    Args:
        image, mask: uint8 (H, W, 3) and bool (H, W). area: least and greatest part of the image, drawn between, evenly.
    """
    for part in (chance.uniform(*area), area[0]):
        height, width = (max(1, round(side * part**0.5)) for side in mask.shape)
        free = windows_without(mask, height, width)
        if len(free):
            top, left = free[chance.randrange(len(free))]
            window = Image.fromarray(image[top : top + height, left : left + width])
            return np.asarray(window.resize(mask.shape[::-1], Image.Resampling.BILINEAR)), np.zeros_like(mask)
    return image, mask


def windows_without(mask: Mask, height: int, width: int) -> NDArray[np.intp]:
    """Upper left corners (N, 2), as row and column, of the windows of a size that hold no pixel of a bool mask (H, W)."""
    sums = np.pad(mask, ((1, 0), (1, 0))).cumsum(0, np.int64).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return np.argwhere(inside == 0)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 32-bit seed for one image in one epoch, the same in every process and worker."""
    return random.Random(f"{seed}/{epoch}/{index}").getrandbits(32)
