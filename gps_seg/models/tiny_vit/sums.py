"""Gradients of one product, summed over strips of rows or chunks of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from gps_seg.core.positions import Positions

NARROW = 0.5  # gathering columns costs about half a product on all of them


class Sums:
    """Weight, bias and selected values of one product: sums of the gradients that somebody wants, in fp32 or better.

    Args:
        weight: (out, in), or (channels, 1, kh, kw) of a depthwise convolution.
        wanted: whether weight, bias and selected values need a gradient.
        where: positions of the selected values.
        narrow: leave out input columns that no entry reads, where that pays; :meth:`read` does it.
    """

    def __init__(
        self, weight: Tensor, wanted: tuple[bool, bool, bool], where: Positions | None, *, narrow: bool = False
    ) -> None:
        self.dense, self.bias, self.values = wanted
        self.where, self.columns = where, None
        exact = torch.promote_types(weight.dtype, torch.float32)
        shape = weight.shape
        if narrow and where is not None and not self.dense and len(where.used) < NARROW * shape[1]:
            self.columns, shape = where.used, torch.Size((len(weight), len(where.used)))
        self.dw = weight.new_zeros(shape, dtype=exact) if self.dense or self.values else None
        self.db = weight.new_zeros(len(weight), dtype=exact) if self.bias else None

    def read(self, x: Tensor) -> Tensor:
        """What counts of the product's input (n, in), or of something of its shape."""
        return x if self.columns is None else x.index_select(-1, self.columns)

    def add(self, dy: Tensor, x: Tensor | None) -> None:
        """dy (n, out); x as :meth:`read` gives it, None where no weight counts."""
        if self.dw is not None and x is not None:
            self.dw += dy.T @ x
        if self.db is not None:
            self.db += dy.sum(0)

    def add_kernels(self, dw: Tensor | None) -> None:
        """The kernels' gradient of a strip, in the weight's shape."""
        if self.dw is not None and dw is not None:
            self.dw += dw

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of weight, bias and selected values."""
        dv = None
        if self.values and self.dw is not None and self.where is not None:
            dv = self.dw.flatten(1)[self.where.rows, self._places(self.where)]
        return self.dw if self.dense else None, self.db, dv

    def _places(self, where: Positions) -> Tensor:
        if self.dw is not None and self.dw.ndim == 4:
            return where.taps
        return where.columns if self.columns is not None else where.used[where.columns]
