"""SAM 2.1's image model, of transformers' parts: Hiera, a feature pyramid, and a decoder that reads its finer levels.

The embedding is all that decoding reads of an image: the level of stride 16 (C channels, with the embedding of no memory), behind
it those of stride 8 and 4, each brought to the decoder's width (C / 4 and C / 8 channels) and its pixels laid into channels, 4 C
in all. Without a prompt the decoder hears what SAM 2's does, one point of no kind. Of several masks the first counts always, in
training as in prediction; SAM 2 itself answers with another one where that is unstable, which no gradient could follow.

Source: Ravi et al., SAM 2: Segment Anything in Images and Videos, 2024, arXiv 2408.00714; huggingface/transformers, models/sam2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.models.decoder import SamOutput, double, mask_of
from gps_seg.models.recompute import Through
from gps_seg.models.sam import SamModel
from gps_seg.models.spec import SamSpec
from gps_seg.models.tiny_vit.folding import layer_norm
from gps_seg.packages import import_transformers


def sam2_config(
    *, width: int, blocks: tuple[int, ...], globals_: tuple[int, ...], heads: int = 1, background: int = 7,
    windows: tuple[int, ...] = (8, 4, 14, 7), out: int = 256,
) -> Any:
    """transformers' configuration; ``width`` channels and ``heads`` heads are the first stage's, the next has twice as many."""
    transformers = import_transformers()
    widths = [width * 2**stage for stage in range(4)]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=width, num_attention_heads=heads, blocks_per_stage=list(blocks), embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[heads * 2**stage for stage in range(4)], window_size_per_stage=list(windows),
        global_attention_blocks=list(globals_), window_positional_embedding_background_size=[background, background],
    )
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1], fpn_hidden_size=out)
    return transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=transformers.Sam2PromptEncoderConfig(hidden_size=out),
        mask_decoder_config=transformers.Sam2MaskDecoderConfig(hidden_size=out, mlp_dim=8 * out, iou_head_hidden_dim=out),
    )


def sam2(spec: SamSpec, **shape: Any) -> Sam2:
    """A SAM 2 with random weights; ``shape`` as in :func:`sam2_config`."""
    return Sam2(import_transformers().Sam2Model(sam2_config(**shape)), spec)


class Sam2(SamModel):
    """The parts of a transformers' Sam2Model under its names, but for the encoder's, ``image_encoder``."""

    unread_patterns = (*SamModel.unread_patterns, "mask_decoder.pred_obj_score_head.*")
    official_rules = ()  # the released code knows no Hiera

    def __init__(self, stock: Any, spec: SamSpec) -> None:
        super().__init__(stock.vision_encoder, stock.prompt_encoder, stock.mask_decoder, spec)
        self.shared_image_embedding = stock.shared_image_embedding
        self.no_memory_embedding = stock.no_memory_embedding
        self.config = stock.config

    def _tell_prompts(self, input_size: int, grid: int) -> None:
        super()._tell_prompts(input_size, grid)
        self.prompt_encoder.input_image_size = input_size

    @property
    def encoder_blocks(self) -> tuple[str, ...]:
        """Name prefixes of the encoder's blocks, from the image to the pyramid."""
        trunk: Any = self.image_encoder.backbone
        return tuple(f"image_encoder.backbone.blocks.{number}." for number in range(len(trunk.blocks)))

    def _levels(self, image: Tensor, through: Through) -> tuple[Tensor, Tensor, Tensor]:
        """The pyramid (B, C, h, w) at the strides 4, 8 and 16."""
        encoder: Any = self.image_encoder
        trunk = encoder.backbone
        x = trunk.patch_embed(image)
        x = x + trunk._get_pos_embed(x.shape[1:3])
        ends = []
        for number, block in enumerate(trunk.blocks):
            x = through(block, x)
            if number in trunk.stage_ends:
                ends.append(x)
        coarse, middle, fine = encoder.neck(tuple(ends))[0][-3:]
        return fine, middle, coarse + self.no_memory_embedding.view(1, -1, 1, 1)

    def _walk(self, image: Tensor, through: Through) -> Tensor:
        fine, middle, coarse = self._levels(image, through)
        fine, middle = self.mask_decoder.conv_s0(fine), self.mask_decoder.conv_s1(middle)
        return torch.cat([coarse, F.pixel_unshuffle(middle, 2), F.pixel_unshuffle(fine, 4)], 1)

    def features(self, image: Tensor) -> Tensor:
        """The level of stride 16 alone, (B, C, g, g)."""
        return self._levels(image, lambda block, x: block(x))[2]

    def decode(
        self, embedding: Tensor, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None,
        masks: Tensor | None = None,
    ) -> SamOutput:
        """See :meth:`SamModel.decode`."""
        decoder = self.mask_decoder
        width = embedding.shape[1] // 4
        coarse, middle, fine = embedding.split([width, width, 2 * width], 1)
        sparse, dense, positions = self._prompt(coarse, boxes, points, masks)
        own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(coarse), -1, -1), sparse.to(own.dtype)], 1)[:, None]
        attended, memory = decoder.transformer(tokens, coarse + dense, positions, attention_similarity=None)
        grid = memory[:, 0].unflatten(1, coarse.shape[2:])  # (B, g, g, C)
        upscaled = _upscale(decoder, grid, F.pixel_shuffle(middle, 2), F.pixel_shuffle(fine, 4))
        logits = mask_of(upscaled, decoder.output_hypernetworks_mlps[0](attended[:, 0, 2]))
        return SamOutput(logits, decoder.iou_prediction_head(attended[:, 0, 1].detach())[:, :1])

    def _prompt(
        self, embedding: Tensor, boxes: Tensor | None, points: tuple[Tensor, Tensor] | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, device = len(embedding), embedding.device
        if points is None and boxes is None:
            points = embedding.new_zeros(batch, 1, 2, dtype=torch.float), torch.full((batch, 1), -1, device=device)
        places, labels = (None, None) if points is None else (points[0][:, None], points[1][:, None])
        with torch.autocast(device.type, enabled=False):  # positions in bf16 would be off by pixels
            sparse, dense = self.prompt_encoder(
                places, labels, None if boxes is None else boxes[:, None], None if masks is None else masks.float()
            )
            positions = self._positions(embedding.shape[-1])
        return sparse[:, 0], dense, positions.expand(batch, -1, -1, -1)

    def _positions(self, grid: int) -> Tensor:
        """The code of the places of a grid, (1, C, g, g)."""
        table: Any = self.shared_image_embedding
        centres = (torch.arange(grid, device=table.positional_embedding.device) + 0.5) / grid
        down, across = torch.meshgrid(centres, centres, indexing="ij")
        return table(torch.stack([across, down], -1)).permute(2, 0, 1)[None]


def _upscale(decoder: Any, x: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
    """(B, g, g, C) and the finer levels (B, C / 4, 2g, 2g), (B, C / 8, 4g, 4g) -> (B, 4g, 4g, C / 8)."""
    y = double(decoder.upscale_conv1, x) + middle.permute(0, 2, 3, 1)
    y = decoder.activation(layer_norm(y, decoder.upscale_layer_norm).to(y.dtype))
    return decoder.activation(double(decoder.upscale_conv2, y) + fine.permute(0, 2, 3, 1))


def to_sam2_model(model: Sam2) -> nn.Module:
    """transformers' Sam2Model around the same parts; they are shared."""
    stock = import_transformers().Sam2Model(model.config)
    stock.vision_encoder, stock.prompt_encoder, stock.mask_decoder = model.image_encoder, model.prompt_encoder, model.mask_decoder
    stock.shared_image_embedding, stock.no_memory_embedding = model.shared_image_embedding, model.no_memory_embedding
    return stock.eval()
