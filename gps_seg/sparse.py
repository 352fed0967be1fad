"""The engine: layers whose backward computes only the selected entries of the weight gradient. Torch only.

The forward pass is the stock one. The backward pass computes the input gradient and, for each selected entry (o, i),
g = sum over tokens of dY[:, o] * X[:, i], without the dense weight gradient and without keeping input columns that no
entry reads. ``attach.py`` puts these layers into a model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

VALUES = "selected_values"
# Rows worked on at once, so that a gathered chunk stays in the processor's cache (measured 4x faster than one piece).
CHUNK = 256
# Keeping only the used input columns pays when it drops at least a tenth of them.
KEEP_COLUMNS_BELOW = 0.9
# A matrix product on u used columns costs u x out multiply-adds a token, gathering costs one step an entry. This is the
# measured price of such a step in multiply-adds, on a 2-core AVX-512 CPU (25 ps a multiply-add in fp32, 12 in bf16, 1.1 ns a
# step); entries that are not row-regular must gather dY too, which triples it.
GATHER_PRICE = {torch.float32: 40, torch.float64: 40, torch.bfloat16: 90, torch.float16: 90}
IRREGULAR = 3


class Positions(nn.Module):
    """Where a layer's selected entries are: buffers that follow the layer across devices and are never saved.

    Attributes:
        rows: int64 (n,) output row or channel of each entry.
        columns: int64 (n,) index of each entry's input column (or channel) into ``used``.
        used: int64 (u,) ascending input columns or channels that any entry reads.
        taps: int64 (n,) kernel position of each entry; zeros for linear layers.
    """

    rows: Tensor
    columns: Tensor
    used: Tensor
    taps: Tensor

    def __init__(self, rows: Tensor, inputs: Tensor, taps: Tensor) -> None:
        super().__init__()
        used, columns = torch.unique(inputs, return_inverse=True)
        for name, tensor in {"rows": rows, "columns": columns, "used": used, "taps": taps}.items():
            self.register_buffer(name, tensor, persistent=False)


def prefers_product(used: int, out: int, entries: int, dtype: torch.dtype) -> bool:
    """The measured rule: whether a product on the used columns is cheaper than gathering the entries."""
    price = GATHER_PRICE[dtype] * (1 if entries % out == 0 else IRREGULAR)
    return used * out < price * entries


def selected_products(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """g[e] = sum over n of dy[n, rows[e]] * x[n, columns[e]], fp32 (e,), or fp64 for fp64.

    Args:
        rows, columns: int64 (e,), in ascending order of rows.
        dy: (n, out); x: (n, u), the used input columns only.
    """
    exact = torch.promote_types(dy.dtype, torch.float32)
    if torch.compiler.is_compiling():  # the compiler fuses this into one pass without the large intermediate
        return (dy[:, rows].to(exact) * x[:, columns].to(exact)).sum(0)
    if dy.device.type != "cpu" or prefers_product(x.shape[1], dy.shape[1], len(rows), dy.dtype):
        return (x.T @ dy)[columns, rows].to(exact)
    return _gather(rows, columns, dy, x)


def _gather(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """The same by gathering, a chunk of tokens at a time. Sums are products with a row of ones: 3x faster than sum(0)."""
    exact = torch.promote_types(dy.dtype, torch.float32)
    out, entries = dy.shape[1], len(rows)
    per_row = entries // out
    regular = entries == per_row * out and torch.equal(rows, torch.arange(out).repeat_interleave(per_row))
    parts = columns.view(out, per_row).unbind(1) if regular else (columns,)
    sums = [torch.zeros(1, len(part), dtype=exact) for part in parts]
    gathered = torch.empty(CHUNK, len(parts[0]), dtype=exact)
    ones = torch.ones(1, CHUNK, dtype=exact)
    for start in range(0, len(dy), CHUNK):
        right = x[start : start + CHUNK].to(exact)
        left = dy[start : start + CHUNK] if regular else dy[start : start + CHUNK].index_select(1, rows)
        chunk = gathered[: len(right)]
        for part, total in zip(parts, sums, strict=True):
            torch.index_select(right, 1, part, out=chunk)
            total.addmm_(ones[:, : len(right)], chunk.mul_(left))
    return torch.stack([total[0] for total in sums], 1).flatten()


class _LinearFunction(torch.autograd.Function):
    """y = x W^T + b with a backward that skips dW. x (..., in), dy (..., out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor,  # noqa: ARG004 - values only receive a gradient
        rows: Tensor, columns: Tensor, used: Tensor,
    ) -> Tensor:
        keeps_columns = len(used) < KEEP_COLUMNS_BELOW * x.shape[-1]
        kept = x.index_select(-1, used) if keeps_columns else x  # a copy: a view would keep the whole input alive
        ctx.save_for_backward(kept, weight, rows, columns if keeps_columns else used[columns])
        ctx.bias_dtype = None if bias is None else bias.dtype
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, rows, columns = ctx.saved_tensors
        flat = dy.reshape(-1, dy.shape[-1])
        dx = dy @ weight.to(dy.dtype) if ctx.needs_input_grad[0] else None
        db = flat.sum(0, dtype=ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        dv = selected_products(rows, columns, flat, kept.reshape(-1, kept.shape[-1])) if ctx.needs_input_grad[3] else None
        return dx, None, db, dv, None, None, None


class _Conv2dFunction(torch.autograd.Function):
    """A 2-D convolution, any stride, padding, dilation and groups. x (b, in, h, w), dy (b, out, h', w').

    The selected entries come from the weight gradient of the used input channels alone; with groups, whose weights are
    small, from the whole weight gradient. A 1x1 convolution is a linear layer over pixels, several times faster so in bf16.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor,  # noqa: ARG004 - values only receive a gradient
        rows: Tensor, columns: Tensor, used: Tensor, taps: Tensor, geometry: tuple[Any, ...],
    ) -> Tensor:
        groups = geometry[3]
        keeps_channels = groups == 1 and len(used) < KEEP_COLUMNS_BELOW * x.shape[1]
        kept = x.index_select(1, used) if keeps_channels else x
        ctx.save_for_backward(kept, weight, rows, columns if keeps_channels else used[columns], taps)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.geometry, ctx.input_shape = geometry, x.shape
        return F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *geometry)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, rows, columns, taps = ctx.saved_tensors
        pointwise = weight.shape[2:] == (1, 1) and ctx.geometry == ((1, 1), (0, 0), (1, 1), 1)
        dx = None
        if ctx.needs_input_grad[0]:
            cast = weight.to(dy.dtype)
            dx = _pointwise_input(dy, cast) if pointwise else _conv_input(ctx.input_shape, dy, cast, ctx.geometry)
        db = dy.sum((0, 2, 3), dtype=ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        dv = None
        if ctx.needs_input_grad[3]:
            if _is_patchwise(weight.shape[2:], ctx.geometry):
                dv = _patch_products(kept, dy, (rows, columns, taps), weight.shape[2:])
            else:
                dv = _conv_products(kept, dy, (rows, columns, taps), weight.shape, ctx.geometry)
        return dx, None, db, dv, None, None, None, None, None


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
    x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], weight_shape: torch.Size, geometry: tuple[Any, ...]
) -> Tensor:
    """Selected entries, fp32 (e,), from the weight gradient of the kept channels.

    Args:
        x: (b, channels, h, w), the kept input channels; dy: (b, out, h', w').
        where: rows, columns (into the channels of x) and taps, each int64 (e,).
        geometry: stride, padding, dilation, groups.
    """
    rows, columns, taps = where
    groups = geometry[3]
    per_group = x.shape[1] // groups
    shape = (weight_shape[0], per_group, *weight_shape[2:])
    gradient = conv2d_weight(x, shape, dy, *geometry)
    return gradient.flatten(2)[rows, columns % per_group, taps].to(torch.promote_types(dy.dtype, torch.float32))


def _patch_products(x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], kernel: torch.Size) -> Tensor:
    """Non-overlapping patches (1x1 convolutions and patch embeddings): a linear layer over (channel, tap)."""
    rows, columns, taps = where
    (batch, channels), (height, width) = x.shape[:2], dy.shape[2:]
    area = kernel[0] * kernel[1]
    if area == 1 and not dy.is_contiguous(memory_format=torch.channels_last):
        products = (x.flatten(2) @ dy.flatten(2).mT).sum(0)
        return products[columns, rows].to(torch.promote_types(dy.dtype, torch.float32))
    x = x[..., : height * kernel[0], : width * kernel[1]]
    patches = x.reshape(batch, channels, height, kernel[0], width, kernel[1]).permute(0, 2, 4, 1, 3, 5)
    flat_x = patches.reshape(batch * height * width, channels * area)
    flat_dy = dy.permute(0, 2, 3, 1).reshape(-1, dy.shape[1])
    return selected_products(rows, columns * area + taps, flat_dy, flat_x)


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The type the stock layer would compute in: autocast's if it is on, else the weight's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class SparseLinear(nn.Linear):
    """An ``nn.Linear`` in place: same weight, same forward, sparse backward. Made by :func:`attach`."""

    selected_values: nn.Parameter
    selected_positions: Positions

    def forward(self, input: Tensor) -> Tensor:
        """The stock forward."""
        where = self.selected_positions
        x = input.to(_compute_dtype(input, self.weight))
        with torch.autocast(x.device.type, enabled=False):
            return _LinearFunction.apply(
                x, self.weight, self.bias, self.selected_values, where.rows, where.columns, where.used
            )


class SparseConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` in place: same weight, same forward, sparse backward. Made by :func:`attach`."""

    selected_values: nn.Parameter
    selected_positions: Positions

    def forward(self, input: Tensor) -> Tensor:
        """The stock forward."""
        where, geometry = self.selected_positions, (self.stride, self.padding, self.dilation, self.groups)
        x = input.to(_compute_dtype(input, self.weight))
        with torch.autocast(x.device.type, enabled=False):
            return _Conv2dFunction.apply(
                x, self.weight, self.bias, self.selected_values, where.rows, where.columns, where.used, where.taps, geometry
            )


def linear_positions(_: nn.Module, shape: torch.Size, flat: Tensor) -> Positions:
    """Positions of flat indices into a linear weight (out, in)."""
    return Positions(flat // shape[1], flat % shape[1], torch.zeros_like(flat))


def conv_positions(layer: nn.Module, shape: torch.Size, flat: Tensor) -> Positions:
    """Positions of flat indices into a convolution weight (out, in / groups, kh, kw)."""
    out, per_group, height, width = shape
    area = height * width
    rows = flat // (per_group * area)
    group = rows // (out // int(layer.groups))  # type: ignore[arg-type]
    channels = group * per_group + flat // area % per_group
    return Positions(rows, channels, flat % area)


def has_sparse_form(layer: nn.Module) -> bool:
    """Whether the layer computes exactly what the stock class does; a subclass with its own forward does not."""
    if type(layer).forward is nn.Linear.forward:
        return True
    return type(layer).forward is nn.Conv2d.forward and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
