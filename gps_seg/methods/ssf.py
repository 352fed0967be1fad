"""SSF: every linear, convolution and norm layer's output is scaled and shifted by trained vectors; both fold into the layer.

Source: Lian et al., Scaling & Shifting Your Features, NeurIPS 2022, arXiv 2210.08823. The layers keep their stock names. A
layer without bias gets a scale only, so that the result always folds into the stock model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.config import HeadOptions
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.methods.addition import Addition, Numbers, add_and_select
from gps_seg.methods.parts import encoder_modules

SCALE, SHIFT = "ssf_scale", "ssf_shift"
FIRST = (nn.Conv2d, nn.modules.batchnorm._BatchNorm)


def ssf(model: nn.Module, options: HeadOptions, scores: Scores, seed: int) -> Selection:
    """Train scales (one at first) and shifts (zero at first), and the head."""
    return add_and_select(model, SSF, {}, options.head)


def _is_channels_first(module: nn.Module) -> bool:
    return isinstance(module, FIRST) or type(module).__name__ == "LayerNorm2d"


def _apply(module: Any, inputs: Any, output: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (output.ndim - 2) if _is_channels_first(module) else (-1,)
    output = output * getattr(module, SCALE).view(shape).to(output.dtype)
    shift = getattr(module, SHIFT, None)
    return output if shift is None else output + shift.view(shape).to(output.dtype)


def _add(model: nn.Module, numbers: Numbers) -> None:
    module: Any
    for _, module in encoder_modules(model):
        weight: Any = getattr(module, "weight", None)
        is_layer = isinstance(module, (nn.Linear, nn.LayerNorm, *FIRST)) or type(module).__name__ == "LayerNorm2d"
        if not is_layer or weight is None:
            continue
        module.register_parameter(SCALE, nn.Parameter(torch.ones(len(weight))))
        if getattr(module, "bias", None) is not None:
            module.register_parameter(SHIFT, nn.Parameter(torch.zeros(len(weight))))
        module.ssf_hook = [module.register_forward_hook(_apply)]


def _remove(model: nn.Module) -> None:
    module: Any
    for module in model.modules():
        if hasattr(module, "ssf_hook"):
            module.ssf_hook[0].remove()
            del module.ssf_hook
            for name in (SCALE, SHIFT):
                module._parameters.pop(name, None)


def _fold(model: nn.Module) -> None:
    module: Any
    for module in model.modules():
        if hasattr(module, "ssf_hook"):
            scale: Any = getattr(module, SCALE)
            weight = module.weight
            weight.mul_(scale.view(-1, *(1,) * (weight.ndim - 1)))
            shift: Any = getattr(module, SHIFT, None)
            if shift is not None:
                module.bias.mul_(scale).add_(shift)
    _remove(model)


SSF = Addition("ssf", _add, _remove, _fold)
