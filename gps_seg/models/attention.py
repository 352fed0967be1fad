"""Memory-efficient attention for SAM's image encoder, exact, windowed and global, forward and backward.

SAM adds a decomposed relative position to every attention logit: for query q at (h, w) and key at (h', w') the bias is
q . Rh[h, h'] + q . Rw[w, w']. The stock module writes the whole N x N map of each head (5.4 GB of the 6.9 GB a ViT-B keeps
at 1024 px). The bias is itself a dot product: append the H numbers q . Rh[h, :] and the W numbers q . Rw[w, :] to the query,
and to the key at (h', w') the one-hot codes of its row and column. Then one call of scaled_dot_product_attention gives the
same result without ever writing the map.

Source of the attention: Li et al., ViTDet, ECCV 2022, arXiv 2203.16527; Kirillov et al., arXiv 2304.02643.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Within a block whose activations are recomputed the checkpoint decides what is kept, and its hooks must be the innermost.
_PLAIN: ContextVar[bool] = ContextVar("plain attention", default=False)


def recomputed(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a block under ``torch.utils.checkpoint``, which then keeps its input alone."""
    token = _PLAIN.set(True)
    try:
        return block(x)
    finally:
        _PLAIN.reset(token)


def _forward(self: Any, x: Tensor) -> Tensor:
    """Attention over x (B, H, W, C), as the stock module to rounding."""
    batch, height, width, _ = x.shape
    tokens = height * width
    qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)  # each (B, heads, N, d)
    if not self.use_rel_pos:
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
    else:
        tables = (relative_table(height, self.rel_pos_h).to(query.dtype), relative_table(width, self.rel_pos_w).to(query.dtype))
        mixed = _attend(query, key, value, tables, self.scale)
    return self.proj(mixed.permute(0, 2, 1, 3).reshape(batch, height, width, -1))


def _attend(query: Tensor, key: Tensor, value: Tensor, tables: tuple[Tensor, Tensor], scale: float) -> Tensor:
    """Attention with the position bias; (B, heads, N, d). Keeps only query, key, value and the output for the backward.

    The widened inputs are up to three times as wide as the plain ones and cheap to make, so they are made again.
    """
    wide = _widen(query, key, value, tables, scale)
    width, extra = value.shape[-1], wide[0].shape[-1] - value.shape[-1]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _PLAIN.get():
        return F.scaled_dot_product_attention(*wide, scale=1.0)[..., :width]
    query, key, value, tables = query.detach(), key.detach(), value.detach(), (tables[0].detach(), tables[1].detach())
    places = {part.data_ptr(): index for index, part in enumerate(wide)}
    shape, dtype = wide[0].shape, wide[0].dtype

    def pack(tensor: Tensor) -> Tensor | tuple[int, Tensor | None]:
        if tensor.shape != shape or tensor.dtype != dtype:
            return tensor
        place = places.get(tensor.data_ptr())
        if place is not None:
            return place, None
        # What is left is the output, unless the map of weights (N, N) happens to have its shape: the math back-end keeps it.
        return tensor if shape[-2] == shape[-1] else (-1, tensor[..., :width].clone())

    def unpack(packed: Tensor | tuple[int, Tensor | None]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        place, output = packed
        if output is not None:
            return F.pad(output, (0, extra))  # the padded values gave zeros
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            return _widen(query, key, value, tables, scale)[place]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        mixed = F.scaled_dot_product_attention(*wide, scale=1.0)
    return mixed[..., :width]


def _widen(
    query: Tensor, key: Tensor, value: Tensor, tables: tuple[Tensor, Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries and keys (B, heads, N, d + H + W) whose dot products contain the position bias, and padded values.

    The fused kernels want one width for query, key and value.
    """
    height, width = len(tables[0]), len(tables[1])
    grid = query.unflatten(2, (height, width))  # (B, heads, H, W, d)
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, tables[0]).flatten(2, 3)
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, tables[1]).flatten(2, 3)
    places = torch.arange(height * width, device=query.device)
    codes = torch.cat([F.one_hot(places // width, height), F.one_hot(places % width, width)], -1).to(key.dtype)
    codes = codes.expand(*key.shape[:2], -1, -1)
    wide = torch.cat([query * scale, rows.to(query.dtype), columns.to(query.dtype)], -1)
    return wide, torch.cat([key, codes], -1), F.pad(value, (0, height + width))


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
        if type(module).__name__ == "EfficientAttention":
            module.__class__ = type(module).stock  # type: ignore[attr-defined]


def _is_stock_attention(module: nn.Module) -> bool:
    return type(module).__name__ == "Attention" and hasattr(module, "use_rel_pos")
