"""The stock mask decoder's arithmetic for a batch: one prompt an image, the first mask only."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gps_seg.models.tiny_vit.folding import layer_norm


class SamOutput(NamedTuple):
    """``logits`` (B, 1, 4g, 4g) for an embedding of g x g; ``quality`` (B, 1), SAM's own estimate of the IoU.

    The gradient of the quality reaches its head alone: to train it changes no mask.
    """

    logits: Tensor
    quality: Tensor


def decode_masks(decoder: Any, source: Tensor, positions: Tensor, sparse: Tensor) -> SamOutput:
    """Masks of B images; for the arguments see :func:`attend_to_image`."""
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    attended, upscaled = attend_to_image(decoder, own, source, positions, sparse)
    logits = mask_of(upscaled, decoder.output_hypernetworks_mlps[0](attended[:, 1]))
    return SamOutput(logits, decoder.iou_prediction_head(attended[:, 0].detach())[:, :1])


def attend_to_image(
    decoder: Any, own: Tensor, source: Tensor, positions: Tensor, sparse: Tensor
) -> tuple[Tensor, Tensor]:
    """The decoder's transformer and its upscaling: tokens (B, T + N, C) and features (B, 4g, 4g, C / 8).

    Args:
        own: the decoder's tokens (T, C); sparse: of the prompts (B, N, C).
        source: embedding plus dense prompt (B, C, g, g); positions: (B, C, g, g).
    """
    batch, channels, height, width = source.shape
    tokens = torch.cat([own.expand(batch, -1, -1), sparse.to(own.dtype)], dim=1)
    attended, memory = decoder.transformer(source, positions, tokens)
    return attended, upscale(decoder.output_upscaling, memory.view(batch, height, width, channels))


def mask_of(upscaled: Tensor, weights: Tensor) -> Tensor:
    """Features (B, H, W, C) times each image's weights (B, C) -> logits (B, 1, H, W)."""
    batch, height, width, _ = upscaled.shape
    return (upscaled.flatten(1, 2) @ weights[:, :, None].to(upscaled.dtype)).view(batch, 1, height, width)


def upscale(layers: Any, x: Tensor) -> Tensor:
    """Two doublings, what lies between and, if there is one, a last activation, channels-last: (B, h, w, C) -> (B, 4h, 4w, C').

    A 2 x 2 convolution of stride 2, transposed, is one product of each pixel with four kernels; so written, forward and
    backward cost a CPU less than half of the convolution and of the norm over channels.
    """
    first, norm, activation, second, *last = layers
    y = double(first, x)
    y = double(second, activation(layer_norm(y, norm).to(y.dtype)))
    return last[0](y) if last else y


def double(layer: Any, x: Tensor) -> Tensor:
    """A 2 x 2 convolution of stride 2, transposed, on channels-last x: (B, h, w, C) -> (B, 2h, 2w, C')."""
    batch, height, width, _ = x.shape
    y = F.linear(x, layer.weight.permute(2, 3, 1, 0).flatten(0, 2), layer.bias.repeat(4)).view(batch, height, width, 2, 2, -1)
    return y.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)
