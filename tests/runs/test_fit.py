"""The loop: it learns, stops when it should, and a bad number or a full disk ends it with a good state on disk."""

from __future__ import annotations

import errno
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gps_seg
from gps_seg.cli.options import find_run
from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.train import train
from gps_seg.config import GPSConfig, RunConfig, TrainConfig, load_config
from gps_seg.core.selection import fingerprint
from gps_seg.errors import ConfigError, DataError, TrainingError, WriteError
from gps_seg.files.tensors import read_tensors
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.device import resolve_precision
from gps_seg.runs.fit import make_optimizer, rate_groups
from gps_seg.runs.gps_model import GPSModel, get_gps_model
from gps_seg.runs.log import read_log
from gps_seg.runs.schedule import learning_rate
from gps_seg.runs.setup import prepare
from gps_seg.runs.state import TrainingState, load_state, save_state
from gps_seg.tasks.segmentation.losses import LOSSES, make_loss, total
from support.settings import silent

BASE = ["model.name=tiny", "data.name=phantom", "data.phantom_images=20", "train.batch_size=4", "train.precision=fp32",
        "evaluate.overlays=0", "device=cpu", "train.warmup=0"]


def config(*overrides: str) -> RunConfig:
    return load_config(None, [*BASE, *overrides])


@pytest.mark.parametrize("method", ["gps", "full", "head", "bitfit"])
def test_every_method_goes_down_the_same_road_and_lowers_the_loss(method: str, tmp_path: Path) -> None:
    result = train(config(f"method={method}", "train.max_steps=20", "train.lr=3e-3"), tmp_path / "run", say=silent)
    losses = [row["loss"] for row in read_log(tmp_path / "run") if "loss" in row]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert result["run"]["method"] == method and result["run"]["steps"] == 20
    assert not (tmp_path / "run" / "last.safetensors").exists()  # a finished run is not resumed


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    settings = config("train.max_steps=40", "train.validate_every=2", "train.patience=2", "train.lr=1e-9")
    result = train(settings, tmp_path / "run", say=silent)
    assert result["run"]["stopped"] == "no better score in 2 validations"
    assert result["run"]["steps"] < 40
    scores = {row["step"]: row["validation_dice"] for row in read_log(tmp_path / "run") if "validation_dice" in row}
    assert scores[result["run"]["best_step"]] == max(scores.values())


def test_a_loss_that_is_not_a_number_ends_the_run_with_the_last_state_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config("train.max_steps=60", "train.lr=1e30", "train.optimizer=sgd", "train.clip=null", "train.checkpoint_every=1")
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+: the last good state is on disk; try a smaller"):
        train(settings, tmp_path / "run", say=silent)
    assert (tmp_path / "run" / "last.safetensors").is_file() and not (tmp_path / "run" / "result.json").exists()
    assert find_run(str(tmp_path / "run")) == tmp_path / "run"
    assert "its training has not ended, its best values so far are used" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_with_the_old_state_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder = tmp_path / "run"
    real, written = Path.open, []

    def full_after_two_states(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if "last.safetensors" in self.name and "w" in mode:
            written.append(self)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, mode, *more, **named)

    monkeypatch.setattr(Path, "open", full_after_two_states)
    with pytest.raises(WriteError, match=r"no space left for .*last.safetensors: what was written before is intact"):
        train(config("train.max_steps=9", "train.checkpoint_every=2"), run_folder, say=silent)
    monkeypatch.undo()
    _, metadata = read_tensors(run_folder / "last.safetensors", "state")
    assert json.loads(metadata["state"])["step"] == 4
    assert not list(run_folder.glob(".*.tmp"))


def test_the_whole_selection_pass_reads_the_training_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare(config(), silent)
    read: list[str] = []
    for batch in setup.task.selection_loader(setup.model, setup.splits.train, setup.config.selection):
        read += batch.ids
    assert sorted(read) == sorted(pair.id for pair in setup.splits.train)
    assert not set(read) & {pair.id for pair in (*setup.splits.inner, *setup.splits.test)}


