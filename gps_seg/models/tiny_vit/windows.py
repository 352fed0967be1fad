"""Attention within windows, on channels-last tokens, forward and backward, without copies to window order and back.

Where the grid is no multiple of the window, TinyViT pads it with zeros, whose keys take part (the norm and the projection give
them a value) and whose queries are thrown away: at 32 x 32 with windows of 14 that is 72 % more tokens. All padded keys of a
window are equal but for their position's bias, so they are one key k0 with the bias log(sum of exp(biases)) and the value v0:
here real tokens attend to real tokens and to that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2 << 20  # of one chunk's attention map


class Region(NamedTuple):
    """A part of the grid cut into windows of one size: rows and columns of tokens, and the windows' height and width."""

    rows: slice
    columns: slice
    height: int
    width: int


def regions(height: int, width: int, side: int) -> Iterator[Region]:
    """The whole windows, and those cut off by the right edge, the bottom edge and both."""
    down, across = height - height % side, width - width % side
    for rows, tall in ((slice(0, down), side), (slice(down, height), height - down)):
        for columns, wide in ((slice(0, across), side), (slice(across, width), width - across)):
            if rows.stop > rows.start and columns.stop > columns.start:
                yield Region(rows, columns, tall, wide)


def region_bias(table: Tensor, region: Region, side: int) -> Tensor:
    """Position biases of a region's windows (heads, n, n), or (heads, n, n + 1) with the padded keys' as the last.

    Args:
        table: (heads, side^2, side^2), of a whole window.
    """
    if (region.height, region.width) == (side, side):
        return table
    inside = torch.zeros(side, side, dtype=torch.bool, device=table.device)
    inside[: region.height, : region.width] = True
    real, padded = inside.flatten().nonzero()[:, 0], (~inside).flatten().nonzero()[:, 0]
    queries = table[:, real]
    return torch.cat([queries[:, :, real], queries[:, :, padded].logsumexp(-1, keepdim=True)], -1)


class _Windows:
    """A region of tokens (B, H, W, heads, w), read and written in window order (windows, heads, n, w)."""

    def __init__(self, tokens: Tensor, region: Region) -> None:
        part = tokens[:, region.rows, region.columns]
        batch, rows, columns, self.heads, width = part.shape
        self.down, self.across = rows // region.height, columns // region.width
        parts = part.view(batch, self.down, region.height, self.across, region.width, self.heads, width)
        self.view = parts.permute(0, 1, 3, 5, 2, 4, 6)  # a view: (B, down, across, heads, height, width, w)
        self.shape = (batch * self.down * self.across, self.heads, region.height * region.width, width)

    def read(self) -> Tensor:
        return self.view.reshape(self.shape)

    def write(self, values: Tensor) -> None:
        self.view.copy_(values.view(self.view.shape))


def _with_padding(part: Tensor, padding: Tensor | None) -> Tensor:
    """Keys or values (windows, heads, n, d), and the padded one's (heads, d) behind them if there is one."""
    if padding is None:
        return part
    return torch.cat([part, padding[None, :, None].expand(len(part), -1, 1, -1)], 2)


