"""Polyp-against-mucosa patches cut from images and masks: a classification task from a segmentation set. No torch.

Each image gives as many polyp as mucosa patches, so neither its light nor its endoscope tells the class, and the split is
by image, so no image is on both sides. What remains: burned-in text lies at the rim, so mucosa patches show it more often, and
near-identical frames under two names count as two images.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.config import PolypDataConfig
from gps_seg.data.images import read_image, read_mask
from gps_seg.data.splits import Splits
from gps_seg.errors import DataError
from gps_seg.tasks.classification.items import Item, Parts
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.parts import load_splits, official_lists
from gps_seg.tasks.segmentation.sets import set_pairs

CLASS_NAMES = ("mucosa", "polyp")
SIDE, PER_CLASS = 64, 2
POLYP_FRACTION = 0.6
# Tissue is bright and reddish; the black border, grey text and the green position inset are not. Values in 0..1.
MIN_BRIGHTNESS, MIN_SATURATION, MIN_RED_TO_GREEN, DARK, MAX_DARK_FRACTION = 0.25, 0.15, 1.15, 0.1, 0.02


@dataclass(frozen=True)
class Patch:
    """A square of an image: its upper left corner, its label (index into CLASS_NAMES) and a copy of its pixels."""

    top: int
    left: int
    label: int
    pixels: NDArray[np.uint8]


def cut_patches(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], *, side: int = SIDE, per_class: int = PER_CLASS, salt: str = ""
) -> list[Patch]:
    """Patches that do not overlap, equally many of both classes: polyp if at least 60 % lies in the mask, mucosa if nothing.

    Both kinds must show tissue: bright, saturated, clearly more red than green, and hardly any black. An image may give none.

    Args:
        image: uint8 RGB (H, W, 3).
        mask: bool (H, W), True in the polyp.
        side: pixels of a patch's side, at the image's own resolution.
        per_class: the most of each class.
        salt: decides, with the pixels, which of the possible ones are taken.
    """
    if side < 8 or per_class < 1:
        raise DataError(f"patches: expected side >= 8 and at least 1 per class, got side {side} and {per_class} per class")
    if mask.shape != image.shape[:2]:
        raise DataError(f"patches: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                        f"{image.shape[1]} x {image.shape[0]}")
    if min(mask.shape) < side:
        return []
    step = max(1, side // 8)
    inside, tissue = _window_means(mask[..., None], side, step)[..., 0], _tissue(image, side, step)
    chance = random.Random(salt)
    polyps = _pick(tissue & (inside >= POLYP_FRACTION), side, step, per_class, chance)
    mucosa = _pick(tissue & (inside == 0), side, step, len(polyps), chance)
    return [Patch(top, left, label, image[top : top + side, left : left + side].copy())
            for label, corners in ((0, mucosa), (1, polyps[: len(mucosa)])) for top, left in corners]


def _window_means(values: NDArray[np.generic], side: int, step: int) -> NDArray[np.float64]:
    """Means over all squares on a grid: (H, W, C) -> (rows, columns, C), exact for integers and booleans."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1, values.shape[2]), np.int64)
    np.cumsum(np.cumsum(values, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    low, high = sums[:-side:step], sums[side::step]
    return (high[:, side::step] - low[:, side::step] - high[:, :-side:step] + low[:, :-side:step]) / (side * side)


def _tissue(image: NDArray[np.uint8], side: int, step: int) -> NDArray[np.bool_]:
    """Where a patch shows tissue, by its mean brightness, its mean saturation, its mean color and its share of black."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    most, least = np.maximum(np.maximum(red, green), blue).astype(np.int32), np.minimum(np.minimum(red, green), blue)
    saturation = 255 * (most - least) // np.maximum(most, 1)
    black = most < DARK * 255
    means = _window_means(np.dstack([most, saturation, red, green, black]), side, step)
    bright, colored = means[..., 0] >= MIN_BRIGHTNESS * 255, means[..., 1] >= MIN_SATURATION * 255
    return bright & colored & (means[..., 2] >= MIN_RED_TO_GREEN * means[..., 3]) & (means[..., 4] <= MAX_DARK_FRACTION)


def _pick(possible: NDArray[np.bool_], side: int, step: int, number: int, chance: random.Random) -> list[tuple[int, int]]:
    """Corners of squares that do not overlap, in random order, ``number`` at most."""
    corners = [(int(row) * step, int(column) * step) for row, column in np.argwhere(possible)]
    chance.shuffle(corners)
    taken: list[tuple[int, int]] = []
    for top, left in corners:
        if len(taken) == number:
            break
        if all(abs(top - other) >= side or abs(left - beside) >= side for other, beside in taken):
            taken.append((top, left))
    return taken


def patch_items(pairs: Sequence[Pair], *, side: int = SIDE, per_class: int = PER_CLASS, seed: int = 0) -> list[Item]:
    """The patches of many images; an image's patches depend on its name and the seed, not on the other images.

    Raises:
        DataError: an image or mask cannot be read, or their sizes differ.
    """
    items = []
    for pair in pairs:
        image, mask = read_image(pair.image), read_mask(pair.mask)
        if mask.shape != image.shape[:2]:
            raise DataError(f"{pair.mask}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                            f"{image.shape[1]} x {image.shape[0]}; make them equal")
        patches = cut_patches(image, mask, side=side, per_class=per_class, salt=f"patches {seed} {pair.id}")
        items += [Item(patch.pixels, patch.label, f"{pair.id}@{patch.top},{patch.left}") for patch in patches]
    return items


def patch_parts(root: Path, *, side: int = SIDE, per_class: int = PER_CLASS, seed: int = 0) -> Parts:
    """Training, validation and test patches of a folder with images/ and masks/.

    Kvasir-SEG is split by its official lists, any other folder by its train.txt and test.txt, or a fixed fifth is test.

    Raises:
        DataError: images, masks and lists do not agree, or one part gives no patch of this side.
    """
    splits = _splits(root)
    parts = {name: patch_items(pairs, side=side, per_class=per_class, seed=seed) for name, pairs in
             (("training", splits.train), ("validation", splits.inner), ("test", splits.test))}
    for name, items in parts.items():
        if not items:
            raise DataError(f"{root}: no {side} x {side} patch of both polyp and mucosa fits into the {name} images; "
                            "choose a smaller side")
    return Parts(parts["training"], parts["validation"], parts["test"], CLASS_NAMES)


def _splits(root: Path) -> Splits[Pair]:
    train, test = official_lists()
    official = {*train, *test} <= {pair.id for pair in set_pairs(str(root))}
    return load_splits(PolypDataConfig(name="kvasir-seg" if official else "folder", root=root))
