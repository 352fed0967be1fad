"""A Triton gather-reduce kernel for the product of the sparse layers. Imported only where asked for; needs ``triton``.

Each program sums a block of entries over a span of tokens in fp32 (fp64 for fp64) and writes its partial sum to its own
place; the partial sums are then added in a fixed order. No atomics: the same inputs give the same bits.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from gps_seg.errors import ConfigError

ENTRIES, TOKENS, SPAN = 512, 4, 512  # entries a program, tokens a tile, tokens a program

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of torch come without it
    triton = None


def why_not(device: torch.device) -> str:
    """Empty if the kernel can run on this device, else the reason."""
    if triton is None:
        return "the package triton is not installed"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it needs a GPU; TRITON_INTERPRET=1 runs it slowly on a CPU"
    return ""


if triton is not None:

    @triton.jit
    def _kernel(
        dy: Any, x: Any, rows: Any, columns: Any, out: Any, n: Any, entries: Any, stride_dy: Any, stride_x: Any,
        SUM: tl.constexpr, E: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    ) -> None:
        entry = tl.program_id(0) * E + tl.arange(0, E)
        here = entry < entries
        row = tl.load(rows + entry, mask=here, other=0)
        column = tl.load(columns + entry, mask=here, other=0)
        total = tl.zeros([E], dtype=SUM)
        for start in range(0, S, T):
            token = tl.program_id(1) * S + start + tl.arange(0, T)
            inside = (token[:, None] < n) & here[None, :]
            left = tl.load(dy + token[:, None].to(tl.int64) * stride_dy + row[None, :], mask=inside, other=0.0).to(SUM)
            right = tl.load(x + token[:, None].to(tl.int64) * stride_x + column[None, :], mask=inside, other=0.0).to(SUM)
            total += tl.sum(left * right, 0)
        tl.store(out + tl.program_id(1).to(tl.int64) * entries + entry, total, mask=here)


@torch.library.custom_op("gps_seg::gather_reduce", mutates_args=())
def _gather_reduce(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    exact = torch.promote_types(dy.dtype, torch.float32)
    dy, x = dy.contiguous(), x.contiguous()
    spans = max(1, -(-len(dy) // SPAN))
    parts = torch.empty(spans, len(rows), dtype=exact, device=dy.device)
    grid = (-(-len(rows) // ENTRIES), spans)
    _kernel[grid](dy, x, rows, columns, parts, len(dy), len(rows), dy.stride(0), x.stride(0),
                  SUM=tl.float64 if exact == torch.float64 else tl.float32, E=ENTRIES, T=TOKENS, S=SPAN)
    return parts.sum(0)


@_gather_reduce.register_fake
def _(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001 - the operator's signature
    return dy.new_empty(len(rows), dtype=torch.promote_types(dy.dtype, torch.float32))


def gather_reduce(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """g[e] = sum over n of dy[n, rows[e]] * x[n, columns[e]], fp32 (e,), or fp64 for fp64.

    Raises:
        ConfigError: the kernel cannot run on this device; says why.
    """
    reason = why_not(dy.device)
    if reason:
        raise ConfigError(f"back-end triton: {reason}")
    return _gather_reduce(rows, columns, dy, x)
