"""HQ-SAM: a further token answers for the mask's fine parts, from features of the decoder, the encoder's end and its beginning.

logits = SAM's mask + hf_mlp(hf_token) . (maskfeature(upscaled) + encoder(embedding) + compress(early)), where ``early`` is the
output of the first block with global attention. The embedding here is both, one behind the other, so that one tensor is all that
decoding reads. As in the published code's default (``hq_token_only=False``) the two masks are added.

Source: Ke et al., Segment Anything in High Quality, NeurIPS 2023, arXiv 2306.01567; SysCV/sam-hq,
segment_anything/modeling/mask_decoder_hq.py. Where we differ: there only the new parts train; here the method decides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.models.decoder import SamOutput, attend_to_image, mask_of, upscale
from gps_seg.models.recompute import Through
from gps_seg.models.sam import SamModel, encode_vit


def add_hq_parts(decoder: Any, early: int, width: int) -> None:
    """Give a stock mask decoder HQ-SAM's parts, under the published names.

    Args:
        early: channels of the encoder's blocks. width: of the embedding.
    """
    norm, mlp = type(decoder.output_upscaling[1]), type(decoder.output_hypernetworks_mlps[0])
    decoder.hf_token = nn.Embedding(1, width)
    decoder.hf_mlp = mlp(width, width, width // 8, 3)
    decoder.compress_vit_feat = nn.Sequential(
        nn.ConvTranspose2d(early, width, 2, 2), norm(width), nn.GELU(), nn.ConvTranspose2d(width, width // 8, 2, 2)
    )
    decoder.embedding_encoder = nn.Sequential(
        nn.ConvTranspose2d(width, width // 4, 2, 2), norm(width // 4), nn.GELU(), nn.ConvTranspose2d(width // 4, width // 8, 2, 2)
    )
    decoder.embedding_maskfeature = nn.Sequential(
        nn.Conv2d(width // 8, width // 4, 3, 1, 1), norm(width // 4), nn.GELU(), nn.Conv2d(width // 4, width // 8, 3, 1, 1)
    )


class SamHqModel(SamModel):
    """A SAM with HQ-SAM's parts; embeddings have the C channels of SAM's and then those of the encoder's blocks."""

    def _walk(self, image: Tensor, through: Through) -> Tensor:
        early: list[Tensor] = []

        def watch(block: Any, x: Tensor) -> Tensor:
            x = through(block, x)
            if block.window_size == 0 and not early:
                early.append(x)
            return x

        embedding = encode_vit(self.image_encoder, image, watch)
        return torch.cat([embedding, early[0].permute(0, 3, 1, 2)], 1)

    def features(self, image: Tensor) -> Tensor:
        """The embedding without the early features."""
        return self.encode(image)[:, : self._width]

    @property
    def _width(self) -> int:
        return int(self.prompt_encoder.embed_dim)

    def decode(
        self, embedding: Tensor, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None,
        masks: Tensor | None = None,
    ) -> SamOutput:
        """See :meth:`SamModel.decode`."""
        decoder, (embedding, early) = self.mask_decoder, (embedding[:, : self._width], embedding[:, self._width :])
        sparse, dense, positions = self._prompt(embedding, boxes, points, masks)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight])
        attended, upscaled = attend_to_image(decoder, own, embedding + dense, positions, sparse)
        fine = decoder.embedding_maskfeature(upscaled.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        fine = fine + upscale(decoder.embedding_encoder, embedding.permute(0, 2, 3, 1))
        fine = fine + upscale(decoder.compress_vit_feat, early.permute(0, 2, 3, 1))
        logits = mask_of(upscaled, decoder.output_hypernetworks_mlps[0](attended[:, 1]))
        logits = logits + mask_of(fine, decoder.hf_mlp(attended[:, len(own) - 1]))
        return SamOutput(logits, decoder.iou_prediction_head(attended[:, 0].detach())[:, :1])
