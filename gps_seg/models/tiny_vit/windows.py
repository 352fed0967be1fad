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

    table: Tensor
    parts: tuple[Region, ...]
    biases: list[Tensor]

    def are_of(self, table: Tensor, parts: tuple[Region, ...]) -> bool:
        """Whether they would come out the same. By the table's contents: fused optimizers write without raising its version."""
        return self.parts == parts and self.table.dtype == table.dtype and torch.equal(self.table, table)


_KNOWN: WeakKeyDictionary[nn.Module, _Biases] = WeakKeyDictionary()


def _biases(attention: Any, parts: tuple[Region, ...], side: int) -> list[Tensor]:
    """Biases of every region; on a CPU made once for a table that rests, as 30 of them cost as much as an attention."""
    table = attention.attention_biases
    if (torch.is_grad_enabled() and table.requires_grad) or table.device.type != "cpu":  # elsewhere comparing would wait
        return _make_biases(attention, parts, side)
    known = _KNOWN.get(attention)
    if known is None or not known.are_of(table, parts):
        with torch.inference_mode(mode=False), torch.no_grad():  # a later training step may use them
            known = _KNOWN[attention] = _Biases(table.detach().clone(), parts, _make_biases(attention, parts, side))
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


def _chunks(query: Tensor, key: Tensor, heads: int) -> Iterator[slice]:
    """Slices over windows and heads, whole windows each, whose logits stay in the processor's cache."""
    each = 4 * heads * query.shape[1] * key.shape[1]
    step = heads * (len(query) if query.is_cuda else max(1, CHUNK_BYTES // each))
    return (slice(start, start + step) for start in range(0, len(query), step))


def _maps(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Softmax of query key^T + bias, (windows * heads, n, keys), in fp32 for smaller types, as autocast has it."""
    logits = torch.bmm(query, key.mT).to(bias.dtype)
    logits.view(-1, *bias.shape).add_(bias)
    return torch.softmax(logits, -1)


class _AttendFunction(torch.autograd.Function):
    """qkv (B, H, W, heads, 3d) -> (B, H, W, heads, d); ``padding`` (heads, 3d) is the qkv of a padded token.

    Keeps qkv alone: the maps, larger than everything else, are made again.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, padding: Tensor | None, parts: tuple[Region, ...], scale: float, *biases: Tensor
    ) -> Tensor:
        out = qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)
        for region, bias in zip(parts, biases, strict=True):
            query, key, value = _read(qkv, padding if bias.shape[1] != bias.shape[2] else None, region)
            query *= scale
            mixed = torch.empty_like(query)
            for chunk in _chunks(query, key, len(bias)):
                torch.bmm(_maps(query[chunk], key[chunk], bias).to(value.dtype), value[chunk], out=mixed[chunk])
            _Windows(out, region).write(mixed)
        ctx.parts, ctx.scale = parts, scale
        ctx.save_for_backward(qkv, padding, *biases)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        qkv, padding, *biases = ctx.saved_tensors
        dqkv, dpadding = torch.empty_like(qkv), None if padding is None else torch.zeros_like(padding, dtype=biases[0].dtype)
        dbiases: list[Tensor | None] = []
        for index, (region, bias) in enumerate(zip(ctx.parts, biases, strict=True)):
            one = padding if bias.shape[1] != bias.shape[2] else None
            dbias = torch.zeros_like(bias) if ctx.needs_input_grad[4 + index] else None
            gradients = _backward(_read(qkv, one, region), bias, _Windows(dout, region).read(), ctx.scale, dbias)
            for part, gradient in zip(dqkv.chunk(3, -1), gradients, strict=True):
                _Windows(part, region).write(gradient[:, : region.height * region.width])
            if one is not None and dpadding is not None:
                for part, gradient in zip(dpadding.chunk(3, -1)[1:], gradients[1:], strict=True):
                    part += gradient[:, -1].view(-1, *part.shape).sum(0)
            dbiases.append(dbias)
        return dqkv, None if dpadding is None else dpadding.to(qkv.dtype), None, None, *dbiases


def _backward(
    inputs: tuple[Tensor, Tensor, Tensor], bias: Tensor, dout: Tensor, scale: float, dbias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value of one region; adds to the bias's."""
    query, key, value = inputs
    query *= scale
    dquery, dkey, dvalue = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for chunk in _chunks(query, key, len(bias)):
        maps = _maps(query[chunk], key[chunk], bias)
        torch.bmm(maps.to(dout.dtype).mT, dout[chunk], out=dvalue[chunk])
        dmaps = torch.bmm(dout[chunk], value[chunk].mT).to(maps.dtype)
        dlogits = torch._softmax_backward_data(dmaps, maps, -1, maps.dtype)
        if dbias is not None:
            dbias += dlogits.view(-1, *bias.shape).sum(0)
        dlogits = dlogits.to(query.dtype)
        torch.bmm(dlogits, key[chunk], out=dquery[chunk])
        torch.bmm(dlogits.mT, query[chunk], out=dkey[chunk])
    return dquery.mul_(scale), dkey, dvalue


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
