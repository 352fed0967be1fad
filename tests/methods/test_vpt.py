"""Prompts in a Swin's windows against a slow Swin that has them as published, and in the frame around a ConvNet's image."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gps_seg.config import VptOptions
from gps_seg.core.attach import attach
from gps_seg.core.selection import counts, fingerprint
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.methods.added import add_modules, remove_modules
from gps_seg.models.classifiers import build_backbone
from gps_seg.packages import import_torchvision
from gps_seg.runs.delta import load_delta, save_delta
from gps_seg.tasks.classification.losses import features_of


def unasked(names: object) -> dict[str, Tensor]:
    raise AssertionError("this method reads no gradients")


def swin() -> Any:
    import_torchvision()
    from timm.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    model: Any = SwinTransformer(img_size=32, patch_size=4, num_classes=3, embed_dim=8, depths=(2, 2), num_heads=(2, 2),
                                 window_size=4)
    model.head_patterns = ("head.fc.*",)
    for block in (block for stage in model.layers for block in stage.blocks):
        nn.init.normal_(block.attn.relative_position_bias_table)
    return model.eval()


def convnext() -> Any:
    return build_backbone("convnext_atto", classes=3, input_size=32).eval()


def prompted(model: Any, method: str, tokens: int = 3) -> Any:
    return METHODS[method](model, VptOptions(tokens=tokens), unasked, 0)


# A Swin as published: one sequence of prompts and tokens; windows are cut from it, each with the prompts before its tokens


def slow_attention(block: Any, window: Tensor, mask: Tensor | None, tokens: int) -> Tensor:
    """One window (p + n, C) of one image."""
    attention, length = block.attn, len(window)
    parts = attention.qkv(window).reshape(length, 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    scores = parts[0] * attention.scale @ parts[1].transpose(-2, -1)
    table = attention.relative_position_bias_table[attention.relative_position_index.flatten()]
    scores[:, tokens:, tokens:] += table.view(length - tokens, length - tokens, -1).permute(2, 0, 1)
    if mask is not None:
        scores[:, tokens:, tokens:] += mask
    return attention.proj((scores.softmax(-1) @ parts[2]).transpose(0, 1).reshape(length, -1))  # type: ignore[no-any-return]


def slow_block(block: Any, prompts: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts (p, C) and grid (H, W, C) of one image."""
    (height, width, channels), (rows, columns), tokens = grid.shape, block.window_size, len(prompts)
    normed, shift = block.norm1(grid).roll([-one for one in block.shift_size], (0, 1)), block.shift_size
    out, seen = torch.zeros_like(normed), []
    for number, (top, left) in enumerate((top, left) for top in range(0, height, rows) for left in range(0, width, columns)):
        window = normed[top : top + rows, left : left + columns].reshape(-1, channels)
        mask = None if block.attn_mask is None else block.attn_mask[number]
        found = slow_attention(block, torch.cat([block.norm1(prompts), window]), mask, tokens)
        out[top : top + rows, left : left + columns] = found[tokens:].view(rows, columns, channels)
        seen.append(found[:tokens])
    grid, prompts = grid + out.roll(shift, (0, 1)), prompts + torch.stack(seen).mean(0)
    return prompts + block.mlp(block.norm2(prompts)), grid + block.mlp(block.norm2(grid))


def slow_swin(stock: Any, prompts: dict[str, Tensor], image: Tensor) -> Tensor:
    """Pooled features (C,) of one image (3, S, S), computed with a Swin without prompts."""
    grid, passing = stock.patch_embed(image[None])[0], torch.empty(0)
    for number, stage in enumerate(stock.layers):
        if number:
            grid = stage.downsample(grid[None])[0]
            passing = stage.downsample.reduction(stage.downsample.norm(torch.cat([passing] * 4, -1)))
        for inside, block in enumerate(stage.blocks):
            passing = prompts.get(f"layers.{number}.blocks.{inside}.prompts", passing[None])[0]
            passing, grid = slow_block(block, passing, grid)
    return stock.norm(torch.cat([passing, grid.flatten(0, 1)])).mean(0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_a_swins_prompts_are_those_of_a_slow_swin_image_by_image(method: str) -> None:
    model, stock, images = swin(), swin(), torch.randn(2, 3, 32, 32)
    selection = prompted(model, method)
    inserted = {name: model.get_parameter(name) for name, role in selection.dense.items() if role == "inserted"}
    assert len(inserted) == (4 if method == "vpt_deep" else 1)
    with torch.no_grad():
        for value in inserted.values():
            value.normal_()
        expected = torch.stack([slow_swin(stock, inserted, image) for image in images])
        torch.testing.assert_close(features_of(model, images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(images), stock.head.fc(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "make"), [("vpt_shallow", swin), ("vpt_deep", swin), ("vpt_shallow", convnext)])
def test_prompts_train_save_and_go_again_to_the_bit(method: str, make: Any, tmp_path: Path) -> None:
    model, image = make(), torch.randn(2, 3, 32, 32)
    stock, names = model(image), list(model.state_dict())
    selection = prompted(model, method)
    expected = {"vpt_shallow": 3 * 8, "vpt_deep": 3 * (2 * 8 + 2 * 16)}[method] if make is swin else 3 * (38 * 38 - 32 * 32)
    assert counts(selection, model)["inserted"] == expected
    assert not torch.equal(model(image), stock)
    attached = attach(model, selection)
    optimizer = torch.optim.SGD(attached.trainable().values(), lr=0.1)
    before = attached.state()
    model(image).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in attached.state().items())
    trained = model(image)
    save_delta(tmp_path, attached, {})
    fresh = make()
    load_delta(tmp_path, fresh, add_modules)
    assert torch.equal(fresh(image), trained) and torch.equal(copy.deepcopy(fresh)(image), trained)
    attached.unmerge()
    remove_modules(model, selection.meta)
    assert torch.equal(model(image), stock) and fingerprint(model) == selection.base and list(model.state_dict()) == names


def test_a_convnet_sees_a_frame_of_learned_pixels_normalised_as_its_images_are() -> None:
    model, image, seen = convnext(), torch.randn(2, 3, 32, 32), []
    prompted(model, "vpt_shallow", tokens=2)
    model.stem[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(image)
    (framed,) = seen
    assert framed.shape == (2, 3, 36, 36) and torch.equal(framed[:, :, 2:-2, 2:-2], image)
    mean, std = (torch.tensor(model.pretrained_cfg[name]) for name in ("mean", "std"))
    first = (framed[0, :, 0, 0] * std + mean).detach()
    torch.testing.assert_close(first, model.stem.prompts_rows[0, :, 0, 0].detach())
    assert bool(((first >= 0) & (first <= 1)).all())


def test_a_convnet_has_no_deep_prompts() -> None:
    with pytest.raises(ConfigError, match="method vpt_deep: a ConvNet's prompts are pixels around the image.*use vpt_shallow"):
        prompted(convnext(), "vpt_deep")
