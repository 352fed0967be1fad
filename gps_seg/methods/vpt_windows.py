"""VPT in a Swin: the prompts stand before the tokens of every window, without a position.

Each window reads them; what the windows make of them is averaged. They pass the block's MLP and, between stages, the patch
merging as four copies of themselves side by side, and are pooled with the image's tokens in the end. Deep: new ones at each
block.

Source: Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119; KMnP/vpt, src/models/vit_prompt/swin_transformer.py. Where
we differ: of several images in a batch each keeps its own prompts; the released code has windows by image and prompts by window.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Passing:
    """The prompts (B, p, C) on their way through the encoder, and what the windows of a block made of them."""

    current: Tensor
    attended: Tensor


def add_to_windows(encoder: Any, tokens: int, *, deep: bool) -> None:
    """Put ``tokens`` prompts of their stage's width before the first block, or before each; timm's Swin."""
    limit = (6 / (3 * encoder.patch_embed.patch_size[0] ** 2 + encoder.embed_dim)) ** 0.5  # Xavier over a patch, as published
    passing = Passing()
    blocks = [block for stage in encoder.layers for block in stage.blocks]
    for index, block in enumerate(blocks):
        block.prompts_pass = block.attn.prompts_pass = passing
        if deep or index == 0:
            width = block.norm1.weight.shape[0]
            block.prompts = nn.Parameter(torch.empty(1, tokens, width).uniform_(-limit, limit))
        block.attn._get_rel_pos_bias = partial(_without_position, block.attn, tokens)
        block.window_hooks = [block.register_forward_pre_hook(_enter), block.register_forward_hook(_leave)]
        block.attn.window_hooks = [block.attn.register_forward_pre_hook(_prepend, with_kwargs=True),
                                   block.attn.register_forward_hook(_take)]
    for stage in encoder.layers:
        if not isinstance(stage.downsample, nn.Identity):
            stage.downsample.prompts_pass = passing
            stage.downsample.window_hooks = [stage.downsample.register_forward_hook(_merge)]
    pool = encoder.head.global_pool
    pool.prompts_pass, pool.prompts_norm = passing, [encoder.norm]  # a list: the norm keeps its one name
    pool.window_hooks = [pool.register_forward_hook(_pool)]


def remove_from_windows(model: nn.Module) -> None:
    """Take them out again."""
    module: Any
    for module in model.modules():
        if hasattr(module, "window_hooks"):
            for hook in module.window_hooks:
                hook.remove()
            for name in ("window_hooks", "prompts_pass", "prompts_norm", "_get_rel_pos_bias"):
                vars(module).pop(name, None)
            module._parameters.pop("prompts", None)


def _without_position(attention: Any, tokens: int) -> Tensor:
    """The relative bias (1, heads, p + n, p + n): zero from and to prompts."""
    return F.pad(type(attention)._get_rel_pos_bias(attention), (tokens, 0, tokens, 0))


def _enter(block: Any, inputs: tuple[Tensor]) -> None:
    """Before a block: its own prompts take the place of those that come along."""
    if hasattr(block, "prompts"):
        block.prompts_pass.current = block.prompts.to(inputs[0].dtype).expand(len(inputs[0]), -1, -1)
    block.prompts_pass.attended = block.norm1(block.prompts_pass.current)


def _prepend(attention: Any, inputs: tuple[Tensor], options: dict[str, Any]) -> tuple[tuple[Tensor], dict[str, Any]]:
    """Windows (B * w, n, C), those of an image together, with the image's prompts before their tokens."""
    windows, prompts = inputs[0], attention.prompts_pass.attended
    count = prompts.shape[1]
    each = prompts.to(windows.dtype).repeat_interleave(len(windows) // len(prompts), 0)
    mask = options.get("mask")
    return (torch.cat([each, windows], 1),), {**options, "mask": None if mask is None else F.pad(mask, (count, 0, count, 0))}


def _take(attention: Any, inputs: Any, output: Tensor) -> Tensor:
    """The windows without prompts, whose mean over windows is kept."""
    passing = attention.prompts_pass
    images, count, _ = passing.attended.shape
    passing.attended = output[:, :count].unflatten(0, (images, -1)).mean(1)
    return output[:, count:]


def _leave(block: Any, inputs: Any, output: Any) -> None:
    """After a block: the prompts' own residual sums."""
    passing = block.prompts_pass
    prompts = passing.current + block.drop_path1(passing.attended)
    passing.current = prompts + block.drop_path2(block.mlp(block.norm2(prompts)))


def _merge(merging: Any, inputs: Any, output: Any) -> None:
    passing = merging.prompts_pass
    passing.current = merging.reduction(merging.norm(torch.cat([passing.current] * 4, -1)))


def _pool(pool: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """The mean (B, C) over the image's tokens (B, H, W, C) and the prompts, whose way ends here: nothing is kept of them."""
    passing = pool.prompts_pass
    prompts = pool.prompts_norm[0](passing.current).to(output.dtype)
    del passing.current, passing.attended
    number = inputs[0].shape[1] * inputs[0].shape[2]
    return (output * number + prompts.sum(1)) / (number + prompts.shape[1])
