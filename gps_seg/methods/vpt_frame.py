"""VPT in a ConvNet: a frame of learned pixels around the image.

Source: Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119, section 4.3; KMnP/vpt, src/models/resnet.py and
convnext.py: ``tokens`` pixels on each side, drawn from 0 to 1 before normalisation. They enter once: there is no deep form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS, COLUMNS = "prompts_rows", "prompts_columns"


def add_frame(encoder: Any, pixels: int, size: int) -> None:
    """Put a frame of ``pixels`` around images of ``size`` x ``size``; of timm's ConvNets with a ``stem``."""
    stem = encoder.stem
    stem.register_parameter(ROWS, nn.Parameter(torch.rand(1, 3, 2 * pixels, size + 2 * pixels)))
    stem.register_parameter(COLUMNS, nn.Parameter(torch.rand(1, 3, size, 2 * pixels)))
    stem.frame_scale = [encoder.pretrained_cfg["mean"], encoder.pretrained_cfg["std"]]
    stem.frame_hook = [stem.register_forward_pre_hook(_frame)]


def remove_frame(model: nn.Module) -> None:
    """Take it off again."""
    module: Any
    for module in model.modules():
        if hasattr(module, "frame_hook"):
            module.frame_hook[0].remove()
            del module.frame_hook, module.frame_scale
            for name in (ROWS, COLUMNS):
                module._parameters.pop(name, None)


def _frame(stem: Any, inputs: tuple[Tensor]) -> Tensor:
    """Images (B, 3, S, S) -> (B, 3, S + 2 p, S + 2 p), the frame normalised as the images are."""
    image = inputs[0]
    mean, std = (image.new_tensor(values).view(3, 1, 1) for values in stem.frame_scale)
    pixels = [((getattr(stem, name) - mean) / std).to(image.dtype) for name in (ROWS, COLUMNS)]
    rows, columns = (part.expand(len(image), -1, -1, -1) for part in pixels)
    (left, right), (above, below) = columns.chunk(2, 3), rows.chunk(2, 2)
    return torch.cat([above, torch.cat([left, image, right], 3), below], 2)
