"""From logits on the model's grid to probabilities at an image's native size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gps_seg.data.transforms import Geometry

Map = NDArray[np.float32]


def resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, 1, h, w) at another size, in fp32."""
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


def to_native(logits: Tensor, geometry: Geometry) -> Map:
    """Logits (1, 1, h, w) of one padded image -> probability (H, W) at its native size.

    Upsamples to the input size, cuts off the padding, resizes logits (not probabilities): ``Sam.postprocess_masks``.
    """
    size = geometry.input_size
    height, width = geometry.content_size
    content = resize(logits, (size, size))[..., :height, :width]
    return resize(content, geometry.native_size)[0, 0].sigmoid().cpu().numpy()


@dataclass(frozen=True)
class Clicked:
    """One image's answers after each of several simulated clicks: ``logits`` (clicks, 1, h, w)."""

    logits: Tensor
    geometry: Geometry

    def after(self, clicks: int) -> Map:
        """The probability after so many, 1 or more."""
        return to_native(self.logits[clicks - 1 : clicks], self.geometry)
