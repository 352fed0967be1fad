"""Which layers the lean path computes itself, and convolutions with their frozen batch norm folded in.

y = BN(W x) with frozen statistics is y = (s W) x + (beta - s mu) with s = gamma / sqrt(var + eps), so one product does for
both. The gradient of W is s times that of the folded weight, row by row; autograd applies the chain rule to these small
tensors, so selected values, dense weights, gamma and beta all train as they do unfolded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.core.layers import SparseConv2d, SparseLinear, conv2d, linear
from gps_seg.core.positions import Positions

STOCK = (nn.Linear.forward, nn.Conv2d.forward, nn.BatchNorm2d.forward, nn.LayerNorm.forward, SparseLinear.forward,
         SparseConv2d.forward)
# The packaged encoder's own classes and those without parameters; anything else between them was put there by somebody.
KNOWN = {"Conv2d_BN", "PatchEmbed", "MBConv", "PatchMerging", "Mlp", "LayerNorm2d", "Sequential", "GELU", "Identity", "Dropout",
         "Positions"}


def is_plain(*modules: Any) -> bool:
    """Whether the lean path may compute these modules itself: nothing inserted, hooked or replaced, statistics frozen.

    This is the one place that decides; whatever is not plain is called as the module that it is.
    """
    return all(not has_hooks(part) and _is_stock(part) for module in modules for part in module.modules())


def is_own(module: nn.Module, name: str) -> bool:
    """Whether this module itself, whatever it holds, is what the packaged encoder has there: neither hooked nor replaced."""
    return type(module).__name__ == name and "forward" not in vars(module) and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether something listens to this module itself."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _is_stock(part: Any) -> bool:
    if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
        return False
    if isinstance(part, nn.Dropout) and part.training and part.p > 0:
        return False
    replaced = "forward" in vars(part)  # somebody's function on this one instance
    return not replaced and (type(part).forward in STOCK or type(part).__name__ in KNOWN)


def takes_products(*layers: Any) -> bool:
    """Whether nobody asked for another back-end of selected gradients than the one that the lean path has."""
    sparse = (layer for layer in layers if isinstance(layer, (SparseLinear, SparseConv2d)))
    return all(layer.selected_positions.backend in ("auto", "product") for layer in sparse)


class Folded(NamedTuple):
    """A product with its norm folded in.

    ``weight`` (out, in) or, depthwise, (channels, 1, kh, kw), and ``bias`` (out,), both in the parameters' type; ``values``
    (e,), the selected values times their rows' scales, or None; ``where``: their positions.
    """

    weight: Tensor
    bias: Tensor
    values: Tensor | None
    where: Positions | None


def fold(layer: Any, norm: Any) -> Folded:
    """A convolution and the frozen batch norm behind it as one product; 1 x 1 convolutions become matrices."""
    statistics = norm.running_var.to(norm.weight.dtype)
    scale = norm.weight * (statistics + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    weight = layer.weight * scale.view(-1, 1, 1, 1)
    where = layer.selected_positions if isinstance(layer, SparseConv2d) else None
    values = None if where is None else layer.selected_values * scale.detach()[where.rows]
    return Folded(weight.flatten(1) if layer.kernel_size == (1, 1) else weight, bias, values, where)


def pointwise(x: Tensor, layer: Any, norm: Any) -> Tensor:
    """A 1 x 1 convolution and its batch norm on channels-last x (..., C)."""
    if not _may_fold(layer, norm):
        return channels_first(lambda y: norm(layer(y)), x)
    weight, bias, values, where = fold(layer, norm)
    if values is None or where is None:
        flat = F.linear(x.reshape(-1, x.shape[-1]), weight.to(x.dtype), bias.to(x.dtype))
        return flat.view(*x.shape[:-1], -1)
    return linear(x, weight, bias, values, where)


def depthwise(x: Tensor, layer: Any, norm: Any) -> Tensor:
    """A depthwise convolution and its batch norm on channels-last x (B, H, W, C)."""
    if not _may_fold(layer, norm):
        return channels_first(lambda y: norm(layer(y)), x)
    weight, bias, values, where = fold(layer, norm)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    y = x.permute(0, 3, 1, 2)
    if values is None or where is None:
        y = F.conv2d(y, weight.to(x.dtype), bias.to(x.dtype), *geometry)
    else:
        y = conv2d(y, weight, bias, values, where, geometry)
    return y.permute(0, 2, 3, 1)


def _may_fold(layer: Any, norm: Any) -> bool:
    """A gain that trains needs the gradient of the whole folded weight, which the sparse layers do not compute."""
    return is_plain(layer, norm) and not (isinstance(layer, SparseConv2d) and norm.weight.requires_grad)


def channels_first(function: Any, x: Tensor) -> Tensor:
    """Apply a module of images (B, C, H, W) to channels-last x (B, H, W, C), which stays so in memory."""
    return function(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).to(x.dtype)


def layer_norm(x: Tensor, layer: Any) -> Tensor:
    """A plain norm over the last dimension, of an ``nn.LayerNorm`` or a ``LayerNorm2d``.

    Computed and answered in the type of gain and shift: torch sums their gradients in that of its input, which in bf16 left
    a third of the gain's gradient wrong.
    """
    return F.layer_norm(x.to(layer.weight.dtype), layer.weight.shape, layer.weight, layer.bias, layer.eps)
