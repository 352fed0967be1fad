"""The quality head: it learns the IoU of the answer, 0 on frames without a polyp, and no mask is another for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gps_seg.commands.train import train
from gps_seg.config import OPTIONS, GPSConfig, RunConfig, load_config
from gps_seg.errors import ConfigError
from gps_seg.files.tensors import read_tensors
from gps_seg.methods import METHODS
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.log import read_log
from gps_seg.runs.select import make_selection, with_apart
from gps_seg.runs.setup import prepare
from gps_seg.tasks.segmentation.quality import Answer, qualities, quality_loss, true_quality
from support.settings import SETTINGS, of_method, silent

HEAD = "mask_decoder.iou_prediction_head."


def config(*overrides: str, method: str = "gps") -> RunConfig:
    return load_config(None, [*of_method(SETTINGS, method), "train.warmup=0", *overrides])


# The loss


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and valid pixels of three images: half right, answered without a polyp, nothing on nothing."""
    logits, target = torch.full((3, 1, 8, 8), -5.0), torch.zeros(3, 1, 8, 8)
    logits[0, :, :4] = 5
    target[0, :, 2:6] = 1
    logits[1, :, :4] = 5
    return logits, target, torch.ones(3, 1, 8, 8, dtype=torch.bool)


def test_an_answer_is_worth_its_iou_and_nothing_on_frames_without_a_polyp() -> None:
    logits, target, valid = example()
    assert true_quality(logits, target, valid, 0.5).tolist() == pytest.approx([16 / 48, 0, 0])
    assert true_quality(logits, target, valid, 0.999).tolist() == [0, 0, 0]
    valid[0, :, 4:] = False  # padding counts for nothing
    assert true_quality(logits, target, valid, 0.5)[0] == pytest.approx(16 / 32)


def test_the_loss_is_the_squared_error_and_leaves_the_mask_alone() -> None:
    logits, target, valid = example()
    logits.requires_grad_()
    estimate = torch.tensor([[0.5], [0.25], [-1.0]], requires_grad=True)
    loss = quality_loss(estimate, logits, target, valid, 0.5)
    assert loss.item() == pytest.approx(((0.5 - 1 / 3) ** 2 + 0.25**2 + 1) / 3)
    loss.backward()
    assert logits.grad is None and estimate.grad is not None and estimate.grad.all()


def test_the_gradient_reaches_the_quality_head_alone() -> None:
    model = build_sam("tiny")
    found = model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    quality_loss(found.quality, found.logits, torch.ones_like(found.logits), torch.ones_like(found.logits, dtype=torch.bool),
                 0.5).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert reached and all(name.startswith(HEAD) for name in reached)


def test_below_its_presence_an_answer_is_an_empty_mask() -> None:
    found = Answer(np.full((2, 3), 0.9, np.float32), 0.4)
    assert found.shown(None) is found.shown(0.4) is found.probability and not found.shown(0.41).any()
    assert Answer(found.probability, None).shown(1.0) is found.probability and not found.refused(None)
    assert qualities(torch.tensor([[-0.5], [0.25], [1.5]])) == [0, 0.25, 1]


# In training


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("vpt")])
def test_the_quality_head_trains_as_a_whole_under_every_method(method: str) -> None:
    model = build_sam("tiny")
    options = GPSConfig(head="select", score="magnitude") if method == "gps" else OPTIONS[method]()

    def scores(names: object) -> dict[str, Tensor]:
        return {name: model.get_parameter(name).detach().abs() for name in names}  # type: ignore[attr-defined]

    chosen = METHODS[method](model, options, scores, 0)
    assert with_apart(chosen, model) is chosen
    model.apart_patterns = model.quality_patterns
    found = with_apart(chosen, model)
    head = {name for name, _ in model.named_parameters() if name.startswith(HEAD)}
    assert head and all(found.dense[name] == "head" for name in head) and not head & set(found.sparse)
    assert {name for name in found.dense if name not in head} == {name for name in chosen.dense if name not in head}


@pytest.mark.parametrize("overrides", [["selection.head=select"], [], ["selection.head=freeze"], ["train.accumulate=2"]])
def test_masks_are_bit_for_bit_the_same_with_it(overrides: list[str], tmp_path: Path) -> None:
    """Also where gradients are clipped: small as the largest norm is, both are."""
    values = {}
    for quality in ("true", "false"):
        settings = config(*overrides, f"train.quality={quality}", "train.clip=0.01", "train.keep=last")
        train(settings, tmp_path / quality, say=silent)
        values[quality] = read_tensors(tmp_path / quality / "adapter_model.safetensors", "a delta")[0]
    with_it, without = values["true"], values["false"]
    assert {name for name in with_it if name not in without} <= {name for name in with_it if name.startswith(HEAD)}
    for name, value in without.items():
        assert name.startswith(HEAD) or torch.equal(with_it[name], value), name
    base = build_sam("tiny").state_dict()
    moved = [name for name in with_it if name.startswith(HEAD) and not torch.equal(with_it[name], base[name])]
    assert moved
    norms = [[row["gradient_norm"] for row in read_log(tmp_path / quality) if "loss" in row] for quality in values]
    assert norms[0] == norms[1]


def test_the_selection_pass_is_the_same_with_it() -> None:
    found = [make_selection(prepare(config(f"train.quality={value}", "selection.head=select"), silent), silent)
             for value in ("true", "false")]
    assert found[0].sparse.keys() == found[1].sparse.keys()
    assert all(torch.equal(indices, found[1].sparse[name]) for name, indices in found[0].sparse.items())


def test_it_learns_to_tell_frames_without_a_polyp(tmp_path: Path) -> None:
    settings = ["train.quality=true", "data.negatives=phantom", "data.negative_phantoms=20", "data.negative_share=0.4",
                "train.max_steps=40", "train.lr=3e-3", "data.augment.rotate=0", "data.augment.color=0"]
    train(config(*settings), tmp_path / "run", say=silent)
    losses = [row["loss"] for row in read_log(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


def test_a_presence_without_a_trained_quality_is_an_error() -> None:
    with pytest.raises(ConfigError, match="evaluate.presence is read with train.quality=true alone"):
        config("evaluate.presence=0.4")
    assert config("evaluate.presence=0.4", "train.quality=true").train.quality  # type: ignore[attr-defined]
