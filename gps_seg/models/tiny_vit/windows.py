"""Attention within windows, on channels-last tokens, forward and backward, without copies to window order and back.

Where the grid is no multiple of the window, TinyViT pads it with zeros, whose keys take part (the norm and the projection give
them a value) and whose queries are thrown away: at 32 x 32 with windows of 14 that is 72 % more tokens. All padded keys of a
window are equal but for their position's bias, so they are one key k0 with the bias log(sum of exp(biases)) and the value v0:
here real tokens attend to real tokens and to that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2 << 20  # of the logits that are worked on at once, in fp32


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


@dataclass(frozen=True)
class _Biases:
    """What the biases of an attention were made from, to know when they are stale, and they."""

    source: tuple[Any, ...]
    biases: list[Tensor]


_KNOWN: WeakKeyDictionary[nn.Module, _Biases] = WeakKeyDictionary()


def _biases(attention: Any, parts: tuple[Region, ...], side: int) -> list[Tensor]:
    """Biases of every region; made once for a frozen table, as 30 of them cost as much as an attention."""
    table = attention.attention_biases
    if torch.is_grad_enabled() and table.requires_grad:
        return _make_biases(attention, parts, side)
    source = (table.data_ptr(), table._version, table.dtype, table.device, parts)
    known = _KNOWN.get(attention)
    if known is None or known.source != source:
        with torch.no_grad():
            known = _KNOWN[attention] = _Biases(source, _make_biases(attention, parts, side))
    return known.biases


def _make_biases(attention: Any, parts: tuple[Region, ...], side: int) -> list[Tensor]:
    table = attention.attention_biases[:, attention.attention_bias_idxs]
    return [region_bias(table, region, side) for region in parts]


class _Windows:
    """A region of tokens (B, H, W, heads, w), read and written in window order (windows * heads, n, w)."""

    def __init__(self, tokens: Tensor, region: Region) -> None:
        part = tokens[:, region.rows, region.columns]
        batch, rows, columns, heads, self.width = part.shape
        self.down, self.across, self.tokens = rows // region.height, columns // region.width, region.height * region.width
        parts = part.view(batch, self.down, region.height, self.across, region.width, heads, self.width)
        self.view = parts.permute(0, 1, 3, 5, 2, 4, 6)  # a view: (B, down, across, heads, height, width, w)
        self.count = batch * self.down * self.across * heads

    def read(self, extra: Tensor | None = None) -> Tensor:
        """A copy; ``extra`` (heads, w) is one more token behind each window's."""
        if extra is None:
            return self.view.clone(memory_format=torch.contiguous_format).view(self.count, self.tokens, self.width)
        copy = self.view.new_empty(self.count, self.tokens + 1, self.width)
        copy[:, : self.tokens].view(self.view.shape).copy_(self.view)
        copy[:, self.tokens].view(-1, *extra.shape).copy_(extra)
        return copy

    def write(self, values: Tensor) -> None:
        self.view.copy_(values.view(self.view.shape))


def _read(qkv: Tensor, padding: Tensor | None, region: Region) -> tuple[Tensor, Tensor, Tensor]:
    extra = (None, None, None) if padding is None else (None, *padding.chunk(3, -1)[1:])
    query, key, value = (_Windows(part, region).read(one) for part, one in zip(qkv.chunk(3, -1), extra, strict=True))
    return query, key, value


def _maps(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Softmax of query key^T + bias, (windows * heads, n, keys); logits in fp32 for smaller types, as autocast has them."""
    maps = query.new_empty(len(query), query.shape[1], key.shape[1])
    heads, exact = len(bias), torch.promote_types(query.dtype, torch.float32)
    step = max(1, CHUNK_BYTES // (4 * heads * maps[0].numel())) * heads
    for start in range(0, len(maps), step):
        chunk = slice(start, start + step)
        logits = torch.bmm(query[chunk], key[chunk].mT).to(exact)
        logits.view(-1, *bias.shape).add_(bias)
        torch.softmax(logits, -1, out=maps[chunk]) if maps.dtype == exact else maps[chunk].copy_(torch.softmax(logits, -1))
    return maps


class _AttendFunction(torch.autograd.Function):
    """qkv (B, H, W, heads, 3d) -> (B, H, W, heads, d); ``padding`` (heads, 3d) is the qkv of a padded token."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, padding: Tensor | None, parts: tuple[Region, ...], scale: float, *biases: Tensor) -> Tensor:
        out = qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)
        kept = []
        for region, bias in zip(parts, biases, strict=True):
            query, key, value = _read(qkv, padding if bias.shape[1] != bias.shape[2] else None, region)
            maps = _maps(query.mul_(scale), key, bias)
            _Windows(out, region).write(torch.bmm(maps, value))
            kept.append(maps)
        ctx.parts, ctx.scale = parts, scale
        ctx.save_for_backward(qkv, padding, *(kept if any(ctx.needs_input_grad) else ()), *biases)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.parts)
        qkv, padding, *rest = ctx.saved_tensors
        dqkv = torch.empty_like(qkv)
        exact = torch.promote_types(qkv.dtype, torch.float32)
        dpadding = None if padding is None else torch.zeros_like(padding, dtype=exact)
        dbiases: list[Tensor | None] = []
        for index, (region, maps, bias) in enumerate(zip(ctx.parts, rest[:count], rest[count:], strict=True)):
            one = padding if bias.shape[1] != bias.shape[2] else None
            inputs = _read(qkv, one, region)
            dlogits, *gradients = _backward(inputs, maps, _Windows(dout, region).read(), ctx.scale)
            for part, gradient in zip(dqkv.chunk(3, -1), gradients, strict=True):
                _Windows(part, region).write(gradient[:, : maps.shape[1]])
            if one is not None and dpadding is not None:
                for part, gradient in zip(dpadding.chunk(3, -1)[1:], gradients[1:], strict=True):
                    part += gradient[:, -1].view(-1, *part.shape).sum(0)
            wanted = ctx.needs_input_grad[4 + index]
            dbiases.append(dlogits.view(-1, *bias.shape).sum(0, dtype=exact).to(bias.dtype) if wanted else None)
        return dqkv, None if dpadding is None else dpadding.to(qkv.dtype), None, None, *dbiases


def _backward(
    inputs: tuple[Tensor, Tensor, Tensor], maps: Tensor, dout: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of logits, query, key and value of one region."""
    query, key, value = inputs
    dlogits = torch.bmm(dout, value.mT)
    dlogits = torch._softmax_backward_data(dlogits, maps, -1, maps.dtype)  # type: ignore[attr-defined]
    dquery, dkey = torch.bmm(dlogits, key).mul_(scale), torch.bmm(dlogits.mT, query).mul_(scale)
    return dlogits, dquery, dkey, torch.bmm(maps.mT, dout)


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
    biases = _biases(attention, parts, side)
    qkv, padding = tokens.view(batch, height, width, heads, -1), None if padded is None else padded.view(heads, -1)
    with torch.autocast(tokens.device.type, enabled=False):
        mixed = _AttendFunction.apply(qkv, padding, parts, attention.scale, *biases)
    return mixed.flatten(3)
