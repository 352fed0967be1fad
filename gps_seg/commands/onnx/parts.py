"""The graphs that are exported: a promptless answer, and the encoder and decoder that SAM's tools know by their names.

The pair speaks SAM's frame, whatever size the model was tuned at: pictures and places of a 1024 px square, masks of 256 px. That
is what annotation tools have written into their code.

Sources: Kirillov et al., segment-anything, utils/onnx.py (the decoder's names and meaning); vietanhdev/samexporter, sam_onnx.py
and onnx_utils.py, and CVHub520/X-AnyLabeling, services/auto_labeling (what tools send, and which outputs they read). Where we
differ: sizes are read from the input instead of the example's, which froze its aspect ratio; one mask instead of four.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.models.sam import SamModel

FRAME, LOW = 1024, 256  # pixels of the square that tools speak of, and of their masks


class Promptless(nn.Module):
    """Image (B, 3, S, S), normalised and padded -> probability (B, 1, S, S), logits (B, 1, 4g, 4g), quality (B, 1) in 0..1."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        found = self.model(image)
        probability = _square(found.logits, self.model.spec.input_size).sigmoid()
        return probability, found.logits, found.quality.clamp(0, 1)


class Encoder(nn.Module):
    """RGB (H, W, 3) in 0..255, long side 1024 -> embedding (1, C, g, g). Normalises, pads and, for another S, shrinks."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(model.spec.mean))
        self.register_buffer("std", torch.tensor(model.spec.std))

    def forward(self, input_image: Tensor) -> Tensor:
        """See the class."""
        pixels = (input_image - self.mean) / self.std  # type: ignore[operator]
        height, width = pixels.shape[:2]
        square = F.pad(pixels.permute(2, 0, 1)[None], (0, FRAME - width, 0, FRAME - height))
        return self.model.encode(_shrink(square, self.model.spec.input_size))


class Decoder(nn.Module):
    """Embedding and prompts -> masks as logits at the picture's size, the model's own estimate of their IoU, masks of 256 px."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """segment-anything's signature.

        Args:
            image_embeddings: (B, C, g, g).
            point_coords: (B, N, 2) x, y in SAM's frame. point_labels: (B, N) of 0 (not polyp), 1 (polyp), 2 and 3 (upper left and
                lower right corner of a box), -1 (padding; tools append one).
            mask_input: (B, 1, 256, 256), logits of the round before; read where has_mask_input (1,) is 1.
            orig_im_size: (2,), height and width of the picture.
        """
        encoder: Any = self.model.prompt_encoder
        dense = _mask_codes(encoder, _square(mask_input, encoder.mask_input_size[0]), has_mask_input)
        found = self.model.decode_codes(image_embeddings, _point_codes(encoder, point_coords, point_labels), dense)
        masks = _to_picture(_square(found.logits, FRAME), orig_im_size)
        return masks, found.quality, _square(found.logits, LOW)


def _square(maps: Tensor, size: int) -> Tensor:
    return maps if maps.shape[-1] == size else F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)


def _shrink(square: Tensor, size: int) -> Tensor:
    """The frame at the model's size; by area where that is a whole part of it, as thin things would be skipped otherwise."""
    if FRAME % size or size == FRAME:
        return _square(square, size)
    return F.avg_pool2d(square, FRAME // size)


def _point_codes(encoder: Any, places: Tensor, labels: Tensor) -> Tensor:
    """Tokens (B, N, C), without the data-dependent writes of the stock prompt encoder."""
    codes = encoder.pe_layer._pe_encoding((places + 0.5) / FRAME)
    meanings = torch.cat([encoder.not_a_point_embed.weight, *(one.weight for one in encoder.point_embeddings)])
    is_place = (labels != -1).to(codes.dtype)[..., None]
    return codes * is_place + meanings[labels.to(torch.int64) + 1]


def _mask_codes(encoder: Any, masks: Tensor, given: Tensor) -> Tensor:
    empty = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return given * encoder.mask_downscaling(masks) + (1 - given) * empty


def _to_picture(square: Tensor, size: Tensor) -> Tensor:
    """Logits (B, 1, 1024, 1024) -> (B, 1, H, W): the padding cut off, the rest resized as torch's bilinear interpolation."""
    exact = size.double()
    content = torch.floor(exact * (FRAME / exact.max()) + 0.5).clamp_min(1)
    rows = _resampled(square, content[0], size[0], -2)
    return _resampled(rows, content[1], size[1], -1)


def _resampled(maps: Tensor, content: Tensor, wanted: Tensor, axis: int) -> Tensor:
    """The first ``content`` places along an axis, resized to ``wanted``; both known only when the graph runs."""
    count = wanted.to(torch.int64).item()
    torch._check(count > 0)
    places = torch.arange(count, dtype=torch.float64)
    source = ((places + 0.5) * (content / count) - 0.5).clamp_min(0)
    first = source.floor()
    share = (source - first).to(maps.dtype)
    second = torch.minimum(first + 1, content - 1).to(torch.int64)
    share = share[:, None] if axis == -2 else share
    return maps.index_select(axis, first.to(torch.int64)) * (1 - share) + maps.index_select(axis, second) * share
