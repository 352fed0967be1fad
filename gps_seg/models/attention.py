"""Memory-efficient attention for SAM's image encoder, exact, windowed and global, forward and backward.

SAM adds a decomposed relative position to every attention logit: for query q at (h, w) and key at (h', w') the bias is
q . Rh[h, h'] + q . Rw[w, w']. The stock module writes the whole N x N map of each head (5.4 GB of the 6.9 GB a ViT-B keeps
at 1024 px). The bias is itself a dot product: append the H numbers q . Rh[h, :] and the W numbers q . Rw[w, :] to the query,
and to the key at (h', w') the one-hot codes of its row and column. Then one call of scaled_dot_product_attention gives the
same result without ever writing the map.

Source of the attention: Li et al., ViTDet, ECCV 2022, arXiv 2203.16527; Kirillov et al., arXiv 2304.02643.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Tables = tuple[Tensor, Tensor]  # vectors of relative rows (H, H, d) and columns (W, W, d)
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
    return self.proj(mix(self, self.qkv(x)))


def mix(attention: Any, projected: Tensor) -> Tensor:
    """A module's attention between its two projections: queries, keys and values (B, H, W, 3 C) -> their mixture (B, H, W, C).

    Keeps only these two for the backward.
    """
    batch, height, width, _ = projected.shape
    parts = projected.reshape(batch, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)  # each (B, heads, N, d)
    if not attention.use_rel_pos:
        mixed = _merge_heads(F.scaled_dot_product_attention(query, key, value, scale=attention.scale))
    else:
        tables = (relative_table(height, attention.rel_pos_h).to(query.dtype),
                  relative_table(width, attention.rel_pos_w).to(query.dtype))
        mixed = _attend(query, key, value, tables, attention.scale)
    return mixed.view(batch, height, width, -1)


def _merge_heads(mixed: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d), a copy."""
    return mixed.permute(0, 2, 1, 3).flatten(2)


def _attend(query: Tensor, key: Tensor, value: Tensor, tables: Tables, scale: float) -> Tensor:
    """Attention with the position bias; (B, heads, N, d) -> (B, N, heads * d). Keeps only inputs and output for the backward.

    The widened inputs are up to three times as wide as the plain ones and cheap to make, so they are made again.
    """
    parts, width = (query, key, value, tables, scale), value.shape[-1]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _PLAIN.get():
        return _merge_heads(F.scaled_dot_product_attention(*_widen(*parts), scale=1.0)[..., :width])
    is_trained = any(table.requires_grad for table in tables)  # its gradient reads two permuted copies of the query
    wide: Wide = checkpoint(_widen, *parts, use_reentrant=False) if is_trained else _widen(*parts)
    query, key, value, tables = query.detach(), key.detach(), value.detach(), (tables[0].detach(), tables[1].detach())
    places = {part.data_ptr(): index for index, part in enumerate(wide)}
    shape, dtype = wide[0].shape, wide[0].dtype
    merged: Tensor

    def pack(tensor: Tensor) -> Tensor | int:
        if tensor.shape != shape or tensor.dtype != dtype:
            return tensor
        # What is left is the output, unless the map of weights (N, N) happens to have its shape: the math back-end keeps it.
        return places.get(tensor.data_ptr(), tensor if shape[-2] == shape[-1] else OUTPUT)

    def unpack(packed: Tensor | int) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            if packed == 0:
                return _wide_query(query, tables, scale)
            if packed == 1:
                return _wide_key(key, tables)
            plain = value if packed == 2 else merged.unflatten(2, (-1, width)).transpose(1, 2)
            return F.pad(plain, (0, shape[-1] - width))  # the padded values gave zeros

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        mixed = F.scaled_dot_product_attention(*wide, scale=1.0)
    output = _merge_heads(mixed[..., :width])
    merged = output.detach()
    return output


def _widen(query: Tensor, key: Tensor, value: Tensor, tables: Tables, scale: float) -> Wide:
    """Scaled queries and keys (B, heads, N, d + H + W) whose dot products contain the position bias, and padded values.

    The fused kernels want one width for query, key and value.
    """
    padded = F.pad(value, (0, len(tables[0]) + len(tables[1])))
    return _wide_query(query, tables, scale), _wide_key(key, tables), padded


def _wide_query(query: Tensor, tables: Tables, scale: float) -> Tensor:
    grid = query.unflatten(2, (len(tables[0]), len(tables[1])))  # (B, heads, H, W, d)
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, tables[0]).flatten(2, 3)
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, tables[1]).flatten(2, 3)
    return torch.cat([query * scale, rows.to(query.dtype), columns.to(query.dtype)], -1)


def _wide_key(key: Tensor, tables: Tables) -> Tensor:
    height, width = len(tables[0]), len(tables[1])
    places = torch.arange(height * width, device=key.device)
    codes = torch.cat([F.one_hot(places // width, height), F.one_hot(places % width, width)], -1).to(key.dtype)
    return torch.cat([key, codes.expand(*key.shape[:2], -1, -1)], -1)


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
