"""Where a layer's selected entries are, in the terms of its arithmetic: output row, input column, kernel position."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Positions(nn.Module):
    """Where a layer's selected entries are: buffers that follow the layer across devices and are never saved.

    Attributes:
        rows: int64 (n,) output row or channel of each entry.
        columns: int64 (n,) index of each entry's input column (or channel) into ``used``.
        used: int64 (u,) ascending input columns or channels that any entry reads.
        taps: int64 (n,) kernel position of each entry; zeros for linear layers.
        backend: how the selected gradients are computed, see :mod:`gps_seg.core.products`.
    """

    rows: Tensor
    columns: Tensor
    used: Tensor
    taps: Tensor
    backend: str = "auto"

    def __init__(self, rows: Tensor, inputs: Tensor, taps: Tensor) -> None:
        super().__init__()
        used, columns = torch.unique(inputs, return_inverse=True)
        for name, tensor in {"rows": rows, "columns": columns, "used": used, "taps": taps}.items():
            self.register_buffer(name, tensor, persistent=False)


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
