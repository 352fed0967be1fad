"""SAM as one batched, differentiable module that needs no prompt and accepts boxes and points.

The three parts are the stock ones, under the stock names, so a state dict of :class:`SamModel` is a stock SAM state dict.
What is ours: the batched forward pass (the stock decoder repeats one image per call) and the freedom of input size.

Sources: Kirillov et al., Segment Anything, ICCV 2023, arXiv 2304.02643; Ma et al., Segment anything in medical images,
Nature Communications 2024, arXiv 2304.12306 (LiteMedSAM); Wu et al., TinyViT, ECCV 2022, arXiv 2207.10666.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gps_seg.core.roles import Treatment
from gps_seg.errors import ConfigError
from gps_seg.models.attention import recomputed, use_efficient_attention, use_stock_attention
from gps_seg.models.weights import PUBLISHED, find_weights, load_strictly, read_state
from gps_seg.packages import import_lite_medsam, import_segment_anything

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SamSpec:
    """What a SAM expects of an image: RGB in 0..255, minus ``mean``, over ``std``, ``input_size`` pixels on each side.

    ``resize`` is "longest_side" (keep the aspect, pad right and bottom with zeros after normalising) or "squash".
    """

    name: str
    input_size: int
    native_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride: int
    resize: Literal["longest_side", "squash"] = "longest_side"


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


class SamOutput(NamedTuple):
    """``logits`` (B, 1, 4g, 4g) for an embedding of g x g; ``quality`` (B, 1), SAM's own estimate of the IoU."""

    logits: Tensor
    quality: Tensor


class SamModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder of a SAM, callable on batches.

    Attributes:
        spec: what it expects of an image.
        head_patterns, encoder_patterns, official_rules: what a selection asks, see :mod:`gps_seg.methods.parts`.
        checkpoint_blocks: recompute encoder blocks in the backward pass instead of keeping their activations.
    """

    head_patterns = ("mask_decoder.*",)
    encoder_patterns = ("image_encoder.*",)
    official_rules = OFFICIAL_RULES

    def __init__(self, image_encoder: nn.Module, prompt_encoder: Any, mask_decoder: Any, spec: SamSpec) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.spec = spec
        self.checkpoint_blocks = False
        self.set_input_size(spec.input_size)

    def set_input_size(self, input_size: int) -> None:
        """Make the model expect another input size. No parameter changes. Raises ConfigError for a wrong multiple."""
        if input_size % self.spec.stride:
            raise ConfigError(f"model.input_size: expected a multiple of {self.spec.stride}, got {input_size}")
        grid = input_size // self.spec.stride
        self.spec = replace(self.spec, input_size=input_size)
        self.prompt_encoder.image_embedding_size = (grid, grid)
        self.prompt_encoder.input_image_size = (input_size, input_size)
        self.prompt_encoder.mask_input_size = (4 * grid, 4 * grid)

    def forward(
        self, image: Tensor, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None
    ) -> SamOutput:
        """Segment a batch, one mask an image.

        Args:
            image: float (B, 3, S, S), normalised and padded as ``spec`` says.
            boxes: float (B, 4) xyxy in input pixels, or None.
            points: coordinates float (B, N, 2) xy in input pixels, and labels (B, N) of 1 (polyp) or 0; or None.
        """
        return self.decode(self.encode(image), boxes, points)

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, S, S) -> embedding (B, C, g, g) with g = S / stride. Raises ConfigError for a wrong size."""
        if image.shape[2:] != (self.spec.input_size, self.spec.input_size):
            raise ConfigError(f"expected images of {self.spec.input_size} x {self.spec.input_size} pixels, "
                              f"got {image.shape[2]} x {image.shape[3]}")
        encode = _encode_tiny_vit if self._is_tiny_vit else _encode_vit
        return encode(self.image_encoder, image, _recompute if self.checkpoint_blocks and self.training else _run)

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
        self, embedding: Tensor, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None
    ) -> SamOutput:
        """Embedding (B, C, g, g) and optional prompts -> masks. Prompts as in :meth:`forward`."""
        batch = len(embedding)
        with torch.autocast(embedding.device.type, enabled=False):  # positions in bf16 would be off by pixels
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=None)
            positions = self.prompt_encoder.get_dense_pe()
        sparse = sparse.expand(batch, -1, -1)
        return _decode_masks(self.mask_decoder, embedding + dense, positions.expand(batch, -1, -1, -1), sparse)


Through = Callable[[nn.Module, Tensor], Tensor]


def _run(block: nn.Module, x: Tensor) -> Tensor:
    return block(x)


def _recompute(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(recomputed, block, x, use_reentrant=False)


def _encode_vit(encoder: Any, image: Tensor, through: Through) -> Tensor:
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


def _decode_masks(decoder: Any, source: Tensor, positions: Tensor, sparse: Tensor) -> SamOutput:
    """The stock decoder's arithmetic for B images with one prompt each, first mask only.

    Args:
        source: embedding plus dense prompt (B, C, g, g); positions: (B, C, g, g); sparse: prompt tokens (B, N, C).
    """
    batch, channels, height, width = source.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(batch, -1, -1), sparse.to(own.dtype)], dim=1)
    attended, memory = decoder.transformer(source, positions, tokens)
    upscaled = decoder.output_upscaling(memory.transpose(1, 2).view(batch, channels, height, width))
    weights = decoder.output_hypernetworks_mlps[0](attended[:, 1])
    logits = torch.einsum("bc,bchw->bhw", weights, upscaled)
    return SamOutput(logits[:, None], decoder.iou_prediction_head(attended[:, 0])[:, :1])


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
) -> SamModel:
    """A pretrained SAM in eval mode. The ``tiny`` models are random, from a fixed seed.

    Args:
        name: a key of MODELS.
        checkpoint: local weights with the stock names; default: the published file.
        input_size: pixels of the long side; default: the model's own (LiteMedSAM 256, SAM 1024).
        resize: default: the model's own rule.
        attention: how SAM's ViT attends, with the same result: "efficient" never writes the attention map.

    Raises:
        ConfigError: unknown name or size.
        CheckpointError: weights are missing, damaged or do not fit.
    """
    model = build_sam(name, input_size=input_size, resize=resize, attention=attention)
    if checkpoint is not None or name in PUBLISHED:
        path = Path(checkpoint) if checkpoint is not None else find_weights(name)
        load_strictly(model, read_state(path), str(path))
    return model.eval()


def build_sam(
    name: str, *, input_size: int | None = None, resize: Literal["longest_side", "squash"] | None = None,
    attention: Literal["efficient", "stock"] = "efficient", seed: int = 0,
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