def _read(qkv: Tensor, padding: Tensor | None, region: Region, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    width = qkv.shape[-1] // 3
    query, key, value = (_Windows(part, region).read() for part in qkv.split(width, -1))
    if padding is not None:
        key, value = _with_padding(key, padding[:, width : 2 * width]), _with_padding(value, padding[:, 2 * width :])
    return query * scale, key, value


def _chunks(windows: int, each: int) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // each)
    return (slice(start, min(windows, start + step)) for start in range(0, windows, step))


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Softmax of query key^T + bias for some windows; (windows, heads, n, keys)."""
    logits = torch.matmul(query, key.mT)
    exact = torch.promote_types(logits.dtype, torch.float32)
    return torch.softmax(logits.to(exact).add_(bias), -1).to(query.dtype)


class _AttendFunction(torch.autograd.Function):
    """qkv (B, H, W, heads, 3d) -> (B, H, W, heads, d); ``padding`` (heads, 3d) is the qkv of a padded token."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, padding: Tensor | None, parts: tuple[Region, ...], scale: float, *biases: Tensor) -> Tensor:
        out = qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)
        kept = []
        for region, bias in zip(parts, biases, strict=True):
            one = padding if bias.shape[1] != bias.shape[2] else None
            query, key, value = _read(qkv, one, region, scale)
            maps = query.new_empty(*query.shape[:3], key.shape[2])
            mixed = torch.empty_like(query)
            for chunk in _chunks(len(maps), maps[0].numel() * 4):
                maps[chunk] = _weights(query[chunk], key[chunk], bias)
                mixed[chunk] = maps[chunk] @ value[chunk]
            _Windows(out, region).write(mixed)
            kept.append(maps)
        ctx.parts, ctx.scale = parts, scale
        ctx.save_for_backward(qkv, padding, *(kept if any(ctx.needs_input_grad) else ()), *biases)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.parts)
        qkv, padding, *rest = ctx.saved_tensors
        width = qkv.shape[-1] // 3
        dqkv = torch.empty_like(qkv)
        dpadding = None if padding is None else torch.zeros_like(padding, dtype=torch.promote_types(qkv.dtype, torch.float32))
        dbiases: list[Tensor | None] = []
        for index, (region, maps, bias) in enumerate(zip(ctx.parts, rest[:count], rest[count:], strict=True)):
            one = padding if bias.shape[1] != bias.shape[2] else None
            inputs = _read(qkv, one, region, ctx.scale)
            dq, dk, dv, db = _backward(inputs, maps, _Windows(dout, region).read(), wants_bias=ctx.needs_input_grad[4 + index])
            real = dq.shape[2]
            for part, gradient in zip(dqkv.split(width, -1), (dq.mul_(ctx.scale), dk[:, :, :real], dv[:, :, :real]), strict=True):
                _Windows(part, region).write(gradient)
            if one is not None and dpadding is not None:
                dpadding[:, width : 2 * width] += dk[:, :, real].sum(0)
                dpadding[:, 2 * width :] += dv[:, :, real].sum(0)
            dbiases.append(None if db is None else db.to(bias.dtype))
        return dqkv, None if dpadding is None else dpadding.to(qkv.dtype), None, None, *dbiases


def _backward(
    inputs: tuple[Tensor, Tensor, Tensor], maps: Tensor, dout: Tensor, *, wants_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of scaled query, key, value and bias of one region, a few windows at a time."""
    query, key, value = inputs
    dq, dk, dv = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    db = torch.zeros(maps.shape[1:], dtype=torch.promote_types(maps.dtype, torch.float32), device=maps.device) if wants_bias else None
    for chunk in _chunks(len(maps), maps[0].numel() * 4):
        dmaps = dout[chunk] @ value[chunk].mT
        dlogits = torch._softmax_backward_data(dmaps, maps[chunk], -1, maps.dtype)  # type: ignore[attr-defined]
        dq[chunk], dk[chunk] = dlogits @ key[chunk], dlogits.mT @ query[chunk]
        dv[chunk] = maps[chunk].mT @ dout[chunk]
        if db is not None:
            db += dlogits.sum(0)
    return dq, dk, dv, db


def attend(tokens: Tensor, attention: Any, padded: Tensor | None, side: int) -> Tensor:
    """Windowed attention between the query-key-value projection and the output projection.

    Args:
        tokens: (B, H, W, heads * 3d), the projection's result.
        attention: the packaged module, for its numbers and biases.
        padded: (heads * 3d,), the projection of a token of padding; read only where the grid is no multiple of the window.
    """
    batch, height, width, _ = tokens.shape
    heads = attention.num_heads
    parts = tuple(regions(height, width, side))
    table = attention.attention_biases[:, attention.attention_bias_idxs]
    biases = [region_bias(table, region, side) for region in parts]
    qkv, padding = tokens.view(batch, height, width, heads, -1), None if padded is None else padded.view(heads, -1)
    with torch.autocast(tokens.device.type, enabled=False):
        mixed = _AttendFunction.apply(qkv, padding, parts, attention.scale, *biases)
    return mixed.flatten(3)
