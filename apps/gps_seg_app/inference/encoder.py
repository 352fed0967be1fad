"""LiteMedSAM's TinyViT encoder for CPUs: the same function of the image as ``SamModel.encode``, in under half the time.

Four things cost the packaged encoder its time, all of them at the full 256 x 256 grid of its first stage: batch norms of
their own (here folded into the convolutions), 1 x 1 convolutions (here matrix products), copies between channels-first and
token order (here everything stays (B, H, W, C)), and activations of 67 MB that leave the processor's cache between any two
steps (here the first stage runs in strips of rows). In fp32 the result differs by rounding alone; ``bfloat16`` keeps
activations and weights in 16 bits. Weights are copied at construction, so a change of the model needs a new encoder.

Source of the architecture: Wu et al., TinyViT, ECCV 2022, arXiv 2207.10666.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP = 32  # rows of the first stage at a time


class _Linear:
    """x W^T + b over the last dimension: of a linear layer, or of a 1 x 1 convolution with its batch norm folded in."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        layer = layer.fuse() if hasattr(layer, "fuse") else layer
        self.weight = layer.weight.flatten(1).to(dtype)
        self.bias = None if layer.bias is None else layer.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Conv:
    """A 3 x 3 convolution, batch norm folded in, on (B, H, W, C)."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        layer = layer.fuse() if hasattr(layer, "fuse") else layer
        self.weight = layer.weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if layer.bias is None else layer.bias.to(dtype)
        self.stride, self.padding, self.groups = layer.stride, layer.padding, layer.groups

    def __call__(self, x: Tensor) -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return y.permute(0, 2, 3, 1)


class _Norm:
    """Layer norm over channels, of an ``nn.LayerNorm`` or a ``LayerNorm2d``."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.eps = layer.weight.to(dtype), layer.bias.to(dtype), float(layer.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def _gelu(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(x)


class _Chain:
    """Pointwise, depthwise, pointwise, with GELU between: an MBConv without its shortcut, or a downsampling."""

    def __init__(self, layers: tuple[Any, Any, Any], dtype: torch.dtype) -> None:
        self.widen, self.depthwise, self.narrow = _Linear(layers[0], dtype), _Conv(layers[1], dtype), _Linear(layers[2], dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return self.narrow(_gelu(self.depthwise(_gelu(self.widen(x)))))


class _MBConv:
    """GELU(x + chain(x)) in strips with one row of overlap, which the 3 x 3 convolution needs."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        self.chain = _Chain((block.conv1, block.conv2, block.conv3), dtype)

    def __call__(self, x: Tensor) -> Tensor:
        height, done = x.shape[1], torch.empty_like(x)
        for start in range(0, height, STRIP):
            end, above = min(height, start + STRIP), max(0, start - 1)
            y = self.chain(x[:, above : end + 1])[:, start - above : end - above]
            done[:, start:end] = _gelu(y + x[:, start:end])
        return done


class _WindowBlock:
    """Attention within windows, a depthwise convolution, and an MLP."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        attention, mlp = block.attn, block.mlp
        self.window, self.heads, self.width = block.window_size, attention.num_heads, attention.key_dim
        self.norm, self.qkv, self.proj = (
            _Norm(attention.norm, dtype), _Linear(attention.qkv, dtype), _Linear(attention.proj, dtype))
        self.bias = attention.attention_biases[:, attention.attention_bias_idxs].to(dtype)
        self.scale = attention.scale
        self.local = _Conv(block.local_conv, dtype)
        self.mlp_norm, self.fc1, self.fc2 = _Norm(mlp.norm, dtype), _Linear(mlp.fc1, dtype), _Linear(mlp.fc2, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.local(x + self._attend(x))
        return x + self.fc2(_gelu(self.fc1(self.mlp_norm(x))))

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3).reshape(-1, side * side, channels)
        y = self.proj(self._mix(self.qkv(self.norm(windows))))
        y = y.view(batch, rows, columns, side, side, channels).transpose(2, 3).reshape(x.shape)
        return y[:, :height, :width]

    def _mix(self, qkv: Tensor) -> Tensor:
        windows, tokens, _ = qkv.shape
        q, k, v = qkv.view(windows, tokens, self.heads, 3, self.width).permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None], scale=self.scale)
        return mixed.transpose(1, 2).reshape(windows, tokens, self.heads * self.width)


class FastTinyViT:
    """A copy of a TinyViT encoder, ready to run.

    Args:
        encoder: ``SamModel.image_encoder`` of ``lite_medsam`` or ``tiny_lite``, plain (nothing inserted or attached).
        dtype: of weights and activations: ``torch.float32`` or ``torch.bfloat16``.
    """

    @torch.no_grad()
    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.embed = (_Linear(encoder.patch_embed.seq[0], dtype), _Linear(encoder.patch_embed.seq[2], dtype))
        self.steps: list[Any] = []
        for layer in encoder.layers:
            self.steps += [(_MBConv if hasattr(block, "conv1") else _WindowBlock)(block, dtype) for block in layer.blocks]
            if layer.downsample is not None:
                down = layer.downsample
                self.steps.append(_Chain((down.conv1, down.conv2, down.conv3), dtype))
        kinds = (_Linear, _Norm, _Conv, _Norm)
        self.steps += [kind(layer, dtype) for kind, layer in zip(kinds, encoder.neck, strict=True)]

    def __call__(self, image: Tensor) -> Tensor:
        """Image (B, 3, S, S), normalised -> embedding (B, C, g, g) in float32."""
        x = image.to(self.dtype).permute(0, 2, 3, 1)
        x = self.embed[1](_gelu(self.embed[0](x)))
        for step in self.steps:
            x = step(x)
        return x.permute(0, 3, 1, 2).float()


def is_tiny_vit(encoder: nn.Module) -> bool:
    """Whether :class:`FastTinyViT` can stand in for an encoder."""
    return hasattr(encoder, "layers") and hasattr(encoder, "patch_embed") and hasattr(encoder, "neck")
