"""Layers whose backward computes only the selected entries of the weight gradient.

The forward pass is the stock one. The backward pass computes the input gradient and, for each selected entry (o, i),
g = sum over tokens of dY[:, o] * X[:, i], without the dense weight gradient and without keeping input columns that no
entry reads. :mod:`gps_seg.core.slot` puts these layers into a model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from gps_seg.core.positions import Positions
from gps_seg.core.products import KEEP_COLUMNS_BELOW, choose, choose_taps, selected_products

VALUES = "selected_values"


def _sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, where: Positions) -> Tensor:
    """y = x W^T + b with a backward that skips dW. x (n, in), y (n, out). A flat y is no view: callers may change it.

    The product comes after all is saved: a recomputation for the backward stops there and never multiplies (as for torch's own
    linear layer).
    """
    y = _LinearFunction.apply(x, weight, bias, values, where.rows, where.columns, where.used, where.backend)
    with torch.no_grad():
        cast = weight.to(x.dtype).T
        if bias is None:
            torch.mm(x, cast, out=y.detach())
        else:
            torch.addmm(bias.to(x.dtype), x, cast, out=y.detach())
    return y


class _LinearFunction(torch.autograd.Function):
    """The graph of :func:`_sparse_linear`; its output is not yet filled."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor,  # noqa: ARG004 - values only receive a gradient
        rows: Tensor, columns: Tensor, used: Tensor, backend: str,
    ) -> Tensor:
        keeps_columns = backend != "dense" and len(used) < KEEP_COLUMNS_BELOW * x.shape[-1]
        kept = x.index_select(1, used) if keeps_columns else x  # a copy: a view would keep the whole input alive
        ctx.save_for_backward(kept, weight, rows, columns if keeps_columns else used[columns])
        ctx.bias_dtype, ctx.backend = None if bias is None else bias.dtype, backend
        return x.new_empty(len(x), weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, rows, columns = ctx.saved_tensors
        dx = dy @ weight.to(dy.dtype) if ctx.needs_input_grad[0] else None
        db = _sums(dy, 0, ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        dv = selected_products(rows, columns, dy, kept, ctx.backend) if ctx.needs_input_grad[3] else None
        return dx, None, db, dv, None, None, None, None


class _Conv2dFunction(torch.autograd.Function):
    """A 2-D convolution, any stride, padding, dilation and groups. x (b, in, h, w), dy (b, out, h', w').

    The selected entries come from the weight gradient of the used input channels alone, or tap by tap; with groups, whose
    weights are small, from the whole weight gradient. A 1x1 convolution and a patch embedding are linear layers over pixels
    and patches, several times faster so in bf16, and take every back-end; ``triton`` means ``gather`` elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor,  # noqa: ARG004 - values only receive a gradient
        rows: Tensor, columns: Tensor, used: Tensor, taps: Tensor, geometry: tuple[Any, ...], backend: str,
    ) -> Tensor:
        keeps_channels = geometry[3] == 1 and backend != "dense" and len(used) < KEEP_COLUMNS_BELOW * x.shape[1]
        kept = _channels(x, used) if keeps_channels else x
        ctx.save_for_backward(kept, weight, rows, columns if keeps_channels else used[columns], taps)
        ctx.bias_dtype, ctx.backend = None if bias is None else bias.dtype, backend
        ctx.geometry, ctx.input_shape = geometry, x.shape
        return F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, rows, columns, taps = ctx.saved_tensors
        pointwise = weight.shape[2:] == (1, 1) and ctx.geometry == ((1, 1), (0, 0), (1, 1), 1)
        dx = None
        if ctx.needs_input_grad[0]:
            cast = weight.to(dy.dtype)
            dx = _pointwise_input(dy, cast) if pointwise else _conv_input(ctx.input_shape, dy, cast, ctx.geometry)
        db = _sums(dy, (0, 2, 3), ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        dv = None
        if ctx.needs_input_grad[3]:
            if _is_patchwise(weight.shape[2:], ctx.geometry):
                dv = _patch_products(kept, dy, (rows, columns, taps), weight.shape[2:], ctx.backend)
            else:
                dv = _conv_products(kept, dy, (rows, columns, taps), weight.shape, ctx.geometry, ctx.backend)
        return dx, None, db, dv, None, None, None, None, None, None


def _sums(dy: Tensor, over: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """dy summed over some dimensions. torch adds in fp32 at any rate; to answer in another type than dy's costs a CPU several
    times as much, so there the sum is rounded once to the type of dy, as autocast's own bias gradient is."""
    return dy.sum(over, dtype=dtype) if dy.is_cuda else dy.sum(over).to(dtype)


def _channels(x: Tensor, used: Tensor) -> Tensor:
    """x[:, used], a copy, in the memory format of x (index_select would always answer in NCHW)."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).index_select(3, used).permute(0, 3, 1, 2)
    return x.index_select(1, used)


def _pointwise_input(dy: Tensor, weight: Tensor) -> Tensor:
    """Input gradient of a 1x1 convolution as one matrix product; keeps the memory format of dy."""
    flat = weight.flatten(1)
    if dy.is_contiguous(memory_format=torch.channels_last):
        return (dy.permute(0, 2, 3, 1) @ flat).permute(0, 3, 1, 2)
    return (flat.T @ dy.flatten(2)).unflatten(2, dy.shape[2:])


def _conv_input(shape: torch.Size, dy: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    """Input gradient of any convolution, in the memory format of dy.

    torch.nn.grad.conv2d_input always answers in NCHW, which makes everything before a channels-last layer crawl.
    """
    stride, padding, dilation, groups = geometry
    is_last = dy.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    unread = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=layout)  # only its shape and strides count
    wanted = [True, False, False]
    return torch.ops.aten.convolution_backward(
        dy, unread, weight, None, stride, padding, dilation, False, (0, 0), groups, wanted
    )[0]


def _is_patchwise(kernel: torch.Size, geometry: tuple[Any, ...]) -> bool:
    stride, padding, dilation, groups = geometry
    return tuple(kernel) == tuple(stride) and not any(padding) and tuple(dilation) == (1, 1) and groups == 1


def _conv_products(
    x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], weight_shape: torch.Size, geometry: tuple[Any, ...],
    backend: str,
) -> Tensor:
    """Selected entries, fp32 (e,), of a convolution with overlapping windows.

    Args:
        x: (b, channels, h, w), the kept input channels; dy: (b, out, h', w').
        where: rows, columns (into the channels of x) and taps, each int64 (e,).
        geometry: stride, padding, dilation, groups.
    """
    rows, columns, taps = where
    exact = torch.promote_types(dy.dtype, torch.float32)
    is_gather = backend in ("gather", "triton")
    if backend == "auto" and geometry[3] == 1 and not torch.compiler.is_compiling() and dy.is_contiguous():
        area = weight_shape[2] * weight_shape[3]
        is_gather = choose_taps(x.shape[1], area, dy.shape[1], len(rows), dy.dtype, dy.device.type) == "gather"
    if is_gather:
        return _tap_products(x, dy, where, weight_shape[2:], geometry).to(exact)
    per_group = x.shape[1] // geometry[3]
    gradient = conv2d_weight(x, (weight_shape[0], per_group, *weight_shape[2:]), dy, *geometry)
    return gradient.flatten(2)[rows, columns % per_group, taps].to(exact)


def _tap_products(
    x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], kernel: torch.Size, geometry: tuple[Any, ...]
) -> Tensor:
    """The same tap by tap: entries of one kernel position read one shifted view of the padded input. fp32 (e,)."""
    rows, columns, taps = where
    (down, right), (top, left), dilation, _ = geometry
    height, width = dy.shape[2:]
    padded = F.pad(x, (left, left, top, top))
    total = torch.empty(len(rows), dtype=torch.promote_types(dy.dtype, torch.float32), device=dy.device)
    for tap in taps.unique().tolist():
        entries = (taps == tap).nonzero().flatten()
        y, z = tap // kernel[1] * dilation[0], tap % kernel[1] * dilation[1]
        view = padded[:, :, y : y + (height - 1) * down + 1 : down, z : z + (width - 1) * right + 1 : right]
        product = view.index_select(1, columns[entries]).mul_(dy.index_select(1, rows[entries]))
        total[entries] = product.sum((0, 2, 3), dtype=total.dtype)
    return total


def _patch_products(
    x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], kernel: torch.Size, backend: str
) -> Tensor:
    """Non-overlapping patches (1x1 convolutions and patch embeddings): a linear layer over (channel, tap)."""
    rows, columns, taps = where
    (batch, channels), (height, width) = x.shape[:2], dy.shape[2:]
    area = kernel[0] * kernel[1]
    if backend == "auto" and area == 1 and not dy.is_contiguous(memory_format=torch.channels_last):
        products = (x.flatten(2) @ dy.flatten(2).mT).sum(0)
        return products[columns, rows].to(torch.promote_types(dy.dtype, torch.float32))
    x = x[..., : height * kernel[0], : width * kernel[1]]
    patches = x.reshape(batch, channels, height, kernel[0], width, kernel[1]).permute(0, 2, 4, 1, 3, 5)
    flat_x = patches.reshape(batch * height * width, channels * area)
    flat_dy = dy.permute(0, 2, 3, 1).reshape(-1, dy.shape[1])
    return selected_products(rows, columns * area + taps, flat_dy, flat_x, backend)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type to compute in: autocast's if it is on, else the input's; the weight may be stored in a smaller one."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, where: Positions) -> Tensor:
    """x W^T + b for x (..., in) in the type of x; the gradient of W is computed at ``where`` alone and given to ``values``."""
    with torch.autocast(x.device.type, enabled=False):
        y = _sparse_linear(x.reshape(-1, x.shape[-1]), weight, bias, values, where)
    return y.view(*x.shape[:-1], y.shape[-1])


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, where: Positions, geometry: tuple[Any, ...]
) -> Tensor:
    """The same for a convolution of x (b, in, h, w); ``geometry``: stride, padding, dilation and groups."""
    with torch.autocast(x.device.type, enabled=False):
        return _Conv2dFunction.apply(
            x, weight, bias, values, where.rows, where.columns, where.used, where.taps, geometry, where.backend)


class SparseLinear(nn.Linear):
    """An ``nn.Linear`` in place: same weight, same forward, sparse backward. Made by :func:`attach`."""

    selected_values: nn.Parameter
    selected_positions: Positions

    def forward(self, input: Tensor) -> Tensor:
        """The stock forward."""
        return linear(input.to(compute_dtype(input)), self.weight, self.bias, self.selected_values, self.selected_positions)


class SparseConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` in place: same weight, same forward, sparse backward. Made by :func:`attach`."""

    selected_values: nn.Parameter
    selected_positions: Positions

    def forward(self, input: Tensor) -> Tensor:
        """The stock forward."""
        if input.ndim == 3:  # one image without a batch, as the stock layer takes it
            return self.forward(input[None])[0]
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        x = input.to(compute_dtype(input))
        return conv2d(x, self.weight, self.bias, self.selected_values, self.selected_positions, geometry)


def has_sparse_form(layer: nn.Module) -> bool:
    """Whether the layer computes exactly what the stock class does; a subclass with its own forward does not."""
    if type(layer).forward is nn.Linear.forward:
        return True
    return type(layer).forward is nn.Conv2d.forward and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def backend_in_use(layer: SparseLinear | SparseConv2d, dtype: torch.dtype, device: str) -> str:
    """What ``auto`` comes to for this layer outside torch.compile, for activations of this type; else the layer's own."""
    where = layer.selected_positions
    if where.backend != "auto":
        return where.backend
    used, out, entries = len(where.used), layer.weight.shape[0], len(where.rows)
    if isinstance(layer, SparseLinear):
        return choose(used, out, entries, dtype, device)
    area = layer.weight.shape[2] * layer.weight.shape[3]
    if _is_patchwise(layer.weight.shape[2:], (layer.stride, layer.padding, layer.dilation, layer.groups)):
        return "product" if area == 1 else choose(used * area, out, entries, dtype, device)
    return "product" if layer.groups > 1 else choose_taps(used, area, out, entries, dtype, device)
