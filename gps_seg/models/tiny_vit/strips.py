"""MBConv and downsampling in strips of rows: pointwise, depthwise and pointwise product, with GELU between.

The hidden activations are four times as wide as the block's input, at the finest grid of the network: 67 MB each for four
images of 128 px in bf16, written and read some twenty times a step. Here they never exist as a whole: a strip of rows
small enough for the processor's cache goes through the block at once; for the backward only the block's input is kept (and
the input of an MBConv's last GELU), and each strip's hidden activations are made again where its gradients need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gps_seg.core.positions import Positions
from gps_seg.models.tiny_vit.folding import fold, is_plain, takes_products
from gps_seg.models.tiny_vit.sums import Sums

STRIP_BYTES = 3 << 20  # of one hidden activation; measured best of 0.25 to 8 MB

gelu = torch.ops.aten.gelu.out
gelu_backward = torch.ops.aten.gelu_backward.grad_input


class _Shape(NamedTuple):
    stride: int
    residual: bool
    places: tuple[Positions | None, ...]


class _Strip(NamedTuple):
    """``rows`` of the result of one image; the input rows they read, and whether rows of zeros lie above and below these."""

    image: int
    rows: slice
    inputs: slice
    above: int
    below: int


def _strips(x: Tensor, hidden: int, stride: int) -> Iterator[_Strip]:
    batch, height, width, _ = x.shape
    lines = height if x.is_cuda else max(1, STRIP_BYTES // (stride * width * hidden * x.element_size()))
    total = (height - 1) // stride + 1
    for image in range(batch):
        for first in range(0, total, lines):
            last = min(total, first + lines)
            begin, end = stride * first - 1, stride * (last - 1) + 2
            yield _Strip(image, slice(first, last), slice(max(0, begin), min(height, end)), int(begin < 0), int(end > height))


class _Chain:
    """The three products of a block in the type of the activations, and what a strip of them does."""

    def __init__(self, tensors: Sequence[Tensor], stride: int) -> None:
        w1, b1, w2, b2, w3, b3 = tensors
        self.w1, self.b1, self.w3, self.b3, self.b2 = w1, b1, w3, b3, b2
        self.w2 = w2.contiguous(memory_format=torch.channels_last)
        self.turned = self.w2.flip(2, 3).contiguous(memory_format=torch.channels_last)
        self.hidden, self.stride = len(w1), stride

    def widen(self, x: Tensor, strip: _Strip, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """GELU of the first product over a strip, padded with rows of zeros; its inner rows; their input of GELU if kept."""
        rows = x[strip.image, strip.inputs]
        height, width, channels = rows.shape
        padded = x.new_empty(height + strip.above + strip.below, width, self.hidden)
        inner = padded[strip.above : strip.above + height].view(-1, self.hidden)
        before = torch.empty_like(inner) if keep else inner
        torch.addmm(self.b1, rows.view(-1, channels), self.w1.T, out=before)
        gelu(before, out=inner)
        if strip.above:
            padded[0].zero_()
        if strip.below:
            padded[-1].zero_()
        return padded, inner, before

    def mix(self, padded: Tensor) -> Tensor:
        """The depthwise convolution of a padded strip (rows, W, hidden), as (n, hidden)."""
        y = F.conv2d(_image(padded), self.w2, self.b2, self.stride, (0, 1), 1, self.hidden)
        return y.permute(0, 2, 3, 1).reshape(-1, self.hidden)

    def unmix(self, dy: Tensor, padded: Tensor, *, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Gradients of :meth:`mix`: of the padded strip, and of the kernel if wanted. dy (rows, W', hidden)."""
        steps, dw = (self.stride, self.stride), None
        if weights:
            _, dw, _ = torch.ops.aten.convolution_backward(
                _image(dy), _image(padded), self.w2, None, steps, (0, 1), (1, 1), False, (0, 0), self.hidden,
                [False, True, False])
        if self.stride > 1:  # the library's own gradient of a strided depthwise convolution is several times as slow
            spread = dy.new_zeros(len(padded) - 2, padded.shape[1], self.hidden)
            spread[:: self.stride, :: self.stride] = dy
            dy = spread
        return F.conv2d(_image(dy), self.turned, None, 1, (2, 1), 1, self.hidden)[0].permute(1, 2, 0), dw


