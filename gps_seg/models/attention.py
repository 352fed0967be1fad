"""Memory-efficient attention for SAM's image encoder, exact, windowed and global, forward and backward.

SAM adds a decomposed relative position to every attention logit: for query q at (h, w) and key at (h', w') the bias is
q . Rh[h, h'] + q . Rw[w, w']. The stock module writes the whole N x N map of each head (5.4 GB of the 6.9 GB a ViT-B keeps
at 1024 px). The bias is itself a dot product: append the H numbers q . Rh[h, :] and the W numbers q . Rw[w, :] to the query,
and to the key at (h', w') the one-hot codes of its row and column. Then one call of scaled_dot_product_attention gives the
same result without ever writing the map.

Source of the attention: Li et al., ViTDet, ECCV 2022, arXiv 2203.16527; Kirillov et al., arXiv 2304.02643.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Wide = tuple[Tensor, Tensor, Tensor]  # query, key and value (B, heads, N, d + H + W)
OUTPUT = -1  # what a hook keeps for attention's own output, which lies in memory anyway

# Within a block whose activations are all recomputed the checkpoint decides what is kept, its hooks the innermost.
_PLAIN: ContextVar[bool] = ContextVar("plain attention", default=False)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within, attention keeps for the backward what torch keeps."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def _forward(self: Any, x: Tensor) -> Tensor:
    """Attention over x (B, H, W, C), as the stock module to rounding."""
    return self.proj(attend(self, widen, self, self.qkv(x)).view(x.shape))


def attend(attention: Any, make: Callable[..., Wide], *inputs: Any) -> Tensor:
    """Attention between queries, keys and values that ``make(*inputs)`` gives -> (B, N, C).

    Keeps the inputs and its output for the backward. The widened queries, keys and values are up to three times as wide as the
    plain ones and are made again.
    """
    width = attention.rel_pos_h.shape[1] if attention.use_rel_pos else None
    if torch.compiler.is_compiling():  # asked first: a context variable cannot be traced
        return _merge_heads(_mix(checkpoint(make, *inputs, use_reentrant=False)), width)
    if _PLAIN.get() or not torch.is_grad_enabled():
        return _merge_heads(_mix(make(*inputs)), width)
    return _attend_lightly(checkpoint(_keeping, make, *inputs, use_reentrant=False), width)


def _attend_lightly(wide: Wide, width: int | None) -> Tensor:
    """Attention that keeps its output, unpadded, and asks the checkpoint of its inputs for them."""
    source: Any = wide[0].grad_fn
    places = {part.data_ptr(): index for index, part in enumerate(wide)}
    shape, dtype = wide[0].shape, wide[0].dtype
    again: dict[int, Tensor] = {}
    merged: Tensor

    def pack(tensor: Tensor) -> Tensor | int:
        if tensor.shape != shape or tensor.dtype != dtype:
            return tensor
        # What is left is the output, unless the map of weights (N, N) happens to have its shape: the math back-end keeps it.
        return places.get(tensor.data_ptr(), tensor if shape[-2] == shape[-1] else OUTPUT)

    def unpack(packed: Tensor | int) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if packed == OUTPUT:  # the padded values gave zeros
            plain = merged.unflatten(2, (shape[1], -1)).transpose(1, 2)
            return F.pad(plain, (0, shape[-1] - plain.shape[-1]))
        if packed not in again:
            again.update(enumerate(source.saved_tensors))
        return again.pop(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        mixed = _mix(wide)
    output = _merge_heads(mixed, width)
    merged = output.detach()
    return output


def _mix(wide: Wide) -> Tensor:
    return F.scaled_dot_product_attention(*wide, scale=1.0)


class _Kept(torch.autograd.Function):
    """The identity, which saves its tensors: what a checkpoint around it makes again can be read from its node."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004 - torch's signature
        return gradients


def _keeping(make: Callable[..., Wide], *inputs: Any) -> Wide:
    return _Kept.apply(*make(*inputs))


def _merge_heads(mixed: Tensor, width: int | None) -> Tensor:
    """The first ``width`` channels of each head, (B, heads, N, d) -> (B, N, heads * width), a copy."""
    return mixed[..., :width].transpose(1, 2).flatten(2)


def widen(attention: Any, projected: Tensor) -> Wide:
    """Queries, keys and values (B, H, W, 3 C) as heads whose dot products contain the scale and the position bias.

    Values are padded, as the fused kernels want one width for query, key and value.
    """
    batch, height, width, _ = projected.shape
    parts = projected.reshape(batch, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)  # each (B, heads, N, d)
    if not attention.use_rel_pos:
        return query * attention.scale, key, value
    row_table = relative_table(height, attention.rel_pos_h).to(query.dtype)
    column_table = relative_table(width, attention.rel_pos_w).to(query.dtype)
    grid = query.unflatten(2, (height, width))  # (B, heads, H, W, d)
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, row_table).flatten(2, 3)
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, column_table).flatten(2, 3)
    places = torch.arange(height * width, device=query.device)
    codes = torch.cat([F.one_hot(places // width, height), F.one_hot(places % width, width)], -1).to(key.dtype)
    wide = torch.cat([query * attention.scale, rows.to(query.dtype), columns.to(query.dtype)], -1)
    return wide, torch.cat([key, codes.expand(*key.shape[:2], -1, -1)], -1), F.pad(value, (0, height + width))


def relative_table(size: int, table: Tensor) -> Tensor:
    """Vectors (size, size, d) by query and key coordinate, from SAM's table (2 * native - 1, d), resized if need be."""
    length = 2 * size - 1
    if table.shape[0] != length:
        table = F.interpolate(table.T[None], length, mode="linear")[0].T
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]


def use_efficient_attention(encoder: nn.Module) -> None:
    """Give every stock SAM attention of an encoder the efficient forward, in place; parameters are not touched."""
    for module in encoder.modules():
        if _is_stock_attention(module):
            stock = type(module)
            module.__class__ = type("EfficientAttention", (stock,), {"forward": _forward, "stock": stock})


def use_stock_attention(encoder: nn.Module) -> None:
    """Undo :func:`use_efficient_attention`."""
    for module in encoder.modules():
        if is_efficient(module):
            module.__class__ = type(module).stock  # type: ignore[attr-defined]


def is_efficient(module: nn.Module) -> bool:
    """Whether :func:`use_efficient_attention` has changed this attention."""
    return type(module).__name__ == "EfficientAttention"


def _is_stock_attention(module: nn.Module) -> bool:
    return type(module).__name__ == "Attention" and hasattr(module, "use_rel_pos")
