"""Image classification: the losses of the selection pass and of training, and predictions.

The selection loss of the paper looks at features, not at the head, which is still random when parameters are chosen:
supervised contrastive learning on pooled, L2-normalised features of two views of each image (Khosla et al., NeurIPS 2020,
arXiv 2004.11362; Zhang et al., GPS, CVPR 2024, arXiv 2312.10136). Cross-entropy with the head is the paper's ablation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.errors import ConfigError, DataError


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


@dataclass(frozen=True)
class Labelled:
    """Images float32 (B, 3, S, S), or two views of each (B, 2, 3, S, S), and labels int64 (B,)."""

    image: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Labelled:
        """The batch on a device."""
        return Labelled(self.image.to(device), self.label.to(device))


def collate(items: Sequence[tuple[Tensor, int]]) -> Labelled:
    """A batch of what ``data.class_dataset.ClassDataset`` yields."""
    return Labelled(torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items]))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block torch draws (drop path, dropout) from the seed alone; its random state comes back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Classification:
    """One label an image.

    Attributes:
        classes: number of classes.
        selection: "supcon" or "cross_entropy".
        temperature: of the contrastive loss.
        smoothing: label smoothing in training, 0..1.
        mixup, cutmix: parameters of their Beta distributions; 0 switches one off, a batch draws one of the two.
        seed: with the step it decides what is mixed.
    """

    classes: int
    selection: Literal["supcon", "cross_entropy"] = "supcon"
    temperature: float = 0.07
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    @property
    def score_name(self) -> str:
        """What the validation measures."""
        return "accuracy"

    def selection_loss(self, model: nn.Module, batch: Labelled) -> Tensor:
        """What the selection pass differentiates; views (B, V, 3, S, S)."""
        number = batch.image.shape[1]
        flat, labels = batch.image.flatten(0, 1), batch.label.repeat_interleave(number)
        if self.selection == "cross_entropy":
            return F.cross_entropy(model(flat).float(), labels)
        return supervised_contrastive(features_of(model, flat), labels, self.temperature)

    def loss(self, model: nn.Module, batch: Labelled, step: int = 0) -> Tensor:
        """Cross-entropy of a step, after mixing if that is on; seed and step decide all that is random in it."""
        image, target = self._mixed(batch, step) if self.mixup or self.cutmix else (batch.image, batch.label)
        with seeded(random.Random(f"drop {self.seed}/{step}").randrange(2**32), batch.image.device):
            logits = model(image).float()
        return F.cross_entropy(logits, target, label_smoothing=0.0 if self.mixup or self.cutmix else self.smoothing)

    def _mixed(self, batch: Labelled, step: int) -> tuple[Tensor, Tensor]:
        """timm's mixup and cutmix, drawn from (seed, step): images and probabilities (B, classes)."""
        from timm.data.mixup import Mixup

        if len(batch.image) % 2:
            raise ConfigError(f"train.batch_size: mixup and cutmix need an even number of images, got {len(batch.image)}")
        mix = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=self.classes)
        before = np.random.get_state()
        np.random.seed(random.Random(f"mix {self.seed}/{step}").randrange(2**32))  # timm draws from numpy's global generator
        try:
            image, target = mix(batch.image.clone(), batch.label)
        finally:
            np.random.set_state(before)
        return image, target

    def predict(self, model: nn.Module, image: Tensor) -> Tensor:
        """Class logits (B, classes), fp32."""
        return model(image).float()