def _image(rows: Tensor) -> Tensor:
    """(rows, W, C) as an image (1, C, rows, W), channels-last in memory."""
    return rows[None].permute(0, 3, 1, 2)


class _ChainFunction(torch.autograd.Function):
    """x (B, H, W, C) -> (B, H', W', out); with a residual GELU(x + chain(x))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: _Shape, *tensors: Tensor | None) -> Tensor:
        products = [tensor.to(x.dtype) for index, tensor in enumerate(tensors) if index % 3 < 2 and tensor is not None]
        chain = _Chain(products, shape.stride)
        batch, height, width, _ = x.shape
        z = x.new_empty(batch, (height - 1) // shape.stride + 1, (width - 1) // shape.stride + 1, len(chain.w3))
        out = torch.empty_like(z) if shape.residual else z
        for strip in _strips(x, chain.hidden, shape.stride):
            hidden = chain.mix(chain.widen(x, strip, keep=False)[0])
            target = z[strip.image, strip.rows]
            torch.addmm(chain.b3, gelu(hidden, out=hidden), chain.w3.T, out=target.view(-1, z.shape[-1]))
            if shape.residual:
                gelu(target.add_(x[strip.image, strip.rows]), out=out[strip.image, strip.rows])
        ctx.shape = shape
        ctx.save_for_backward(x, z if shape.residual else None, *products)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, z, *products = ctx.saved_tensors
        shape, dout = ctx.shape, dout.contiguous()
        chain, wanted = _Chain(products, shape.stride), ctx.needs_input_grad
        sums = [Sums(products[2 * index], wanted[2 + 3 * index : 5 + 3 * index], where)
                for index, where in enumerate(shape.places)]
        dx = torch.zeros_like(x) if wanted[0] else None
        for strip in _strips(x, chain.hidden, shape.stride):
            dz = dout[strip.image, strip.rows]
            if shape.residual:
                dz = torch.ops.aten.gelu_backward(dz, z[strip.image, strip.rows])
                if dx is not None:
                    dx[strip.image, strip.rows] += dz
            _strip_backward(chain, sums, x, strip, dz, dx)
        return dx, None, *(part for one in sums for part in one.results())


def _strip_backward(chain: _Chain, sums: list[Sums], x: Tensor, strip: _Strip, dz: Tensor, dx: Tensor | None) -> None:
    """One strip: make its hidden activations again, add to the products' gradients and to the input's."""
    padded, inner, before = chain.widen(x, strip, keep=True)
    hidden = chain.mix(padded)
    flat = dz.reshape(-1, dz.shape[-1])
    sums[2].add(flat, None if sums[2].dw is None else torch.ops.aten.gelu(hidden))
    dy = flat @ chain.w3
    gelu_backward(dy, hidden, grad_input=dy)
    sums[1].add(dy, None)
    da, dw = chain.unmix(dy.view(*dz.shape[:2], -1), padded, weights=sums[1].dw is not None)
    sums[1].add_kernels(dw)
    dh = da[strip.above : len(da) - strip.below].reshape(inner.shape)
    gelu_backward(dh, before, grad_input=dh)
    rows = x[strip.image, strip.inputs].view(-1, x.shape[-1])
    sums[0].add(dh, rows)
    if dx is not None:
        dx[strip.image, strip.inputs].view(rows.shape).addmm_(dh, chain.w1)


def fits(block: Any) -> bool:
    """Whether :func:`chain` may compute a block: its modules are plain, and nobody asked for another back-end."""
    return is_plain(block) and takes_products(*(pair.c for pair in (block.conv1, block.conv2, block.conv3)))


def chain(x: Tensor, block: Any, *, residual: bool) -> Tensor:
    """An MBConv (with its residual and last GELU) or a downsampling, of plain modules, on channels-last x (B, H, W, C)."""
    parts = [fold(pair.c, pair.bn) for pair in (block.conv1, block.conv2, block.conv3)]
    shape = _Shape(block.conv2.c.stride[0], residual, tuple(part.where for part in parts))
    tensors = [tensor for part in parts for tensor in part[:3]]
    with torch.autocast(x.device.type, enabled=False):
        return _ChainFunction.apply(x.contiguous(), shape, *tensors)
