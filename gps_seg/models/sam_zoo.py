"""The SAMs by name: built from well-kept packages, with published weights loaded strictly, and turned into stock ones again."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gps_seg.errors import ConfigError
from gps_seg.models.attention import use_efficient_attention, use_stock_attention
from gps_seg.models.sam import SamModel, SamSpec
from gps_seg.models.weights import PUBLISHED, find_weights, load_strictly, read_state
from gps_seg.packages import import_lite_medsam, import_segment_anything

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _build_vit_sam(spec: SamSpec, dim: int, depth: int, heads: int, globals_: tuple[int, ...], width: int = 256) -> SamModel:
    modeling = import_segment_anything().modeling
    encoder = modeling.ImageEncoderViT(
        img_size=spec.native_size, patch_size=spec.stride, embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=4,
        out_chans=width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        window_size=14 if width == 256 else 2, global_attn_indexes=globals_,
    )
    return SamModel(encoder, *_prompt_and_decoder(modeling, spec, width), spec)


def _prompt_and_decoder(modeling: Any, spec: SamSpec, width: int) -> tuple[nn.Module, nn.Module]:
    grid = spec.native_size // spec.stride
    prompt = modeling.PromptEncoder(
        embed_dim=width, image_embedding_size=(grid, grid), input_image_size=(spec.native_size,) * 2, mask_in_chans=16
    )
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=8 * width, num_heads=8)
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=width, iou_head_depth=3, iou_head_hidden_dim=width
    )
    return prompt, decoder


def _build_lite_medsam(spec: SamSpec) -> SamModel:
    modeling = import_lite_medsam()
    stock = modeling.build_lite_medsam()
    encoder = _tiny_vit(modeling, spec.input_size, (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10))
    return SamModel(encoder, stock.prompt_encoder, stock.mask_decoder, spec)


def _tiny_vit(modeling: Any, size: int, dims: tuple[int, ...], depths: tuple[int, ...], heads: tuple[int, ...]) -> nn.Module:
    return modeling.TinyViT(
        img_size=size, embed_dims=list(dims), depths=list(depths), num_heads=list(heads), window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )


def _build_tiny_lite(spec: SamSpec) -> SamModel:
    modeling = import_lite_medsam()
    # TinyViT keeps the grid of its last stage only for three widths, of which 320 is the smallest.
    encoder: Any = _tiny_vit(modeling, spec.input_size, (8, 16, 16, 320), (1, 1, 1, 1), (1, 1, 1, 1))
    norm = type(encoder.neck[1])
    encoder.neck = nn.Sequential(
        nn.Conv2d(320, 32, 1, bias=False), norm(32), nn.Conv2d(32, 32, 3, padding=1, bias=False), norm(32)
    )
    return SamModel(encoder, *_prompt_and_decoder(import_segment_anything().modeling, spec, 32), spec)


def _spec(name: str, size: int, stride: int, *, imagenet: bool) -> SamSpec:
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    return SamSpec(name, size, size, mean, std, stride)


@dataclass(frozen=True)
class _Entry:
    spec: SamSpec
    build: Callable[[SamSpec], SamModel]


MODELS = {
    "lite_medsam": _Entry(_spec("lite_medsam", 256, 4, imagenet=False), _build_lite_medsam),
    "sam_vit_b": _Entry(
        _spec("sam_vit_b", 1024, 16, imagenet=True),
        partial(_build_vit_sam, dim=768, depth=12, heads=12, globals_=(2, 5, 8, 11)),
    ),
    "sam_vit_l": _Entry(
        _spec("sam_vit_l", 1024, 16, imagenet=True),
        partial(_build_vit_sam, dim=1024, depth=24, heads=16, globals_=(5, 11, 17, 23)),
    ),
    "sam_vit_h": _Entry(
        _spec("sam_vit_h", 1024, 16, imagenet=True),
        partial(_build_vit_sam, dim=1280, depth=32, heads=16, globals_=(7, 15, 23, 31)),
    ),
    "tiny": _Entry(
        _spec("tiny", 64, 16, imagenet=True), partial(_build_vit_sam, dim=32, depth=2, heads=2, globals_=(1,), width=32)
    ),
    "tiny_lite": _Entry(_spec("tiny_lite", 64, 4, imagenet=False), _build_tiny_lite),
}


def load_sam(
    name: str,
    *,
    checkpoint: Path | None = None,
    input_size: int | None = None,
    resize: Literal["longest_side", "squash"] | None = None,
    attention: Literal["efficient", "stock"] = "efficient",
    encoder: Literal["lean", "stock"] = "lean",
) -> SamModel:
    """A pretrained SAM in eval mode. The ``tiny`` models are random, from a fixed seed.

    Args:
        name: a key of MODELS.
        checkpoint: local weights with the stock names; default: the published file.
        input_size: pixels of the long side; default: the model's own (LiteMedSAM 256, SAM 1024).
        resize: default: the model's own rule.
        attention: how SAM's ViT attends, with the same result: "efficient" never writes the attention map.
        encoder: how LiteMedSAM's TinyViT computes, with the same result; see :mod:`gps_seg.models.tiny_vit`.

    Raises:
        ConfigError: unknown name or size.
        CheckpointError: weights are missing, damaged or do not fit.
    """
    model = build_sam(name, input_size=input_size, resize=resize, attention=attention, encoder=encoder)
    if checkpoint is not None or name in PUBLISHED:
        path = Path(checkpoint) if checkpoint is not None else find_weights(name)
        load_strictly(model, read_state(path), str(path))
    return model.eval()


def randomise_positions(model: SamModel, seed: int) -> None:
    """Draw the prompt encoder's code of places and its embedding of no mask anew; torch's random state stays as it was.

    Source: FightingFighting/GPS, SAM/models/sam.py, whose names for the two are not the checkpoint's: a non-strict load leaves
    them random, and unseeded.
    """
    draw = torch.Generator().manual_seed(seed)
    places = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    no_mask = model.prompt_encoder.no_mask_embed.weight
    with torch.no_grad():
        for tensor in (places, no_mask):
            tensor.copy_(torch.randn(tensor.shape, generator=draw))


def build_sam(
    name: str, *, input_size: int | None = None, resize: Literal["longest_side", "squash"] | None = None,
    attention: Literal["efficient", "stock"] = "efficient", encoder: Literal["lean", "stock"] = "lean", seed: int = 0,
) -> SamModel:
    """A SAM with random weights from the seed; leaves torch's global random state as it was. See :func:`load_sam`."""
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=1)
        raise ConfigError(f"model.name: unknown model {name!r}; " + (f"did you mean {nearest[0]!r}? " if nearest else "")
                          + f"known: {', '.join(MODELS)}")
    entry = MODELS[name]
    spec = replace(entry.spec, input_size=input_size or entry.spec.input_size, resize=resize or entry.spec.resize)
    if spec.input_size % spec.stride:
        raise ConfigError(f"model.input_size: expected a multiple of {spec.stride}, got {spec.input_size}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = entry.build(spec)
    if attention == "efficient":
        use_efficient_attention(model.image_encoder)
    model.lean = encoder == "lean"
    return model


def to_stock(model: SamModel) -> nn.Module:
    """The stock module around the same parts, at the model's native size: ``segment_anything``'s Sam, or MedSAMLite.

    Use after merging; the parts are shared, and the model keeps working only through the returned module.
    """
    use_stock_attention(model.image_encoder)
    model.set_input_size(model.spec.native_size)
    if hasattr(model.image_encoder, "layers"):
        stock: nn.Module = import_lite_medsam().build_lite_medsam()
        stock.load_state_dict(model.state_dict(), strict=True)
        return stock.eval()
    sam = import_segment_anything().modeling.Sam
    return sam(model.image_encoder, model.prompt_encoder, model.mask_decoder, list(model.spec.mean), list(model.spec.std)).eval()
