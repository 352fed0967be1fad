"""SAM as one batched, differentiable module that needs no prompt and accepts boxes and points.

The three parts are the stock ones, under the stock names, so a state dict of :class:`SamModel` is a stock SAM state dict.
What is ours: the batched forward pass (the stock decoder repeats one image per call) and the freedom of input size.

Sources: Kirillov et al., Segment Anything, ICCV 2023, arXiv 2304.02643; Ma et al., Segment anything in medical images,
Nature Communications 2024, arXiv 2304.12306 (LiteMedSAM); Wu et al., TinyViT, ECCV 2022, arXiv 2207.10666.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.config import Recompute
from gps_seg.core.roles import Treatment
from gps_seg.errors import ConfigError
from gps_seg.models.decoder import SamOutput, decode_masks
from gps_seg.models.recompute import Through, keep_all, way_through
from gps_seg.models.spec import SamSpec
from gps_seg.models.tiny_vit.encoder import encode as encode_lean

Encode = Callable[[Any, Tensor, Through], Tensor]
Rounds = Callable[["SamModel", Tensor], "SamOutput"]  # (model, embedding) -> the masks of one or more rounds of prompts


# The released SAM rules, first hit wins: substring tests on names. After them the roles decide, which freezes the weights of
# the neck's norms but, by accident of the released code, trains their biases ("bias" is tested before "neck").
# Source: FightingFighting/GPS, SAM/utils_/pruning.py.
OFFICIAL_RULES: tuple[tuple[str, Treatment], ...] = (
    ("prompt_encoder.no_mask_embed.*", "train"),
    ("image_encoder.*norm*", "freeze"),
    ("image_encoder.*pos*", "freeze"),
    ("image_encoder.*head*", "train"),
    ("image_encoder.*bias*", "train"),
)


class SamModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder of a SAM, callable on batches.

    Attributes:
        spec: what it expects of an image.
        head_patterns, encoder_patterns, unread_patterns, apart_patterns, official_rules: what a selection asks, see
            :mod:`gps_seg.methods.parts`.
        quality_patterns: parameters of the quality head.
        lean: compute a TinyViT by :mod:`gps_seg.models.tiny_vit` instead of its packaged modules; the result is the same.
        recompute: what the encoder's blocks compute again in the backward pass, see :mod:`gps_seg.models.recompute`.
    """

    head_patterns = ("mask_decoder.*",)
    encoder_patterns = ("image_encoder.*",)
    quality_patterns = ("mask_decoder.iou_prediction_head.*",)
    # one mask an image: the three of several masks, and the estimate of quality, which no mask loss reaches
    unread_patterns: tuple[str, ...] = ("mask_decoder.output_hypernetworks_mlps.[123].*", *quality_patterns)
    official_rules = OFFICIAL_RULES

    def __init__(self, image_encoder: nn.Module, prompt_encoder: Any, mask_decoder: Any, spec: SamSpec) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.spec = spec
        self.lean = True
        self.recompute: Recompute = "none"
        self.apart_patterns: tuple[str, ...] = ()
        self.set_input_size(spec.input_size)

    def set_input_size(self, input_size: int) -> None:
        """Make the model expect another input size. No parameter changes. Raises ConfigError for a wrong multiple."""
        spec = replace(self.spec, input_size=input_size)
        spec.check_size()
        self.spec = spec
        self._tell_prompts(input_size, input_size // spec.stride)

    def _tell_prompts(self, input_size: int, grid: int) -> None:
        self.prompt_encoder.image_embedding_size = (grid, grid)
        self.prompt_encoder.input_image_size = (input_size, input_size)
        self.prompt_encoder.mask_input_size = (4 * grid, 4 * grid)

    def forward(
        self, image: Tensor, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None,
        rounds: Rounds | None = None,
    ) -> SamOutput:
        """Segment a batch, one mask an image.

        Args:
            image: float (B, 3, S, S), normalised and padded as ``spec`` says.
            boxes, points: see :meth:`decode`.
            rounds: what answers in its place, once or several times from the one embedding. It is a part of this call because
                the gradients of several processes are reduced by the call.
        """
        embedding = self.encode(image)
        return self.decode(embedding, boxes, points) if rounds is None else rounds(self, embedding)

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, S, S) -> embedding (B, C, g, g) with g = S / stride, all that :meth:`decode` reads of the image.

        Raises:
            ConfigError: a wrong size.
        """
        if image.shape[2:] != (self.spec.input_size, self.spec.input_size):
            raise ConfigError(f"expected images of {self.spec.input_size} x {self.spec.input_size} pixels, "
                              f"got {image.shape[2]} x {image.shape[3]}")
        through = way_through(self.image_encoder, self.recompute) if torch.is_grad_enabled() else keep_all
        return self._walk(image, through)

    def _walk(self, image: Tensor, through: Through) -> Tensor:
        encode: Encode = encode_vit
        if self._is_tiny_vit:  # a compiler fuses the packaged layers by itself and would unroll the lean path's loops
            encode = encode_lean if self.lean and not torch.compiler.is_compiling() else _encode_tiny_vit
        return encode(self.image_encoder, image, through)

    def features(self, image: Tensor) -> Tensor:
        """What a classifier pools: the encoder's last layer alone, (B, C, g, g); see :meth:`encode`."""
        return self.encode(image)

    @property
    def _is_tiny_vit(self) -> bool:
        return hasattr(self.image_encoder, "layers")

    @property
    def encoder_blocks(self) -> tuple[str, ...]:
        """Name prefixes of the encoder's blocks, from the image to the neck."""
        if not self._is_tiny_vit:
            return tuple(f"image_encoder.blocks.{number}." for number in range(len(self.image_encoder.blocks)))  # type: ignore[arg-type]
        stages: Any = self.image_encoder.layers
        return tuple(f"image_encoder.layers.{stage}.blocks.{number}." for stage, layer in enumerate(stages)
                     for number in range(len(layer.blocks)))

    def decode(
        self, embedding: Tensor, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None,
        masks: Tensor | None = None,
    ) -> SamOutput:
        """Embedding (B, C, g, g) and any combination of prompts -> masks.

        Args:
            boxes: float (B, 4) xyxy in input pixels.
            points: coordinates float (B, N, 2) xy in input pixels, and labels (B, N) of 1 (polyp), 0 (not polyp) or -1 (none).
            masks: logits (B, 1, 4g, 4g) of the round before.
        """
        sparse, dense, positions = self._prompt(embedding, boxes, points, masks)
        return decode_masks(self.mask_decoder, embedding + dense, positions, sparse)

    def decode_codes(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> SamOutput:
        """Embedding (B, C, g, g) and prompts as codes -> masks.

        Args:
            sparse: tokens (B or 1, N, C); dense: (B or 1, C, g, g).
        """
        sparse, dense, positions = self._spread(embedding, sparse, dense)
        return decode_masks(self.mask_decoder, embedding + dense, positions, sparse)

    def _prompt(
        self, embedding: Tensor, boxes: Tensor | None, points: tuple[Tensor, Tensor] | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt tokens (B, N, C), what is added to the embedding, and the code of its places (B, C, g, g)."""
        masks = None if masks is None else masks.float()
        with torch.autocast(embedding.device.type, enabled=False):  # positions in bf16 would be off by pixels
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return self._spread(embedding, sparse, dense)

    def _spread(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes of one image or of each, for each; with the code of the embedding's places."""
        batch = embedding.shape[0]  # not len(): an exporter would take it for a constant
        with torch.autocast(embedding.device.type, enabled=False):
            positions = self.prompt_encoder.get_dense_pe()
        return sparse.expand(batch, -1, -1), dense, positions.expand(batch, -1, -1, -1)


def encode_vit(encoder: Any, image: Tensor, through: Through) -> Tensor:
    """segment-anything's ImageEncoderViT at any input size: the absolute positions are resized on the fly."""
    x = encoder.patch_embed(image)  # (B, h, w, C)
    if encoder.pos_embed is not None:
        positions = encoder.pos_embed
        if positions.shape[1:3] != x.shape[1:3]:
            resized = F.interpolate(positions.permute(0, 3, 1, 2), x.shape[1:3], mode="bilinear", align_corners=False)
            positions = resized.permute(0, 2, 3, 1)
        x = x + positions
    for block in encoder.blocks:
        x = through(block, x)
    return encoder.neck(x.permute(0, 3, 1, 2))


def _encode_tiny_vit(encoder: Any, image: Tensor, through: Through) -> Tensor:
    """The packaged TinyViT without its hard-coded 64 x 64 grid, in channels-last memory (twice as fast on CPUs)."""
    x = encoder.patch_embed(image.contiguous(memory_format=torch.channels_last))
    for layer in encoder.layers:
        for block in layer.blocks:
            x = through(block, x)
        x = x if layer.downsample is None else layer.downsample(x)
    batch, tokens, channels = x.shape
    side = round(tokens**0.5)
    return encoder.neck(x.view(batch, side, side, channels).permute(0, 3, 1, 2))
