"""Laws that hold for every method on every model: what attaching, training, saving and merging may and may not do."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gps_seg.config import OPTIONS, GPSConfig, VptOptions
from gps_seg.core.attach import Attached, attach
from gps_seg.core.scores import gradient_scores
from gps_seg.core.selection import Selection, counts, fingerprint
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files.tensors import read_tensors
from gps_seg.methods import METHODS
from gps_seg.methods.added import add_modules, fold_modules, remove_modules
from gps_seg.methods.selection_file import load_selection, save_selection
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam, to_stock
from gps_seg.packages import import_torchvision
from gps_seg.runs.delta import load_delta, save_delta
from gps_seg.runs.device import repeatable, training_mode
from gps_seg.runs.log import read_log

MODELS = ("tiny", "tiny_lite", "tiny_mobile", "tiny_hq", "tiny_sam2")
OF_TINY_VIT, OF_VIT = ("tiny_lite", "tiny_mobile"), ("tiny", "tiny_hq")
STOCK = {"tiny": "Sam", "tiny_mobile": "Sam", "tiny_sam2": "Sam2Model"}
WITHOUT_A_MEANING = (("sam_adapter", "tiny_sam2"),)  # Hiera pools inside its stages: no grid that a prompt could be made for
WITHOUT_A_PLACE_IN_SAM = ("vpt_shallow", "vpt_deep")
IN_THE_HEAD = "gps with head=select"
SETTINGS_OF: dict[str, dict[str, float]] = {  # modules, vectors and single entries, some of each
    name: {"budget": 0.15, "rank": 2} for name in ("spt_lora", "spt_adapter")
}
every = pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in (*METHODS, IN_THE_HEAD) for name in MODELS
     if method not in WITHOUT_A_PLACE_IN_SAM and (method, name) not in WITHOUT_A_MEANING],
)


def loss_of(model: nn.Module, image: Tensor) -> Tensor:
    return (model(image).logits - 1).square().mean()  # type: ignore[no-any-return]


def prepared(method: str, name: str) -> tuple[SamModel, Selection, Tensor]:
    model = build_sam(name).eval()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def scores(names: object) -> dict[str, Tensor]:
        return gradient_scores(model, list(names), [image], loss_of)  # type: ignore[call-overload]

    if method == IN_THE_HEAD:
        return model, METHODS["gps"](model, GPSConfig(head="select"), scores, 0), image
    return model, METHODS[method](model, OPTIONS[method](**SETTINGS_OF.get(method, {})), scores, 0), image


def unasked(names: object) -> dict[str, Tensor]:
    raise AssertionError("this method reads no gradients")


def train(attached: Attached, image: Tensor, steps: int = 3) -> None:
    """AdamW with a weight decay that would be seen at once on anything it should not touch."""
    if not attached.trainable():
        return
    training_mode(attached.model)
    optimizer = torch.optim.AdamW(attached.trainable().values(), lr=1e-2, weight_decay=0.1)
    attached.follow(optimizer)
    with repeatable(image.device):
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(attached.model, image).backward()
            optimizer.step()
    attached.model.eval()


def output(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return model(image).logits  # type: ignore[no-any-return]


@every
def test_attaching_changes_no_output(method: str, name: str) -> None:
    model, selection, image = prepared(method, name)
    before = output(model, image)
    attach(model, selection)
    assert torch.equal(output(model, image), before)
    base = build_sam(name).eval()
    if method == "sam_adapter":  # its prompts begin with the published values, not with zeros
        assert not torch.allclose(before, output(base, image))
        return
    if method in ("ssf", *SETTINGS_OF) and name in OF_TINY_VIT:  # behind layers: the lean path leaves them to the packaged one
        torch.testing.assert_close(output(model, image), output(base, image), rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(output(model, image), output(base, image))


@every
def test_training_moves_what_is_selected_and_not_one_bit_more(method: str, name: str) -> None:
    model, selection, image = prepared(method, name)
    before = copy.deepcopy(model.state_dict())
    attached = attach(model, selection)
    train(attached, image)
    attached.merge()
    moved = 0
    for parameter, after in model.state_dict().items():
        changed = (after != before[parameter]).flatten()
        allowed = torch.zeros_like(changed)
        if parameter in selection.dense:
            allowed[:] = True
        elif parameter in selection.sparse:
            allowed[selection.sparse[parameter]] = True
        assert not (changed & ~allowed).any(), parameter
        moved += int(changed.sum())
    assert moved > 0.2 * counts(selection, model)["trainable"] or method == "none"


@every
def test_saving_and_loading_is_exact(method: str, name: str, tmp_path: Path) -> None:
    model, selection, image = prepared(method, name)
    attached = attach(model, selection)
    train(attached, image)
    expected = output(model, image)
    save_delta(tmp_path, attached, {})
    save_selection(tmp_path / "selection.safetensors", selection)
    fresh = build_sam(name).eval()
    again = load_selection(tmp_path / "selection.safetensors", fresh)
    assert again.dense == selection.dense and again.meta == selection.meta
    assert all(torch.equal(again.sparse[key], selection.sparse[key]) for key in selection.sparse)
    load_delta(tmp_path, fresh, add_modules)
    assert torch.equal(output(fresh, image), expected)
    assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob(".*.tmp"))


@every
def test_merged_equals_attached_and_is_a_stock_model(method: str, name: str) -> None:
    model, selection, image = prepared(method, name)
    stock = build_sam(name)
    attached = attach(model, selection)
    train(attached, image)
    expected = output(model, image)
    attached.merge()
    assert torch.equal(output(model, image), expected)
    if method in ("adapter", "sam_adapter", "spt_adapter"):
        with pytest.raises(ConfigError, match=f"method {method}: its modules cannot be merged into a stock model"):
            fold_modules(model, selection.meta)
        return
    fold_modules(model, selection.meta)
    torch.testing.assert_close(output(model, image), expected, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == list(stock.state_dict())
    assert [type(module) for module in model.modules()][1:] == [type(module) for module in stock.modules()][1:] or name in OF_VIT
    if name in STOCK:
        assert type(to_stock(model)).__name__ == STOCK[name]


@every
def test_unmerging_restores_the_base_bit_for_bit(method: str, name: str) -> None:
    model, selection, image = prepared(method, name)
    base = fingerprint(build_sam(name))
    assert base == selection.base
    attached = attach(model, selection)
    train(attached, image)
    attached.unmerge()
    remove_modules(model, selection.meta)
    assert fingerprint(model) == base
    assert torch.equal(output(model, image), output(build_sam(name).eval(), image))


@every
def test_the_counts_are_those_of_the_optimizer(method: str, name: str) -> None:
    model, selection, _ = prepared(method, name)
    expected = counts(selection, model)["trainable"]
    assert sum(parameter.numel() for parameter in attach(model, selection).trainable().values()) == expected


@every
def test_the_same_seed_repeats_selection_and_training(method: str, name: str) -> None:
    results = []
    for _ in range(2):
        model, selection, image = prepared(method, name)
        attached = attach(model, selection)
        train(attached, image)
        attached.merge()
        results.append(fingerprint(model))
    assert results[0] == results[1]


def test_methods_train_what_their_names_say() -> None:
    model, head, _ = prepared("head", "tiny")
    assert all(name.startswith("mask_decoder.") for name in head.dense) and not head.sparse
    _, bitfit, _ = prepared("bitfit", "tiny")
    encoder = [name for name in bitfit.dense if name.startswith("image_encoder.")]
    assert encoder and all(name.endswith(".bias") for name in encoder)
    assert any("norm" in name for name in encoder)
    _, full, _ = prepared("full", "tiny")
    assert counts(full, model)["trainable"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("method", WITHOUT_A_PLACE_IN_SAM)
def test_prompt_tokens_have_no_place_on_sams_grid_and_the_error_says_what_to_use(method: str) -> None:
    model = build_sam("tiny")
    with pytest.raises(ConfigError, match="method vpt: this encoder keeps its tokens on a grid.*use lora, adapter or ssf"):
        METHODS[method](model, VptOptions(), unasked, 0)
    assert fingerprint(model) == fingerprint(build_sam("tiny"))


@pytest.mark.parametrize("method", WITHOUT_A_PLACE_IN_SAM)
def test_prompt_tokens_train_save_and_go_again_in_a_sequence_vit(method: str, tmp_path: Path) -> None:
    import_torchvision()
    import timm

    def vit() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5).eval()

    model, image = vit(), torch.randn(2, 3, 32, 32)
    stock = model(image)
    selection = METHODS[method](model, VptOptions(tokens=4), unasked, 0)
    assert counts(selection, model)["inserted"] == 4 * 192 * (3 if method == "vpt_deep" else 1)
    assert not torch.equal(model(image), stock)  # tokens take part in attention at once
    attached = attach(model, selection)
    optimizer = torch.optim.SGD(attached.trainable().values(), lr=1.0)
    model(image).square().sum().backward()
    optimizer.step()
    expected = model(image)
    save_delta(tmp_path, attached, {})
    fresh = vit()
    load_delta(tmp_path, fresh, add_modules)
    assert torch.equal(fresh(image), expected)
    attached.unmerge()
    remove_modules(model, selection.meta)
    assert torch.equal(model(image), stock) and fingerprint(model) == selection.base


@pytest.mark.parametrize(("method", "name"), WITHOUT_A_MEANING)
def test_what_has_no_meaning_on_an_encoder_says_what_to_use(method: str, name: str) -> None:
    with pytest.raises(ConfigError, match="this encoder is neither; use adapter, lora or ssf"):
        METHODS[method](build_sam(name), OPTIONS[method](), unasked, 0)


def test_none_selects_nothing_and_its_delta_is_empty(tmp_path: Path) -> None:
    model, selection, _ = prepared("none", "tiny")
    assert not selection.sparse and not selection.dense and counts(selection, model)["trainable"] == 0
    save_delta(tmp_path, attach(model, selection), {})
    assert not read_tensors(tmp_path / "adapter_model.safetensors", "a delta")[0]


def test_partial_trains_the_last_blocks_and_what_follows() -> None:
    _, selection, _ = prepared("partial", "tiny")
    assert all(name.startswith(("image_encoder.blocks.1.", "image_encoder.neck.", "mask_decoder.")) for name in selection.dense)
    assert any(name.startswith("image_encoder.blocks.1.") for name in selection.dense)


def test_a_delta_of_another_base_is_refused(tmp_path: Path) -> None:
    model, selection, _ = prepared("gps", "tiny")
    save_delta(tmp_path, attach(model, selection), {})
    other = build_sam("tiny", seed=1)
    before = fingerprint(other)
    with pytest.raises(CheckpointError, match="was made on other base weights: expected [0-9a-f]{16}"):
        load_delta(tmp_path, other)
    assert fingerprint(other) == before


@pytest.mark.parametrize(("edit", "text"), [
    ({"threshold": "x"}, "expected a threshold between 0 and 1, got 'x'"), ({"dense": 3}, "'dense' is missing or wrong"),
    ({"peft_type": "LORA"}, "expected a GPS delta, got peft_type 'LORA'"), ({"base_sha256": "0"}, "belong to different runs"),
])
def test_an_edited_adapter_config_is_refused(tmp_path: Path, edit: dict[str, object], text: str) -> None:
    model, selection, _ = prepared("head", "tiny")
    save_delta(tmp_path, attach(model, selection), {"threshold": 0.5})
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(CheckpointError, match=text):
        load_delta(tmp_path, build_sam("tiny"))


def test_a_delta_cut_short_is_refused(tmp_path: Path) -> None:
    model, selection, _ = prepared("gps", "tiny")
    save_delta(tmp_path, attach(model, selection), {})
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="adapter_model.safetensors: expected a delta, the file is damaged"):
        load_delta(tmp_path, build_sam("tiny"))


def test_the_delta_of_sam_vit_b_without_decoder_is_under_one_and_a_half_megabytes(tmp_path: Path) -> None:
    model = build_sam("sam_vit_b")

    def magnitude(names: object) -> dict[str, Tensor]:
        return {name: model.get_parameter(name).detach().abs() for name in names}  # type: ignore[attr-defined]

    selection = METHODS["gps"](model, GPSConfig(head="freeze"), magnitude, 0)
    save_delta(tmp_path, attach(model, selection), {})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.5e6


SETTINGS = ["model.name=tiny", "data.name=phantom", "data.phantom_images=20", "train.max_steps=24", "train.batch_size=4",
            "train.validate_every=8", "train.checkpoint_every=4", "train.ema=0.9", "train.box_probability=0.3",
            "train.click_probability=0.4", "train.accumulate=2", "train.precision=fp32", "evaluate.overlays=0", "device=cpu"]


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    config = out.parent / "config.yaml"
    config.write_text("seed: 3\n")
    command = [sys.executable, "-m", "gps_seg.cli", "train", str(config), *SETTINGS, "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ.copy())


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(row["step"] >= step for row in read_log(out)):
            return
        time.sleep(0.01)
    raise AssertionError(f"the run never reached step {step}: {process.communicate()[0]}")


def finish(process: subprocess.Popen[str]) -> None:
    text = process.communicate()[0]
    assert process.returncode == 0, text


def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole))
    process = start(broken)
    wait_for_step(process, broken, 6)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (broken / "result.json").exists()
    process = start(broken, "--resume")  # and once more, politely, at another place
    wait_for_step(process, broken, 14)
    process.send_signal(signal.SIGINT)
    text = process.communicate()[0]
    assert process.returncode == 2 and "run again with --resume" in text and "Traceback" not in text
    finish(start(broken, "--resume"))
    for file in ("adapter_model.safetensors", "selection.safetensors", "scores.csv", "log.jsonl", "config.yaml"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    shutil.rmtree(broken)
