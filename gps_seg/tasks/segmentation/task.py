"""Promptable segmentation with a SAM: loss, predict, score."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gps_seg.data.images import read_mask
from gps_seg.data.transforms import Geometry
from gps_seg.metrics.masks import ImageScore, score_image
from gps_seg.tasks.segmentation.dataset import Batch
from gps_seg.tasks.segmentation.losses import Loss, make_loss, total
from gps_seg.tasks.segmentation.pairs import Pair


@dataclass(frozen=True)
class Segmentation:
    """One foreground class, one mask an image.

    Attributes:
        loss_name: a key of ``tasks.losses.LOSSES``.
        box_probability: part of the training steps that see the true boxes as prompts, chosen by (seed, step).
        prompt: "none" or "box" at prediction; "box" needs batches made from masks.
        threshold: probability above which a pixel is foreground.
    """

    loss_name: str = "bce_iou"
    box_probability: float = 0.0
    seed: int = 0
    prompt: str = "none"
    threshold: float = 0.5

    @property
    def score_name(self) -> str:
        """What the inner validation measures."""
        return "dice"

    @cached_property
    def _loss(self) -> Loss:
        return make_loss(self.loss_name)

    def loss(self, model: nn.Module, batch: Batch, step: int = 0) -> Tensor:
        """Scalar training loss at the input's resolution."""
        boxes = batch.boxes if self._prompts_at(step) else None
        logits = model(batch.image, boxes=boxes).logits
        return total(self._loss, _resize(logits, batch.mask.shape[-2:]), batch.mask, batch.valid)

    def selection_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The promptless training loss; what the selection pass differentiates."""
        logits = model(batch.image).logits
        return total(self._loss, _resize(logits, batch.mask.shape[-2:]), batch.mask, batch.valid)

    def _prompts_at(self, step: int) -> bool:
        return self.box_probability > 0 and random.Random(f"{self.seed}/{step}").random() < self.box_probability

    def predict(self, model: nn.Module, batch: Batch) -> list[NDArray[np.float32]]:
        """Foreground probability of each image, float32 (H, W) at its native size."""
        boxes = batch.boxes if self.prompt == "box" else None
        logits = model(batch.image, boxes=boxes).logits.float()
        return [to_native(logits[index : index + 1], geometry) for index, geometry in enumerate(batch.geometry)]

    def score(self, pairs: Mapping[str, Pair], id_: str, probability: NDArray[np.float32]) -> ImageScore:
        """Compare with the mask file at its native size."""
        return score_image(id_, probability > self.threshold, read_mask(pairs[id_].mask))


def _resize(logits: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


def to_native(logits: Tensor, geometry: Geometry) -> NDArray[np.float32]:
    """Logits (1, 1, h, w) of one padded image -> probability (H, W) at its native size.

    Upsamples to the input size, cuts off the padding, resizes logits (not probabilities): ``Sam.postprocess_masks``.
    """
    size = geometry.input_size
    height, width = geometry.content_size
    content = _resize(logits, (size, size))[..., :height, :width]
    return _resize(content, geometry.native_size)[0, 0].sigmoid().cpu().numpy()
