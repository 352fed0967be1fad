"""The lean walk through a packaged TinyViT: its modules and parameters, another way to compute.

Activations stay channels-last (B, H, W, C) throughout. What has something inserted or hooked is called as the module it is.

Source of the architecture: Wu et al., TinyViT, ECCV 2022, arXiv 2207.10666.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.models.tiny_vit.folding import channels_first, depthwise, has_hooks, is_own, is_plain, layer_norm, pointwise
from gps_seg.models.tiny_vit.mlp import mlp
from gps_seg.models.tiny_vit.strips import chain, fits
from gps_seg.models.tiny_vit.windows import attend

Through = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def encode(encoder: Any, image: Tensor, through: Through) -> Tensor:
    """Image (B, 3, S, S) -> embedding (B, C, g, g), to rounding what the packaged modules give.

    Args:
        through: calls a block on its input; a place for recomputation.
    """
    x = _embed(encoder.patch_embed, image.to(_compute_dtype(image)).permute(0, 2, 3, 1))
    for stage in encoder.layers:
        for block in stage.blocks:
            x = through(lambda y, block=block, stage=stage: _block(stage, block, y), x)  # type: ignore[misc]
        if stage.downsample is not None:
            x = _downsample(stage.downsample, x)
    return _neck(encoder.neck, x).permute(0, 3, 1, 2)


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _embed(patch_embed: Any, x: Tensor) -> Tensor:
    if not is_plain(patch_embed) or patch_embed.seq[0].c.kernel_size != (1, 1):  # MobileSAM's looks at 3 x 3 pixels
        return channels_first(patch_embed, x)
    first, activation, second = patch_embed.seq
    return pointwise(activation(pointwise(x, first.c, first.bn)), second.c, second.bn)


def _block(stage: Any, block: Any, x: Tensor) -> Tensor:
    if type(stage).__name__ == "ConvLayer":
        return chain(x, block, residual=True) if fits(block) else channels_first(block, x)
    return _window_block(block, x) if _is_window_block(block) else block(x.flatten(1, 2)).view(x.shape)


def _is_window_block(block: Any) -> bool:
    """Whether the walk may take the block apart: it, its attention and what else is not called as a module are the packaged ones.

    Of the norm and the projection behind it, which are called, a hook would hear the token of padding too.
    """
    if not is_own(block, "TinyViTBlock") or not is_own(block.attn, "Attention") or not is_own(block.local_conv, "Conv2d_BN"):
        return False
    heard = has_hooks(block.attn.norm) or has_hooks(block.attn.qkv) or has_hooks(block.drop_path)
    return isinstance(block.drop_path, nn.Identity) and not heard


def _downsample(layer: Any, x: Tensor) -> Tensor:
    if fits(layer):
        return chain(x, layer, residual=False)
    stride = layer.conv2.c.stride[0]
    flat = layer(x.permute(0, 3, 1, 2))  # (B, tokens, C)
    return flat.view(len(x), (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1, -1)


def _window_block(block: Any, x: Tensor) -> Tensor:
    x = depthwise(x + _attention(block.attn, x, block.window_size), block.local_conv.c, block.local_conv.bn)
    return mlp(x, block.mlp)


def _attention(attention: Any, x: Tensor, side: int) -> Tensor:
    tokens = x.flatten(1, 2)
    qkv = attention.qkv(attention.norm(tokens)).to(x.dtype)
    padded = None
    if x.shape[1] % side or x.shape[2] % side:
        padded = attention.qkv(attention.norm(x.new_zeros(1, x.shape[-1])))[0].to(x.dtype)
    mixed = attend(qkv.view(*x.shape[:3], -1), attention, padded, side)
    return attention.proj(mixed.flatten(1, 2)).to(x.dtype).view(x.shape)


def _neck(neck: Any, x: Tensor) -> Tensor:
    if not is_own(neck, "Sequential"):
        return channels_first(neck, x)
    for layer in neck:
        is_norm = type(layer).__name__ == "LayerNorm2d" and is_plain(layer)
        x = layer_norm(x, layer) if is_norm else channels_first(layer, x)
    return x
