"""Three backbones: a SAM of another shape, one of timm's, and a network of your own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from gps_seg.models.sam_zoo import MODELS

# 1. A SAM: one entry of MODELS in models.sam.py, and one of PUBLISHED in models/weights.py if its weights are published.
THREE_BLOCKS = replace(MODELS["tiny"], spec=replace(MODELS["tiny"].spec, name="three_blocks"),
                       build=partial(MODELS["tiny"].build, depth=3))

# 2. timm's: nothing to add; any of its names is a model.name.
TIMM = ["task=classification", "model.name=resnet10t", "model.input_size=32"]


# 3. Your own, from Python: any module will do; these two attributes say what is encoder and what is head.
class SmallNet(nn.Module):
    """Grey images (B, 1, H, W) -> logits (B, 1, H, W)."""

    encoder_patterns, head_patterns = ("encoder.*",), ("head.*",)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.encoder(image))
