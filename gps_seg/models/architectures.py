"""The SAMs' architectures with random weights, of the parts of well-kept packages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from gps_seg.models.sam import SamModel
from gps_seg.models.sam_hq import SamHqModel, add_hq_parts
from gps_seg.models.spec import SamSpec
from gps_seg.packages import import_lite_medsam, import_segment_anything

TINY_VIT: dict[str, Any] = {"dims": (64, 128, 160, 320), "depths": (2, 2, 6, 2), "heads": (2, 4, 5, 10)}
# TinyViT keeps the grid of its last stage only for three widths, of which 320 is the smallest.
SMALLEST_TINY_VIT: dict[str, Any] = {"dims": (8, 16, 16, 320), "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)}


def vit_sam(
    spec: SamSpec, *, dim: int, depth: int, heads: int, globals_: tuple[int, ...], width: int = 256
) -> SamModel:
    """Segment Anything's own: ViT with windows of 14 tokens and, in the blocks ``globals_``, global attention."""
    return SamModel(_vit(spec, dim, depth, heads, globals_, width), *prompt_and_decoder(spec, width), spec)


def vit_sam_hq(
    spec: SamSpec, *, dim: int, depth: int, heads: int, globals_: tuple[int, ...], width: int = 256
) -> SamHqModel:
    """The same with HQ-SAM's token and fusion, see :mod:`gps_seg.models.sam_hq`."""
    prompt, decoder = prompt_and_decoder(spec, width)
    add_hq_parts(decoder, dim, width)
    return SamHqModel(_vit(spec, dim, depth, heads, globals_, width), prompt, decoder, spec)


def _vit(spec: SamSpec, dim: int, depth: int, heads: int, globals_: tuple[int, ...], width: int) -> nn.Module:
    modeling = import_segment_anything().modeling
    return modeling.ImageEncoderViT(
        img_size=spec.native_size, patch_size=spec.stride, embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=4,
        out_chans=width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        window_size=14 if width == 256 else 2, global_attn_indexes=globals_,
    )


def prompt_and_decoder(spec: SamSpec, width: int) -> tuple[nn.Module, Any]:
    """Segment Anything's prompt encoder and mask decoder for embeddings of ``width`` channels."""
    modeling = import_segment_anything().modeling
    grid = spec.native_size // spec.stride
    prompt = modeling.PromptEncoder(
        embed_dim=width, image_embedding_size=(grid, grid), input_image_size=(spec.native_size,) * 2, mask_in_chans=16
    )
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=8 * width, num_heads=8)
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=width, iou_head_depth=3, iou_head_hidden_dim=width
    )
    return prompt, decoder


def lite_medsam(spec: SamSpec) -> SamModel:
    """LiteMedSAM: a TinyViT whose first layer keeps every pixel."""
    stock = import_lite_medsam().build_lite_medsam()
    return SamModel(_tiny_vit(spec.input_size, **TINY_VIT), stock.prompt_encoder, stock.mask_decoder, spec)


def tiny_lite(spec: SamSpec) -> SamModel:
    """The same, small, for tests."""
    return _with_neck(_tiny_vit(spec.input_size, **SMALLEST_TINY_VIT), spec, 32)


def mobile_sam(spec: SamSpec, *, width: int = 256, **parts: Any) -> SamModel:
    """MobileSAM: a TinyViT whose first layer leaves a quarter of each side, and SAM's decoder.

    Its ImageNet classifier is in the published file and nothing reads it: buffers, which no method trains.

    Source: Zhang et al., Faster Segment Anything, 2023, arXiv 2306.14289; ChaoningZhang/MobileSAM, mobile_sam/build_sam.py.
    """
    encoder: Any = _tiny_vit(spec.input_size // 4, **(parts or TINY_VIT))
    layers = encoder.patch_embed.seq
    for place in (0, 2):
        layer = layers[place]
        layers[place] = type(layer)(layer.c.in_channels, layer.c.out_channels, 3, 2, 1)
    encoder.norm_head, encoder.head = _Unread(nn.LayerNorm(320)), _Unread(nn.Linear(320, 1000))
    return _with_neck(encoder, spec, width)


class _Unread(nn.Module):
    """A layer's weight and bias, kept for the file's sake."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, value in layer.state_dict().items():
            self.register_buffer(name, value)


def _with_neck(encoder: Any, spec: SamSpec, width: int) -> SamModel:
    norm = type(encoder.neck[1])
    encoder.neck = nn.Sequential(
        nn.Conv2d(320, width, 1, bias=False), norm(width), nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
    )
    return SamModel(encoder, *prompt_and_decoder(spec, width), spec)


def _tiny_vit(size: int, *, dims: Sequence[int], depths: Sequence[int], heads: Sequence[int]) -> nn.Module:
    return import_lite_medsam().TinyViT(
        img_size=size, embed_dims=list(dims), depths=list(depths), num_heads=list(heads), window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
