"""Names of weights in transformers' SAM models, turned into those of the packages that the models were published in, and back.

Source of their names: huggingface/transformers, models/sam, sam_hq and sam2, convert_*_to_hf.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from gps_seg.errors import CheckpointError

Pairs = tuple[tuple[str, str], ...]  # beginnings of names, theirs and ours, the first hit counts; N is a number

_MLPS = ("output_hypernetworks_mlps.N", "iou_prediction_head")


def _renumber(theirs: str, ours: str) -> Pairs:
    """The three layers of a small MLP."""
    return tuple((f"mask_decoder.{theirs}.{one}.", f"mask_decoder.{ours}.layers.{number}.")
                 for number, one in enumerate(("proj_in", "layers.0", "proj_out")))


def _sequence(part: str, ours: str, theirs: Mapping[int, str]) -> Pairs:
    """The members of an ``nn.Sequential``, which have names there."""
    return tuple((f"{part}.{name}.", f"{part}.{ours}.{number}.") for number, name in theirs.items())


SAM: Pairs = (
    *((f"vision_encoder.layers.N.layer_norm{one}.", f"image_encoder.blocks.N.norm{one}.") for one in (1, 2)),
    ("vision_encoder.layers.N.", "image_encoder.blocks.N."),
    ("vision_encoder.patch_embed.projection.", "image_encoder.patch_embed.proj."),
    *((f"vision_encoder.neck.{name}.", f"image_encoder.neck.{number}.")
      for number, name in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2"))),
    ("vision_encoder.pos_embed", "image_encoder.pos_embed"),
    ("shared_image_embedding.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    *((f"prompt_encoder.mask_embed.{name}.", f"prompt_encoder.mask_downscaling.{number}.")
      for number, name in {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}.items()),
    ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
    *((f"mask_decoder.transformer.layers.N.layer_norm{one}.", f"mask_decoder.transformer.layers.N.norm{one}.")
      for one in (1, 2, 3, 4)),
    ("mask_decoder.transformer.layer_norm_final_attn.", "mask_decoder.transformer.norm_final_attn."),
    *_sequence("mask_decoder", "output_upscaling", {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}),
    *(pair for name in _MLPS for pair in _renumber(name, name)),
)
SAM_HQ: Pairs = (
    *SAM,
    ("mask_decoder.hq_token.", "mask_decoder.hf_token."),
    *_renumber("hq_mask_mlp", "hf_mlp"),
    *_sequence("mask_decoder", "compress_vit_feat", {0: "compress_vit_conv1", 1: "compress_vit_norm", 3: "compress_vit_conv2"}),
    *_sequence("mask_decoder", "embedding_encoder", {0: "encoder_conv1", 1: "encoder_norm", 3: "encoder_conv2"}),
    *_sequence("mask_decoder", "embedding_maskfeature", {0: "mask_conv1", 1: "mask_norm", 3: "mask_conv2"}),
)
SAM2: Pairs = (("vision_encoder.", "image_encoder."),)

# Both are the code of places; SamModel's files hold the first alone.
SHARED, COPY = "shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"
# What a Sam2VideoModel has beyond the image model; transformers leaves it out of a Sam2Model too.
_VIDEO = re.compile(r"memory_|mask_downsample|object_pointer_proj|temporal_positional_encoding_projection_layer|"
                    r"no_memory_positional_encoding|no_object_pointer|occlusion_spatial_embedding_parameter")


def is_theirs(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are transformers'."""
    return any(name.startswith("vision_encoder.") for name in state)


def from_transformers(state: Mapping[str, Tensor], pairs: Pairs, source: str) -> dict[str, Tensor]:
    """The same tensors under our names; those of other names unchanged, so that strict loading speaks of them.

    Raises:
        CheckpointError: two codes of places that differ, of which only one can be kept.
    """
    kept = {name: tensor for name, tensor in state.items() if not _VIDEO.match(name)}
    if pairs is not SAM2 and COPY in kept:
        copy = kept.pop(COPY)
        if not kept.setdefault(SHARED, copy).equal(copy):
            raise CheckpointError(f"{source}: {SHARED} and {COPY} differ, expected one code of places")
    return dict(_renamed(kept, pairs))


def to_transformers(state: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """The reverse of :func:`from_transformers`: what ``from_pretrained`` reads."""
    return dict(_renamed(state, tuple((ours, theirs) for theirs, ours in pairs)))


def _renamed(state: Mapping[str, Tensor], pairs: Pairs) -> Iterator[tuple[str, Tensor]]:
    rules = [(re.compile(re.escape(old).replace("N", r"(\d+)")), new.replace("N", r"\1")) for old, new in pairs]
    for name, tensor in state.items():
        rule = next(((old, new) for old, new in rules if old.match(name)), None)
        yield rule[0].sub(rule[1], name, count=1) if rule else name, tensor
