"""SAM-Adapter: every block's input gets a prompt, made of the image's patch embedding and of its high frequencies.

prompt_i = up(GELU(light_i(embed(E) + patches(H)))): E is the patch embedding, H the image without its low frequencies,
``light_i`` a layer of the block's own, ``up`` shared by all blocks. First values are the published ones, so the output changes at
once.

Sources: Chen et al., SAM Fails to Segment Anything? SAM-Adapter, ICCV workshops 2023, arXiv 2304.09148; its code,
tianrun-chen/SAM-Adapter-PyTorch, models/mmseg/models/sam/image_encoder.py and configs/cod-sam-vit-b.yaml (scale_factor 32,
freq_nums 0.25). An encoder in stages, LiteMedSAM's TinyViT, has a generator for each stage, fed with the embedding that enters
it, as Liu et al., Explicit Visual Prompting, CVPR 2023, arXiv 2303.10883 do; where they shrink H from stage to stage, we cut it
into patches of the stage's stride. Blocks that hear a prompt are the packaged ones, not the lean ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.config import SamAdapterOptions
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError
from gps_seg.methods.addition import Addition, Numbers, add_and_select


def sam_adapter(model: nn.Module, options: SamAdapterOptions, scores: Scores, seed: int) -> Selection:
    """Train the generators of prompts, and the head.

    Raises:
        ConfigError: the encoder is not a SAM's.
    """
    numbers = {"shrink": options.shrink, "low_frequencies": options.low_frequencies, "seed": seed}
    return add_and_select(model, SAM_ADAPTER, numbers, options.head)


def high_frequencies(image: Tensor, low: float) -> Tensor:
    """Magnitude of the image (B, 3, H, W) without a square around frequency zero that is the part ``low`` of its spectrum."""
    height, width = image.shape[-2:]
    half = int((height * width * low) ** 0.5 // 2)
    spectrum = torch.fft.fftshift(torch.fft.fft2(image.float()), dim=(-2, -1))
    kept = torch.ones(height, width, device=image.device)
    kept[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 0
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum * kept, dim=(-2, -1))).real.abs()


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        source: the module whose output is the embedding that enters them.
        stride: image pixels a token.
        channels_first: whether they pass (B, C, h, w); else (B, h, w, C) or (B, tokens, C).
    """

    source: nn.Module
    blocks: tuple[nn.Module, ...]
    width: int
    stride: int
    channels_first: bool


class Generator(nn.Module):
    """The prompts of a stage."""

    def __init__(self, stage: Stage, shrink: int) -> None:
        super().__init__()
        inner = max(1, stage.width // shrink)
        self.embedding = nn.Linear(stage.width, inner)
        self.patches = nn.Conv2d(3, inner, stage.stride, stage.stride)
        self.light = nn.ModuleList(nn.Linear(inner, inner) for _ in stage.blocks)
        self.up = nn.Linear(inner, stage.width)
        for module in (self.embedding, self.up, *self.light):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        nn.init.normal_(self.patches.weight, std=math.sqrt(2 / (stage.stride**2 * inner)))
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]

    def forward(self, embedding: Tensor, high: Tensor) -> Tensor:
        """Embedding (B, h, w, C), high frequencies (B, 3, S, S) -> what all the stage's prompts are made of, (B, h, w, C')."""
        return self.embedding(embedding) + self.patches(high).permute(0, 2, 3, 1)

    def prompt(self, number: int, features: Tensor) -> Tensor:
        """What is added to the input of the block of this number, (B, h, w, C)."""
        return self.up(F.gelu(self.light[number](features)))


class Prompts(nn.Module):
    """The generators of an encoder, and what they hold of the image in it: until its end where nothing will be differentiated,
    else until the next image, since a backward pass may run blocks again."""

    def __init__(self, stages: list[Stage], shrink: int, low: float) -> None:
        super().__init__()
        self.generators = nn.ModuleList(Generator(stage, shrink) for stage in stages)
        self.stages, self.low = stages, low
        self.high: Tensor | None = None
        self.features: dict[int, Tensor] = {}
        self.hooks = [stages[0].source.register_forward_hook(self._see)]
        for index, stage in enumerate(stages):
            self.hooks.append(stage.source.register_forward_hook(partial(self._enter, index)))
            self.hooks += [block.register_forward_pre_hook(partial(self._add, index, number))
                           for number, block in enumerate(stage.blocks)]

    def _see(self, _source: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        self.high = high_frequencies(inputs[0], self.low)

    def _enter(self, index: int, _source: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        high: Any = self.high
        grid = high.shape[-1] // self.stages[index].stride
        tokens = output.permute(0, 2, 3, 1) if self.stages[index].channels_first else output
        self.features[index] = self.generators[index](tokens.reshape(len(output), grid, grid, -1), high)

    def _add(self, index: int, number: int, _block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        generator: Any = self.generators[index]
        prompt = generator.prompt(number, self.features[index])
        prompt = prompt.permute(0, 3, 1, 2) if self.stages[index].channels_first else prompt.reshape(inputs[0].shape)
        return (inputs[0] + prompt.to(inputs[0].dtype), *inputs[1:])

    def forget(self, *_: object) -> None:
        """Let go of the image."""
        if not torch.is_grad_enabled():
            self.high, self.features = None, {}


def _encoder(model: nn.Module) -> Any:
    for module in model.modules():
        if hasattr(module, "patch_embed") and hasattr(module, "neck"):
            return module
    raise ConfigError("method sam_adapter: it is defined for SAM's ViT and for TinyViT, and this encoder is neither; use "
                      "adapter, lora or ssf")


def _stages(encoder: Any) -> list[Stage]:
    if hasattr(encoder, "blocks"):
        patches = encoder.patch_embed.proj
        return [Stage(encoder.patch_embed, tuple(encoder.blocks), patches.out_channels, patches.stride[0], channels_first=False)]
    stages, source = [], encoder.patch_embed
    stride = math.prod(part.stride[0] for part in source.modules() if isinstance(part, nn.Conv2d))
    for layer in encoder.layers:
        is_convolutional = type(layer).__name__ == "ConvLayer"
        stages.append(Stage(source, tuple(layer.blocks), layer.dim, stride, is_convolutional))
        source = layer.downsample
        stride *= 1 if source is None else source.conv2.c.stride[0]
    return stages


def _add(model: nn.Module, numbers: Numbers) -> None:
    encoder = _encoder(model)
    encoder.sam_adapter = Prompts(_stages(encoder), int(numbers["shrink"]), numbers["low_frequencies"])
    encoder.sam_adapter.hooks.append(encoder.neck.register_forward_hook(encoder.sam_adapter.forget))


def _remove(model: nn.Module) -> None:
    encoder = _encoder(model)
    for hook in encoder.sam_adapter.hooks:
        hook.remove()
    del encoder.sam_adapter


SAM_ADAPTER = Addition("sam_adapter", _add, _remove, fold=None)
