"""Answers averaged over mirror images: four looks at a picture instead of one, at four times the cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gps_seg.data.transforms import Geometry
from gps_seg.models.decoder import SamOutput
from gps_seg.tasks.segmentation.native import resize

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes of (H, W)


def averaged(answer: Callable[[Tensor], SamOutput], image: Tensor, geometry: Sequence[Geometry]) -> SamOutput:
    """The mean of logits and quality over the image (B, 3, S, S) and its mirror images, logits at (B, 1, S, S).

    Only the content is mirrored: the padding stays on the right and at the bottom, where the model knows it.
    """
    found = [answer(mirrored(image, geometry, axes)) for axes in MIRRORS]
    size = image.shape[-2:]
    logits = [mirrored(resize(one.logits, size), geometry, axes) for one, axes in zip(found, MIRRORS, strict=True)]
    return SamOutput(torch.stack(logits).mean(0), torch.stack([one.quality for one in found]).mean(0))


def mirrored(images: Tensor, geometry: Sequence[Geometry], axes: tuple[int, ...]) -> Tensor:
    """Images (B, C, S, S) with the content of each turned over along the axes; its own inverse."""
    if not axes:
        return images
    turned = images.clone()
    for row, one in enumerate(geometry):
        height, width = one.content_size
        turned[row, :, :height, :width] = images[row, :, :height, :width].flip(axes)
    return turned
