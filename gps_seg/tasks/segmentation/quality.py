"""How good an answer is by the model's own account: what SAM's quality head learns, and what its word decides.

The head estimates the IoU of the mask beside it. Trained with frames without a polyp, on which every answer is worth 0, it tells
whether there is a polyp at all: below ``evaluate.presence`` the answer is none, an empty mask. Its loss stops at the head
(``models.sam``), so that masks are what they are without it.

Source: Kirillov et al., Segment Anything, ICCV 2023, arXiv 2304.02643, appendix A: squared error between the estimate and the IoU
of the thresholded mask, weight 1. Where we differ: there no image is without an object; here also the empty answer to one is
worth 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image.

    Attributes:
        probability: of polyp, float32 (H, W).
        quality: its own estimate of the mask's IoU, 0..1; None where that was not trained.
    """

    probability: Map
    quality: float | None

    def shown(self, presence: float | None) -> Map:
        """The probability; 0 everywhere if the quality is below ``presence``: no polyp."""
        return np.zeros_like(self.probability) if self.refused(presence) else self.probability

    def refused(self, presence: float | None) -> bool:
        """Whether the quality is below ``presence``; never where either is None."""
        return presence is not None and self.quality is not None and self.quality < presence


def qualities(quality: Tensor) -> list[float]:
    """The head's estimates (B, 1), which have no bounds, as parts of one."""
    return [float(value) for value in quality.detach().float().clamp(0, 1).flatten().cpu()]


def true_quality(logits: Tensor, target: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """IoU (B,) of each image's answer with its target in the valid pixels; 0 wherever the target is empty. All (B, 1, H, W)."""
    answer, truth = (logits.detach().float().sigmoid() > threshold) & valid, (target > 0) & valid
    both, either = (answer & truth).sum((1, 2, 3)), (answer | truth).sum((1, 2, 3))
    return both / either.clamp_min(1)


def quality_loss(quality: Tensor, logits: Tensor, target: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Mean squared error of the estimates (B, 1), in fp32, as a scalar; the others as in :func:`true_quality`."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.mse_loss(quality.float().flatten(), true_quality(logits, target, valid, threshold))