def test_accumulating_a_step_in_pieces_gives_the_step_of_the_whole(tmp_path: Path) -> None:
    """The loss is a mean over images, so two pieces of two are one of four, up to rounding."""
    values = []
    for pieces in (1, 2):
        out = tmp_path / str(pieces)
        settings = config("train.max_steps=2", f"train.accumulate={pieces}", "train.optimizer=sgd", "train.lr=0.1",
                          "train.keep=last")
        train(settings, out, say=silent)
        values.append(read_tensors(out / "adapter_model.safetensors", "a delta")[0])
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_step_with_prompts_in_pieces_is_the_step_of_the_whole(tmp_path: Path) -> None:
    """What is drawn for an image depends on seed, step and its id, not on the piece it is in."""
    values = []
    for pieces in (1, 2):
        out = tmp_path / str(pieces)
        settings = config("train.max_steps=3", f"train.accumulate={pieces}", "train.optimizer=sgd", "train.lr=0.1", "seed=1",
                          "train.keep=last", "train.box_probability=0.4", "train.click_probability=0.6")
        train(settings, out, say=silent)
        values.append(read_tensors(out / "adapter_model.safetensors", "a delta")[0])
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=1e-4, atol=1e-5)


def test_pieces_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 images cannot be shared by 1 processes in 3 pieces each"):
        train(config("train.accumulate=3"), tmp_path / "run", say=silent)


def test_the_rate_warms_up_and_falls_to_its_end() -> None:
    settings = TrainConfig(lr=1.0, warmup=0.1, min_lr=0.01)  # type: ignore[call-arg]
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0.01 <= rates[-1] < 0.02


def test_half_precision_on_a_cpu_is_refused_and_auto_follows_the_hardware() -> None:
    with pytest.raises(TrainingError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", torch.device("cpu"))
    assert resolve_precision("auto", torch.device("cpu")) in ("fp32", "bf16")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_fall_towards_the_target_and_are_defined_on_empty_masks(name: str) -> None:
    loss, target = make_loss(name), torch.zeros(2, 1, 32, 32)
    target[0, :, 8:20, 8:20] = 1  # the second image has no foreground
    valid = torch.ones_like(target, dtype=torch.bool)
    values = [total(loss, sign * (target * 2 - 1) * 6, target, valid) for sign in (1, 0, -1)]
    assert values[0] < values[1] < values[2] and values[0] < 0.7
    logits = torch.zeros(2, 1, 32, 32, requires_grad=True)
    total(loss, logits, target, valid).backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LOSSES)
def test_padding_has_no_gradient_and_does_not_change_which_logits_are_better(name: str) -> None:
    loss, target, valid = make_loss(name), torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32, dtype=torch.bool)
    target[..., 4:12, 4:12] = 1
    valid[..., 20:, :] = False
    logits = torch.zeros(1, 1, 32, 32, requires_grad=True)
    total(loss, logits, target, valid).backward()
    assert logits.grad is not None and not logits.grad[..., 20:, :].any() and logits.grad[..., 4:12, 4:12].any()


# The Python interface


def loss_fn(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return (model(image).logits - 1).square().mean()  # type: ignore[no-any-return]


def test_the_python_interface_in_pefts_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sam, image = gps_seg.load_sam("tiny"), torch.randn(1, 3, 64, 64)
    base = fingerprint(sam)
    model = gps_seg.get_gps_model(sam, gps_seg.GPSConfig(k=2), [image], loss_fn)
    model.print_trainable_parameters()
    assert "trainable params: 67,520 || all params: 127,852 || trainable%: 52.8111" in capsys.readouterr().out
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    model.follow(optimizer)
    first = loss_fn(model, image)
    for _ in range(3):
        optimizer.zero_grad()
        loss_fn(model, image).backward()
        optimizer.step()
    tuned = loss_fn(model, image)
    assert tuned < first
    with model.disable_adapter():
        assert torch.equal(loss_fn(model, image), first)
    model.save_pretrained(tmp_path)
    again = GPSModel.from_pretrained(gps_seg.load_sam("tiny"), tmp_path)
    assert torch.equal(loss_fn(again, image), tuned)
    merged = again.merge_and_unload()
    assert torch.equal(loss_fn(merged, image), tuned)
    assert fingerprint(model.unload()) == base


def test_any_network_can_be_tuned_not_only_sam() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 2))
    model = get_gps_model(net, GPSConfig(), [torch.randn(8, 10)], lambda m, x: m(x).square().mean())  # type: ignore[call-arg]
    assert sum(parameter.numel() for parameter in model.trainable_parameters()) == 22 + 22


