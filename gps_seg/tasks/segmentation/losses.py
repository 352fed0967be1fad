"""Segmentation losses: logits and target (B, 1, H, W), valid pixels only, averaged over the batch.

Padding is taken out by setting its logits to a large negative constant, where every loss here is zero on background.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gps_seg.packages import import_torchvision

PADDING_LOGIT = -30.0
Loss = Callable[[Tensor, Tensor], Tensor]


def mask_padding(logits: Tensor, valid: Tensor) -> Tensor:
    """Logits with everything outside ``valid`` (bool, same shape) set to a confident, gradient-free background."""
    return logits.masked_fill(~valid, PADDING_LOGIT)


def bce_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus soft IoU, 1 - sum(pt) / sum(p + t - pt) per image.

    Source: the loss of the released GPS code for SAM (arXiv 2312.10136), from SAM-Adapter (arXiv 2304.09148). We add 1
    to numerator and denominator, so that an empty mask has a defined loss.
    """
    probability = logits.sigmoid()
    both = (probability * target).sum((1, 2, 3))
    either = (probability + target).sum((1, 2, 3)) - both
    return F.binary_cross_entropy_with_logits(logits, target) + (1 - (both + 1) / (either + 1)).mean()


def structure(logits: Tensor, target: Tensor) -> Tensor:
    """Boundary-weighted cross-entropy plus boundary-weighted IoU.

    Source: Wei et al., F3Net, AAAI 2020, arXiv 1911.11445, the loss of PraNet and its successors.
    """
    weight = 1 + 5 * (F.avg_pool2d(target, 31, stride=1, padding=15) - target).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weighted_entropy = (weight * entropy).sum((2, 3)) / weight.sum((2, 3))
    probability = logits.sigmoid()
    both = (probability * target * weight).sum((2, 3))
    either = ((probability + target) * weight).sum((2, 3))
    return (weighted_entropy + 1 - (both + 1) / (either - both + 1)).mean()


def _dice() -> Loss:
    import_torchvision()  # monai imports it
    from monai.losses import DiceLoss

    return DiceLoss(sigmoid=True)


def _dice_ce() -> Loss:
    import_torchvision()
    from monai.losses import DiceCELoss

    return DiceCELoss(sigmoid=True)


LOSSES: dict[str, Callable[[], Loss]] = {
    "dice": _dice,
    "dice_ce": _dice_ce,
    "bce_iou": lambda: bce_iou,
    "structure": lambda: structure,
}


def make_loss(name: str) -> Loss:
    """A loss by its name in the configuration; dice and dice_ce are MONAI's with a sigmoid."""
    return LOSSES[name]()


def total(loss: Loss, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The loss in fp32 over valid pixels, as a scalar."""
    with torch.autocast(logits.device.type, enabled=False):
        return loss(mask_padding(logits.float(), valid), target.float())
