"""The loss that chooses parameters of a classifier.

The selection loss of the paper looks at features, not at the head, which is still random when parameters are chosen:
supervised contrastive learning on pooled, L2-normalised features of two views of each image (Khosla et al., NeurIPS 2020,
arXiv 2004.11362; Zhang et al., GPS, CVPR 2024, arXiv 2312.10136). Cross-entropy with the head is the paper's ablation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gps_seg.errors import DataError


def features_of(model: Any, image: Tensor) -> Tensor:
    """Pooled features (B, D) before the classifier, through the two methods that all timm models share."""
    return model.forward_head(model.forward_features(image), pre_logits=True)


def supervised_contrastive(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Mean over anchors of -1/|P| sum over positives p of log softmax over all others of z_i . z_p / temperature.

    Args:
        features: (N, D), not normalised; views of one image carry its label and count as positives of each other.
        labels: int64 (N,).

    Raises:
        DataError: some anchor has no positive: a class with one view in the batch.
    """
    z = F.normalize(features.float(), dim=1)
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    number = positive.sum(1)
    if bool((number == 0).any()):
        lonely = int((number == 0).sum())
        raise DataError(f"contrastive loss: {lonely} of {len(z)} views have no other view of their class in the batch; "
                        "use two views of each image, or a larger selection.batch_size")
    log_probability = similarity - torch.logsumexp(similarity.masked_fill(itself, -torch.inf), 1, keepdim=True)
    return -((log_probability * positive).sum(1) / number).mean()