def test_a_gradient_score_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="the score 'gradient' needs dataloader and loss_fn"):
        get_gps_model(build_sam("tiny"))
    get_gps_model(build_sam("tiny"), GPSConfig(score="magnitude"))  # type: ignore[call-arg]


def test_a_mistake_found_before_training_leaves_no_folder_to_trip_over(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the name of a data set .*got 'phantoms'; did you mean 'phantom'"):
        train(config("data.name=phantoms", "data.phantom_images=200"), tmp_path / "run", say=silent)
    assert not (tmp_path / "run").exists()
    if importlib.util.find_spec("triton") is None:
        with pytest.raises(ConfigError, match="train.backend=triton: the package triton is not installed"):
            train(config("train.backend=triton"), tmp_path / "run", say=silent)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("overrides", "text"), [
    (["train.accumulate=3"], "4 images cannot be shared by 1 processes in 3 pieces each"),
    (["selection.include=['nothing*']"], "the pattern 'nothing[*]' matches no parameter"),
    (["method=vpt_deep"], "this encoder keeps its tokens on a grid"),
])
def test_a_mistake_that_the_model_or_the_method_finds_leaves_no_folder_either(
    overrides: list[str], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=text):
        train(config(*overrides), tmp_path / "run", say=silent)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_not_taken_for_a_run_to_resume(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run to resume, but other files"):
        train(config(), tmp_path, resume=True, say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_run_killed_while_it_wrote_its_settings_begins_again(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.1.tmp").write_text("half")
    assert train(config("train.max_steps=1"), tmp_path, resume=True, say=silent)["run"]["steps"] == 1


def test_the_prompt_of_a_run_is_the_prompt_of_its_evaluation(tmp_path: Path) -> None:
    result = train(config("train.max_steps=1", "evaluate.prompt=box"), tmp_path / "run", say=silent)
    again = evaluate_run(tmp_path / "run", device="cpu")
    assert again["settings"]["prompt"] == result["settings"]["prompt"] == "ground-truth box"
    assert again["per_image"] == result["per_image"]
    assert evaluate_run(tmp_path / "run", prompt="none", device="cpu")["settings"]["prompt"] == "none"


def test_the_final_protocol_trains_on_every_image_that_is_not_test_and_keeps_the_last_step(tmp_path: Path) -> None:
    setup = prepare(config("data.protocol=final", "data.inner_images=1"), silent)
    assert (len(setup.splits.train), len(setup.splits.inner), len(setup.splits.test)) == (16, 0, 4)
    result = train(config("data.protocol=final", "train.max_steps=2"), tmp_path / "run", say=silent)
    assert result["run"]["best_step"] == 2 and result["settings"]["data_protocol"] == "final"
    assert not [row for row in read_log(tmp_path / "run") if "validation_dice" in row]


def test_the_last_step_can_be_kept_although_another_was_better(tmp_path: Path) -> None:
    settings = ["train.max_steps=4", "train.validate_every=1", "train.lr=1e-9"]
    kept = {keep: train(config(*settings, f"train.keep={keep}"), tmp_path / keep, say=silent)["run"]["best_step"]
            for keep in ("best", "last")}
    scores = [row["validation_dice"] for row in read_log(tmp_path / "last") if "validation_dice" in row]
    assert kept == {"best": 1 + scores.index(max(scores)), "last": 4} and kept["best"] < 4


def test_k_is_chosen_by_short_trials_that_leave_the_base_as_it_was(tmp_path: Path) -> None:
    settings = ["train.max_steps=2", "selection.k=auto", "selection.auto_k=[1,2]", "selection.auto_steps=1"]
    found = train(config(*settings), tmp_path / "auto", say=silent)["run"]
    trials = found["k_trials"]
    assert [one["k"] for one in trials] == [1, 2] and all(0 <= one["score"] <= 1 for one in trials)
    best = max(trials, key=lambda one: (one["score"], -one["k"]))
    assert found["k"] == best["k"] and found["trainable"]["selected"] == best["selected"]
    train(config("train.max_steps=2", f"selection.k={best['k']}"), tmp_path / "given", say=silent)
    deltas = [read_tensors(tmp_path / name / "adapter_model.safetensors", "a delta")[0] for name in ("auto", "given")]
    assert deltas[0].keys() == deltas[1].keys() and all(torch.equal(deltas[0][name], deltas[1][name]) for name in deltas[0])
    with pytest.raises(ConfigError, match="selection.k=auto: data.protocol=released validates on the test images"):
        train(config(*settings, "data.protocol=released"), tmp_path / "released", say=silent)


def moved(settings: RunConfig, out: Path) -> dict[str, torch.Tensor]:
    """By how much each trained value differs from the base after the run."""
    train(settings, out, say=silent)
    base = build_sam("tiny").state_dict()
    values = read_tensors(out / "adapter_model.safetensors", "a delta")[0]
    chosen = {name.removesuffix(".gps_indices"): value.long() for name, value in values.items() if name.endswith(".gps_indices")}
    connections = {name: values[f"{name}.gps_values"] - base[name].flatten()[where] for name, where in chosen.items()}
    return connections | {name: value - base[name] for name, value in values.items() if ".gps_" not in name}


def test_connections_and_biases_have_rates_of_their_own(tmp_path: Path) -> None:
    once = ["selection.head=select", "train.optimizer=sgd", "train.momentum=0", "train.clip=null", "train.max_steps=1"]
    same = moved(config(*once, "train.lr=1e-2"), tmp_path / "same")
    apart = moved(config(*once, "train.lr=1e-2", "train.lr_selected=2e-2", "train.lr_bias=5e-3"), tmp_path / "apart")
    encoder, decoder = "image_encoder.blocks.0.attn.qkv", "mask_decoder.transformer.layers.0.self_attn.v_proj"
    rates = {f"{encoder}.weight": 2.0, f"{encoder}.bias": 0.5, f"{decoder}.weight": 2.0, f"{decoder}.bias": 1.0,
             "mask_decoder.mask_tokens.weight": 1.0}
    for name, rate in rates.items():
        assert same[name].abs().max() > 1e-6, name
        torch.testing.assert_close(apart[name], rate * same[name], rtol=1e-2, atol=2e-7)


def test_a_state_keeps_each_values_moments_whatever_its_rate(tmp_path: Path) -> None:
    settings = TrainConfig(lr=1e-3, lr_selected=2e-3)
    moments: list[dict[str, torch.Tensor]] = []
    for round_ in range(2):
        model = build_sam("tiny")
        attached = get_gps_model(model, GPSConfig(score="magnitude", head="select")).attached
        optimizer = make_optimizer(settings, rate_groups(attached, settings))
        assert [group["peak"] for group in optimizer.param_groups] == [2e-3, 1e-3]
        if round_ == 0:
            model(torch.randn(1, 3, 64, 64)).logits.square().mean().backward()
            optimizer.step()
            save_state(tmp_path / "state", TrainingState(), attached, optimizer, None)
        else:
            load_state(tmp_path / "state", attached, optimizer, None)
        moments.append({name: optimizer.state[value]["exp_avg"] for name, value in attached.trainable().items()
                        if value in optimizer.state})
    assert moments[0] and all(torch.equal(value, moments[1][name]) for name, value in moments[0].items())


@pytest.mark.parametrize(("settings", "words"), [
    (("train.lr_selected=1e-3", "method=head"), "train.lr_selected is not read here: nothing of its kind trains"),
    (("train.lr_bias=1e-3", "selection.bias=freeze"), "train.lr_bias is not read here: nothing of its kind trains"),
])
def test_a_rate_of_what_does_not_train_is_refused(settings: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        train(config(*settings, "train.max_steps=1"), tmp_path / "run", say=silent)
