"""What an encoder's blocks compute a second time in the backward pass instead of keeping it since the forward pass.

In units of tokens x width a block of SAM's ViT keeps 16 when all its weights train: the inputs of the norms (1 + 1) and of the
layer behind the first (1), queries, keys and values (3), attention's output (1), and the inputs of the MLP's first layer (1), of
GELU (4) and of the second layer (4). ``cheap`` keeps 2, the block's input and attention's output, and repeats the norms, GELU and
the linear layers but the last (8 of 12 products of a token with width x width weights in the forward pass), never attention.
``blocks`` keeps 1, the block's input, and repeats attention too.

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
from gps_seg.models.attention import Wide, attend, is_efficient, plain_attention, widen
from gps_seg.models.tiny_vit.folding import has_hooks

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
    """The same result for a block of SAM's ViT, x (B, H, W, C); keeps x and attention's output.

    A recomputation ends with the last tensor that is read, so the MLP's second layer is not multiplied again. A block that
    somebody listens to is run as it is.
    """
    if has_hooks(block) or has_hooks(block.attn):
        return keep_all(block, x)
    mixed = attend(block.attn, _before_attention, block, x)
    return checkpoint(_after_attention, block, x, mixed, use_reentrant=False)


def _plainly(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # attention is plain then, and a context cannot be traced
        return block(x)
    with plain_attention():
        return block(x)


def _before_attention(block: Any, x: Tensor) -> Wide:
    """x (B, H, W, C) -> what attention mixes, in windows if the block has them."""
    x = block.norm1(x)
    if block.window_size > 0:
        x, _ = _stock(block).window_partition(x, block.window_size)
    return widen(block.attn, block.attn.qkv(x))


def _after_attention(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The block's input x (B, H, W, C) and attention's output (B * windows, N, C) -> the block's output."""
    mixed = block.attn.proj(mixed)
    if block.window_size > 0:
        height, width = x.shape[1:3]
        padded = (height + -height % block.window_size, width + -width % block.window_size)
        mixed = mixed.unflatten(1, (block.window_size, block.window_size))
        mixed = _stock(block).window_unpartition(mixed, block.window_size, padded, (height, width))
    x = x + mixed.view(x.shape)
    return x + block.mlp(block.norm2(x))


def _stock(block: nn.Module) -> Any:
    """The module of segment-anything that the block comes from, with its functions for windows."""
    return sys.modules[type(block).__module__]
