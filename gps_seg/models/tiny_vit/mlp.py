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
from gps_seg.models.tiny_vit.folding import is_plain

CHUNK_BYTES = 4 << 20  # of the hidden activations that are worked on at once
NARROW = 0.5  # gathering columns costs about half a product on all of them

gelu = torch.ops.aten.gelu.out
gelu_backward = torch.ops.aten.gelu_backward.grad_input
Part = tuple[Tensor, Tensor, Tensor | None]  # weight, bias, selected values


class _Sums:
    """Gradients of one linear layer, summed over chunks of tokens: whole, or of the columns that its entries read."""

    def __init__(self, weight: Tensor, wanted: tuple[bool, bool, bool], where: Positions | None) -> None:
        self.dense, self.bias, self.values = wanted
        self.where, self.columns = where, None
        if where is not None and not self.dense and len(where.used) < NARROW * weight.shape[1]:
            self.columns = where.used
        self.exact = torch.promote_types(weight.dtype, torch.float32)
        width = weight.shape[1] if self.columns is None else len(self.columns)
        self.dw = weight.new_zeros(len(weight), width, dtype=self.exact) if self.dense or self.values else None
        self.db = weight.new_zeros(len(weight), dtype=self.exact) if self.bias else None

    def read(self, x: Tensor) -> Tensor:
        """The columns of the layer's input that count, of something of its shape."""
        return x if self.columns is None else x.index_select(-1, self.columns)

    def add(self, dy: Tensor, x: Tensor | None) -> None:
        """dy (n, out); x (n, columns that count)."""
        if self.dw is not None and x is not None:
            self.dw += dy.T @ x
        if self.db is not None:
            self.db += dy.sum(0)

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of weight, bias and selected values."""
        if not self.values or self.dw is None or self.where is None:
            return self.dw, self.db, None
        columns = self.where.columns if self.columns is not None else self.where.used[self.where.columns]
        return self.dw if self.dense else None, self.db, self.dw[self.where.rows, columns]


def _chunks(tokens: int, hidden: Tensor) -> Iterator[slice]:
    step = tokens if hidden.is_cuda else max(1, CHUNK_BYTES // (hidden.shape[1] * hidden.element_size()))
    return (slice(start, min(tokens, start + step)) for start in range(0, tokens, step))


class _MlpFunction(torch.autograd.Function):
    """x (n, C) -> x + mlp(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, places: tuple[Positions | None, Positions | None], *tensors: Tensor) -> Tensor:
        gain, shift, w1, b1, _, w2, b2, _ = (None if tensor is None else tensor.to(x.dtype) for tensor in tensors)
        hidden, out = x.new_empty(len(x), len(w1)), torch.empty_like(x)
        for chunk in _chunks(len(x), hidden):
            torch.addmm(b1, torch.layer_norm(x[chunk], gain.shape, gain, shift, eps), w1.T, out=hidden[chunk])
            torch.addmm(b2, torch.ops.aten.gelu(hidden[chunk]), w2.T, out=out[chunk])
            out[chunk] += x[chunk]
        ctx.eps, ctx.places = eps, places
        ctx.save_for_backward(x, hidden, gain, shift, w1, w2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, gain, shift, w1, w2 = ctx.saved_tensors
        wanted, dout = ctx.needs_input_grad, dout.contiguous()
        first, second = _Sums(w1, wanted[5:8], ctx.places[0]), _Sums(w2, wanted[8:11], ctx.places[1])
        dx, norms = torch.empty_like(x), [wanted[3], wanted[4]]
        dnorm = [torch.zeros_like(gain, dtype=first.exact) if one else None for one in norms]
        for chunk in _chunks(len(x), hidden):
            dy, before = dout[chunk], hidden[chunk]
            second.add(dy, None if second.dw is None else torch.ops.aten.gelu(second.read(before)))
            dh = dy @ w2
            gelu_backward(dh, before, grad_input=dh)
            normed, mean, scale = torch.native_layer_norm(x[chunk], gain.shape, gain, shift, ctx.eps)
            first.add(dh, first.read(normed))
            part, *rest = torch.ops.aten.native_layer_norm_backward(
                dh @ w1, x[chunk], gain.shape, mean, scale, gain, shift, [True, *norms])
            torch.add(dy, part, out=dx[chunk])
            for total, one in zip(dnorm, rest, strict=True):
                if total is not None:
                    total += one
        return dx, None, None, *dnorm, *first.results(), *second.results()


def mlp(x: Tensor, module: Any) -> Tensor:
    """x plus the packaged MLP of it, for channels-last x (B, H, W, C)."""
    if not can_fuse(module):
        return x + module(x).to(x.dtype)
    layers = (module.fc1, module.fc2)
    places = tuple(layer.selected_positions if isinstance(layer, SparseLinear) else None for layer in layers)
    values = [layer.selected_values if isinstance(layer, SparseLinear) else None for layer in layers]
    tensors = [part for layer, value in zip(layers, values, strict=True) for part in (layer.weight, layer.bias, value)]
    with torch.autocast(x.device.type, enabled=False):
        y = _MlpFunction.apply(x.reshape(-1, x.shape[-1]), module.norm.eps, places, module.norm.weight, module.norm.bias, *tensors)
    return y.view(x.shape)


def can_fuse(module: Any) -> bool:
    """Whether nothing is inserted, nothing dropped out, and no back-end asked for."""
    if not is_plain(module) or (module.training and module.drop.p > 0):
        return False
    layers = (module.fc1, module.fc2)
    return all(not isinstance(layer, SparseLinear) or layer.selected_positions.backend in ("auto", "product") for layer in layers)
