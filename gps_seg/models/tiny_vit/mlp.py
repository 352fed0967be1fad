"""x + fc2(GELU(fc1(norm(x)))), some tokens at a time, so that the fourfold hidden activations stay in the processor's cache.

For the backward only x and the input of GELU are kept. The norm and GELU are made again, for selected weights only in the
columns that an entry reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gps_seg.core.layers import SparseLinear
from gps_seg.core.positions import Positions
from gps_seg.models.tiny_vit.folding import is_plain, takes_products
from gps_seg.models.tiny_vit.sums import Sums

CHUNK_BYTES = 4 << 20  # of the hidden activations that are worked on at once

gelu_backward = torch.ops.aten.gelu_backward.grad_input


def _chunks(x: Tensor, hidden: int) -> Iterator[slice]:
    """Slices over tokens x (n, C) whose hidden activations are small enough."""
    step = len(x) if x.is_cuda else max(1, CHUNK_BYTES // (hidden * x.element_size()))
    return (slice(start, min(len(x), start + step)) for start in range(0, len(x), step))


def _normalise(x: Tensor, gain: Tensor, shift: Tensor, eps: float, *, trains: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The norm of x, its statistics, and x in the type they were computed in; see :func:`folding.layer_norm`."""
    exact = x.to(gain.dtype) if trains or x.is_cuda else x  # CUDA wants one type for all
    return *torch.native_layer_norm(exact, gain.shape, gain, shift, eps), exact


class _MlpFunction(torch.autograd.Function):
    """x (n, C) -> x + mlp(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, places: tuple[Positions | None, ...], *tensors: Tensor | None) -> Tensor:
        products = [tensor for index, tensor in enumerate(tensors) if index not in (4, 7)]  # all but the selected values
        gain, shift, *linear = (tensor for tensor in products if tensor is not None)
        w1, b1, w2, b2 = (tensor.to(x.dtype) for tensor in linear)
        keeps, out = any(ctx.needs_input_grad), torch.empty_like(x)
        hidden = x.new_empty(len(x) if keeps else 0, len(w1))
        for chunk in _chunks(x, len(w1)):
            normed = _normalise(x[chunk], gain, shift, eps, trains=False)[0].to(x.dtype)
            before = torch.addmm(b1, normed, w1.T, out=hidden[chunk]) if keeps else torch.addmm(b1, normed, w1.T)
            torch.addmm(b2, torch.ops.aten.gelu(before), w2.T, out=out[chunk])
            out[chunk] += x[chunk]
        ctx.eps, ctx.places = eps, places
        ctx.save_for_backward(x, hidden, gain, shift, w1, w2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, gain, shift, w1, w2 = ctx.saved_tensors
        wanted, dout = ctx.needs_input_grad, dout.contiguous()
        first = Sums(w1, wanted[5:8], ctx.places[0], narrow=True)
        second = Sums(w2, wanted[8:11], ctx.places[1], narrow=True)
        dx, norms = torch.empty_like(x), [wanted[3], wanted[4]]
        dnorm = [torch.zeros_like(gain, dtype=torch.promote_types(x.dtype, torch.float32)) if one else None for one in norms]
        for chunk in _chunks(x, len(w1)):
            dy, before = dout[chunk], hidden[chunk]
            second.add(dy, None if second.dw is None else torch.ops.aten.gelu(second.read(before)))
            dh = dy @ w2
            gelu_backward(dh, before, grad_input=dh)
            normed, mean, scale, exact = _normalise(x[chunk], gain, shift, ctx.eps, trains=any(norms))
            first.add(dh, first.read(normed).to(x.dtype))
            part, *rest = torch.ops.aten.native_layer_norm_backward(
                (dh @ w1).to(exact.dtype), exact, gain.shape, mean, scale, gain, shift, [True, *norms])
            torch.add(dy, part.to(dy.dtype), out=dx[chunk])
            for total, one in zip(dnorm, rest, strict=True):
                if total is not None:
                    total += one
        return dx, None, None, *dnorm, *first.results(), *second.results()


def mlp(x: Tensor, module: Any) -> Tensor:
    """x plus the packaged MLP of it, for channels-last x (B, H, W, C)."""
    if not (is_plain(module) and takes_products(module.fc1, module.fc2)):
        return x + module(x.flatten(1, 2)).to(x.dtype).view(x.shape)  # tokens, for which torch adds the bias in the product
    norm, layers = module.norm, (module.fc1, module.fc2)
    places = tuple(layer.selected_positions if isinstance(layer, SparseLinear) else None for layer in layers)
    values = [layer.selected_values if isinstance(layer, SparseLinear) else None for layer in layers]
    tensors = [part for layer, value in zip(layers, values, strict=True) for part in (layer.weight, layer.bias, value)]
    with torch.autocast(x.device.type, enabled=False):
        y = _MlpFunction.apply(x.reshape(-1, x.shape[-1]), norm.eps, places, norm.weight, norm.bias, *tensors)
    return y.view(x.shape)
