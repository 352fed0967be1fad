"""A SAM's image encoder with a pooled linear head: the pretrained classification backbone that needs no download."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gps_seg.models.sam import SamModel, load_sam


class PooledEncoder(nn.Module):
    """Image encoder of a SAM, mean over the grid, LayerNorm, linear head; answers as timm's models do.

    Attributes:
        head_patterns, encoder_patterns, encoder_blocks: what a selection asks, see :mod:`gps_seg.methods.parts`.
    """

    head_patterns = ("norm.*", "head.*")
    encoder_patterns = ("sam.image_encoder.*",)

    def __init__(self, sam: SamModel, classes: int) -> None:
        super().__init__()
        self.sam, self.num_classes = sam, classes
        del sam.mask_decoder
        width = sam.encode(torch.zeros(1, 3, sam.spec.input_size, sam.spec.input_size)).shape[1]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        self.encoder_blocks = tuple(f"sam.{prefix}" for prefix in sam.encoder_blocks)

    def forward_features(self, image: Tensor) -> Tensor:
        """Image (B, 3, S, S) -> embedding (B, C, g, g)."""
        return self.sam.encode(image)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Embedding -> pooled features (B, C), or class logits (B, classes)."""
        pooled = self.norm(features.float().mean((2, 3)))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (B, classes)."""
        return self.forward_head(self.forward_features(image))


def load_pooled(
    name: str, *, classes: int, checkpoint: Path | None = None, input_size: int | None = None, seed: int = 0
) -> PooledEncoder:
    """A pretrained encoder by SAM name with a fresh head from the seed; see :func:`gps_seg.models.sam.load_sam`."""
    sam = load_sam(name, checkpoint=checkpoint, input_size=input_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return PooledEncoder(sam, classes)
