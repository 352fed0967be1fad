"""What an encoder's blocks compute a second time in the backward pass instead of keeping it since the forward pass.

In units of tokens x width a block of SAM's ViT keeps 16 when all its weights train: the inputs of the norms (1 + 1) and of the
layer behind the first (1), queries, keys and values (3), attention's output (1), and the inputs of the MLP's first layer (1), of
GELU (4) and of the second layer (4). ``cheap`` keeps 5: the block's input, queries, keys, values and attention's output. The rest
comes from them by the norms, attention's output projection, the MLP's first layer and GELU: 5 of the 12 products of a token with
width x width weights in the forward pass, and nothing of attention. ``blocks`` keeps 1, the block's input, and repeats all.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gps_seg.config import Recompute
from gps_seg.errors import ConfigError
from gps_seg.models.attention import is_efficient, mix, plain_attention

Through = Callable[[Any, Tensor], Tensor]


def way_through(encoder: Any, recompute: Recompute) -> Through:
    """How a block of this encoder is run; ``cheap`` is SAM's ViT's alone, and means ``none`` elsewhere.

    Raises:
        ConfigError: ``cheap`` with the stock attention, whose parts cannot be told apart.
    """
    if recompute == "blocks":
        return keep_input
    if recompute == "none" or not hasattr(encoder, "blocks"):
        return keep_all
    if not all(is_efficient(block.attn) for block in encoder.blocks):
        raise ConfigError("train.recompute=cheap needs model.attention=efficient; use it, or train.recompute=blocks")
    return keep_attention


def keep_all(block: nn.Module, x: Tensor) -> Tensor:
    """The block as it is."""
    return block(x)


def keep_input(block: nn.Module, x: Tensor) -> Tensor:
    """The same result; keeps the block's input alone."""
    return checkpoint(_plainly, block, x, use_reentrant=False)


def keep_attention(block: Any, x: Tensor) -> Tensor:
    """The same result for a block of SAM's ViT, x (B, H, W, C); keeps x, queries, keys, values and attention's output.

    A recomputation ends with the last tensor that is read, so neither the layer of queries, keys and values nor the MLP's second
    is multiplied again.
    """
    projected = checkpoint(_before_attention, block, x, use_reentrant=False)
    return checkpoint(_after_attention, block, x, mix(block.attn, projected), use_reentrant=False)


def _plainly(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # attention is plain then, and a context cannot be traced
        return block(x)
    with plain_attention():
        return block(x)


def _before_attention(block: Any, x: Tensor) -> Tensor:
    """x (B, H, W, C) -> queries, keys and values (B * windows, side, side, 3 C)."""
    x = block.norm1(x)
    if block.window_size > 0:
        x, _ = _stock(block).window_partition(x, block.window_size)
    return block.attn.qkv(x)


def _after_attention(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The block's input x (B, H, W, C) and attention's output (B * windows, side, side, C) -> the block's output."""
    mixed = block.attn.proj(mixed)
    if block.window_size > 0:
        height, width = x.shape[1:3]
        padded = (height + -height % block.window_size, width + -width % block.window_size)
        mixed = _stock(block).window_unpartition(mixed, block.window_size, padded, (height, width))
    x = x + mixed
    return x + block.mlp(block.norm2(x))


def _stock(block: nn.Module) -> Any:
    """The module of segment-anything that the block comes from, with its functions for windows."""
    return sys.modules[type(block).__module__]
