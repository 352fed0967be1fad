"""VPT: learned tokens among the image's, at the first block (shallow) or anew at every block (deep).

Source: Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119. It is defined for encoders that pass a sequence of tokens
from block to block, such as timm's ViT; for Swin, see :mod:`gps_seg.methods.vpt_windows`; and, as a frame of pixels, for ConvNets
such as ConvNeXt, see :mod:`gps_seg.methods.vpt_frame`. SAM's encoder adds a relative position to every pair of its grid's tokens:
the paper gives no definition for it, and GPS's SAM table has no VPT row, so asking for it is an error.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gps_seg.config import VptOptions
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError
from gps_seg.methods.addition import Addition, Numbers, add_and_select
from gps_seg.methods.vpt_frame import add_frame, remove_frame
from gps_seg.methods.vpt_windows import add_to_windows, remove_from_windows


def vpt_shallow(model: nn.Module, options: VptOptions, scores: Scores, seed: int) -> Selection:
    """Train ``options.tokens`` tokens that enter before the first block, and the head. Changes the output at once.

    Raises:
        ConfigError: the encoder has no place for prompts.
    """
    return add_and_select(model, VPT_SHALLOW, {"tokens": options.tokens, "seed": seed}, options.head)


def vpt_deep(model: nn.Module, options: VptOptions, scores: Scores, seed: int) -> Selection:
    """The same with new tokens before every block, which replace those of the block before."""
    return add_and_select(model, VPT_DEEP, {"tokens": options.tokens, "seed": seed}, options.head)


def _add(model: nn.Module, numbers: Numbers, *, deep: bool) -> None:
    """Where prompts go depends on what passes through the encoder: a sequence, windows, or feature maps.

    Raises:
        ConfigError: something else does, or there is no deep form.
    """
    tokens, module = int(numbers["tokens"]), _with_parts(model, "blocks", "cls_token", "embed_dim")
    if module is not None:
        _add_to_sequence(module, tokens, deep=deep)
    elif type(module := _with_parts(model, "layers", "patch_embed", "embed_dim")).__name__ == "SwinTransformer":
        add_to_windows(module, tokens, deep=deep)
    elif (module := _with_parts(model, "stem", "stages", "pretrained_cfg")) is not None and not deep:
        add_frame(module, tokens, model.input_size)  # type: ignore[arg-type]
    elif module is not None:
        raise ConfigError("method vpt_deep: a ConvNet's prompts are pixels around the image, which enter once; use vpt_shallow")
    else:
        _refuse()


def _with_parts(model: nn.Module, *names: str) -> Any:
    """The first part of a model with such attributes, or None."""
    return next((module for module in model.modules() if all(hasattr(module, name) for name in names)), None)


def _refuse() -> NoReturn:
    raise ConfigError("method vpt: this encoder keeps its tokens on a grid, where prompt tokens have no defined place; "
                      "use lora, adapter or ssf, or a ViT that passes a sequence")


def _put(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Prompts go behind the class token; from the second block on they replace the former ones."""
    x: Tensor = inputs[0]
    prompts = block.prompts.to(x.dtype).expand(len(x), -1, -1)
    rest = x[:, 1:] if block.prompt_is_first else x[:, 1 + prompts.shape[1] :]
    return (torch.cat([x[:, :1], prompts, rest], 1), *inputs[1:])


def _drop(block: Any, inputs: Any, output: Tensor) -> Tensor:
    return torch.cat([output[:, :1], output[:, 1 + block.prompt_count :]], 1)


def _add_to_sequence(encoder: Any, count: int, *, deep: bool) -> None:
    width, blocks = int(encoder.embed_dim), list(encoder.blocks)
    for index, block in enumerate(blocks if deep else blocks[:1]):
        limit = (6 / (3 * 16 * 16 + width)) ** 0.5  # Xavier over a patch, as published
        block.prompts = nn.Parameter(torch.empty(1, count, width).uniform_(-limit, limit))
        block.prompt_is_first = index == 0
        block.prompt_hooks = [block.register_forward_pre_hook(_put)]
    blocks[-1].prompt_count = count
    blocks[-1].prompt_drop = [blocks[-1].register_forward_hook(_drop)]


def _remove(model: nn.Module) -> None:
    remove_from_windows(model)
    remove_frame(model)
    for module in list(model.modules()):
        for hooks in ("prompt_hooks", "prompt_drop"):
            if hasattr(module, hooks):
                getattr(module, hooks)[0].remove()
                delattr(module, hooks)
        module._parameters.pop("prompts", None)
        for name in ("prompt_is_first", "prompt_count"):
            if hasattr(module, name):
                delattr(module, name)


VPT_SHALLOW = Addition("vpt_shallow", lambda model, numbers: _add(model, numbers, deep=False), _remove, fold=None)
VPT_DEEP = Addition("vpt_deep", lambda model, numbers: _add(model, numbers, deep=True), _remove, fold=None)
