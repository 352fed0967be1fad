"""Values that several tasks share: what trains, what is written, that each task is a run like any other, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from gps_seg.cli import app
from gps_seg.commands.evaluate import count_trained_on, evaluate_run
from gps_seg.commands.share import share_tasks
from gps_seg.commands.share_values import Sharing, share_values
from gps_seg.commands.train import train
from gps_seg.core.attach import Attached, attach
from gps_seg.core.overlap import size_of
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.core.together import Together
from gps_seg.data.batches import EpochBatches, TurnBatches
from gps_seg.errors import CheckpointError, ConfigError, TrainingError
from gps_seg.files.tensors import read_tensors
from gps_seg.methods.selection_file import load_selection, save_selection
from gps_seg.runs.device import make_accelerator
from gps_seg.runs.fit import fit
from gps_seg.runs.load import load_run
from gps_seg.runs.log import RunLog, read_log
from gps_seg.runs.select import make_selection
from gps_seg.runs.setup import prepare
from gps_seg.runs.task_model import make_task
from gps_seg.runs.turns import Turns
from support.commands import gps_seg
from support.settings import classification, silent

BASE = "model: {name: tiny, input_size: 64}\ndevice: cpu\n"
SMALL = ["data.few_shot=4", "selection.batch_size=8", "train.batch_size=8", "train.max_steps=6", "train.validate_every=3",
         "train.precision=fp32", "train.lr=1e-2", "train.checkpoint_every=2"]
TASKS = ("digits@0-4", "digits@5-9")
FILES = ("common.safetensors", *(f"{task}/{file}" for task in TASKS for file in (
    "adapter_model.safetensors", "adapter_config.json", "config.yaml", "selection.safetensors")))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    path.write_text(BASE)
    return path


@pytest.fixture(scope="module")
def selections(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selections") / "both"
    share_tasks(config, SMALL, TASKS, folder, say=silent)
    return folder


@pytest.fixture(scope="module")
def shared(config: Path, selections: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two halves of the digits, trained together; read by tests, changed by none."""
    out = tmp_path_factory.mktemp("shared") / "both"
    share_values(Sharing(config, SMALL, TASKS, selections=selections), out, say=silent)
    return out


def values(folder: Path) -> dict[str, Tensor]:
    """All that a run trained, by name."""
    return load_run(folder, device="cpu").attached.state()


def together(config: Path, selections: Path, out: Path, more: Sequence[str] = (), *, resume: bool = False) -> Path:
    share_values(Sharing(config, [*SMALL, *more], TASKS, selections=selections), out, resume=resume, say=silent)
    return out


def test_outside_the_common_and_the_own_part_every_value_stays_bit_for_bit(shared: Path, selections: Path) -> None:
    common = load_selection(selections / "common.safetensors")
    for task in TASKS:
        run = load_run(shared / task, device="cpu")
        base = make_task(run.config).model(run.classes)
        own = load_selection(selections / "rest" / f"{task}.safetensors")
        trained, moved = dict(run.model.named_parameters()), 0
        for name, weight in base.named_parameters():
            changed = (trained[name] != weight).flatten().nonzero()[:, 0]
            allowed = torch.cat([part.sparse.get(name, torch.zeros(0, dtype=torch.long)) for part in (common, own)])
            assert name in own.dense or torch.isin(changed, allowed).all(), name
            moved += len(changed) if name in common.sparse else 0
        assert moved > 0.5 * size_of(common)
        run.attached.unmerge()
        assert fingerprint(run.model) == fingerprint(base)


def test_common_values_are_the_same_bytes_for_all_tasks_and_own_ones_differ(shared: Path, selections: Path) -> None:
    common = load_selection(selections / "common.safetensors")
    one, other = (load_run(shared / task, device="cpu") for task in TASKS)
    for name, indices in common.sparse.items():
        first, second = (dict(run.model.named_parameters())[name].detach().flatten()[indices] for run in (one, other))
        assert torch.equal(first, second), name
    biases = [name for name, role in common.dense.items() if role == "bias"]
    assert biases and all(torch.equal(values(shared / TASKS[0])[name], values(shared / TASKS[1])[name]) for name in biases)
    assert not torch.equal(values(shared / TASKS[0])["head.weight"], values(shared / TASKS[1])["head.weight"])
    for task in TASKS:  # a task's delta holds nothing of the common part
        delta, _ = read_tensors(shared / task / "adapter_model.safetensors", "a delta")
        assert not set(biases) & set(delta) and "head.weight" in delta
        for name, indices in common.sparse.items():
            assert not torch.isin(delta.get(f"{name}.gps_indices", torch.zeros(0)), indices).any()


def test_a_task_is_a_run_like_any_other(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for task in TASKS:
        result = json.loads((shared / task / "result.json").read_text())
        document = evaluate_run(shared / task, split="inner", device="cpu")
        assert document["images"] == result["images"] and result["run"]["trained_with"] == list(TASKS)
    Image.fromarray(np.full((20, 20), 200, np.uint8)).save(tmp_path / "one.png")
    assert gps_seg(monkeypatch, "predict", shared / TASKS[1], tmp_path / "one.png", "--out", tmp_path / "out", "--device",
                   "cpu") == 0
    assert (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1].split(",")[1] in "56789"


def test_what_the_other_tasks_learned_from_counts_as_seen(config: Path, tmp_path: Path) -> None:
    from PIL import Image

    for part, number in (("train", 4), ("val", 2)):
        for label, color in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200), (90, 90, 20))):
            folder = tmp_path / "tree" / part / str(label)
            folder.mkdir(parents=True)
            for index in range(number):
                shade = tuple(value + index + 9 * (part == "val") for value in color)
                Image.new("RGB", (70, 70), shade).save(folder / f"{index}.png")
    settings = ["selection.score=magnitude", "train.batch_size=4", "train.max_steps=1", f"data.root={tmp_path / 'tree'}"]
    share_values(Sharing(config, settings, ("folder@0-1", "folder@2-3")), tmp_path / "out", say=silent)
    run = load_run(tmp_path / "out" / "folder@0-1", device="cpu")
    others = make_task(load_run(tmp_path / "out" / "folder@2-3", device="cpu").config).splits()
    assert count_trained_on(run, others.train) == len(others.train) > 0
    shutil.rmtree(tmp_path / "out" / "folder@2-3")
    assert count_trained_on(run, others.train) is None


def test_bytes_are_those_of_the_files(shared: Path) -> None:
    document = json.loads((shared / "result.json").read_text())
    sizes = [(shared / name).stat().st_size for name in FILES if name.endswith(("model.safetensors", "common.safetensors"))]
    assert document["bytes"] == sum(sizes) and document["common_bytes"] == sizes[0]
    assert set(document["tasks"]) == set(TASKS) and 0 <= document["tasks"][TASKS[0]]["accuracy"] <= 1


def test_the_same_seed_repeats_and_a_run_broken_off_goes_on_to_the_same_bytes(
    config: Path, selections: Path, shared: Path, tmp_path: Path
) -> None:
    whole = together(config, selections, tmp_path / "again")

    def interrupts(text: str) -> None:
        if text.startswith("step 3/6"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingError, match="interrupted at step 3 of 6"):
        share_values(Sharing(config, SMALL, TASKS, selections=selections), tmp_path / "broken", say=interrupts)
    assert not (tmp_path / "broken" / "common.safetensors").exists()
    broken = together(config, selections, tmp_path / "broken", resume=True)
    for name in FILES:
        assert (shared / name).read_bytes() == (whole / name).read_bytes() == (broken / name).read_bytes(), name
    assert read_log(whole) == read_log(broken)
    said: list[str] = []
    share_values(Sharing(config, SMALL, TASKS, selections=selections), broken, resume=True, say=said.append)
    assert said == [f"{broken} is finished; nothing to do"]
    (broken / "result.json").unlink()
    with pytest.raises(ConfigError, match="differs in train.lr: resume with the same settings"):
        together(config, selections, broken, ["train.lr=1e-3"], resume=True)


@pytest.mark.parametrize("more", [(), ("train.optimizer=sgd", "train.accumulate=2"), ("train.ema=0.5", "train.keep=last")])
def test_where_nothing_is_common_each_task_learns_bit_for_bit_what_it_learns_alone(
    config: Path, selections: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    configs = {task: classification(config, [*SMALL, "train.validate_every=6", *more, f"data.name={task}",
                                             f"selection.files=[{selections}/own/{task}.safetensors]"]) for task in TASKS}
    setups = {task: prepare(one, silent) for task, one in configs.items()}
    parts = {task: attach(setup.model, make_selection(setup, silent)) for task, setup in setups.items()}
    turns, settings = Turns(setups), configs[TASKS[0]].train
    nothing, pieces = Together(parts, Selection({}, {}, "nothing")), settings.model_copy(
        update={"accumulate": 2 * settings.accumulate})
    fit(turns.models(), nothing, turns, turns.loader(settings.accumulate), turns.validation(), config=pieces,
        accelerator=make_accelerator(torch.device("cpu"), "fp32"), log=RunLog(tmp_path, lambda *_: None, say=silent))
    for task, one in configs.items():
        train(one, tmp_path / task, say=silent)
        ours, alone = parts[task].state(), values(tmp_path / task)
        assert ours.keys() == alone.keys() and all(torch.equal(ours[name], alone[name]) for name in alone)


def test_the_gradient_of_a_common_value_is_the_sum_of_the_models() -> None:
    def layer() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3))

    models, image = {name: layer() for name in ("a", "b")}, torch.randn(5, 4)
    chosen = {"a": torch.tensor([0, 5]), "b": torch.tensor([5, 6, 11])}
    base = fingerprint(models["a"])
    parts = {name: attach(model, Selection({"0.weight": chosen[name]}, {"0.bias": "bias"}, base))
             for name, model in models.items()}
    both = Together(parts, Selection({"0.weight": torch.tensor([5])}, {"0.bias": "bias"}, base))
    assert {name: len(value) for name, value in both.trainable().items()} == {
        "common/0.weight": 1, "common/0.bias": 3, "a/0.weight": 1, "b/0.weight": 2}
    assert (both.role_of("common/0.bias"), both.role_of("a/0.weight")) == ("bias", None)
    models["a"](image).square().sum().backward()
    models["b"](image).sum().backward()
    both.gather()
    gradients = {}
    for name, loss in (("a", torch.square), ("b", torch.clone)):
        stock = layer()
        loss(stock(image)).sum().backward()
        gradients[name] = stock[0].weight.grad.flatten()  # type: ignore[union-attr]
    found = {name: value.grad for name, value in both.trainable().items()}
    torch.testing.assert_close(found["common/0.weight"], (gradients["a"] + gradients["b"])[[5]])
    torch.testing.assert_close(found["a/0.weight"], gradients["a"][[0]])
    torch.testing.assert_close(found["b/0.weight"], gradients["b"][[6, 11]])
    with pytest.raises(CheckpointError, match=r"does not fit: missing \['a/0.weight'\]"):
        both.load({name: value for name, value in both.state().items() if name != "a/0.weight"})


def test_a_part_that_lacks_the_common_part_or_has_another_base_is_refused() -> None:
    def part(index: int, shift: float = 0.0) -> Attached:
        model = nn.Sequential(nn.Linear(2, 2))
        nn.init.constant_(model[0].weight, shift)
        return attach(model, Selection({"0.weight": torch.tensor([index])}, {}, ""))

    common = Selection({"0.weight": torch.tensor([1])}, {}, "")
    with pytest.raises(CheckpointError, match="b: expected a selection that holds the common part, it lacks some of 0.weight"):
        Together({"a": part(1), "b": part(2)}, common)
    with pytest.raises(CheckpointError, match="it lacks 1.weight"):
        Together({"a": part(1)}, Selection({"1.weight": torch.tensor([1])}, {}, ""))
    with pytest.raises(CheckpointError, match="b: 0.weight begins with other values.*expected one base"):
        Together({"a": part(1), "b": part(1, 0.5)}, common)


def test_a_set_goes_on_with_its_next_epoch_while_a_longer_one_is_in_its_first() -> None:
    orders = [EpochBatches(n, 2, 3, shuffle=True) for n in (8, 4)]
    batches = TurnBatches(orders, 1)
    first = list(batches)
    assert [turn[0].place for turn in first] == [0, 1] * 4 and [turn[0].epoch for turn in first] == [0, 0, 0, 0, 0, 1, 0, 1]
    for place, n, epochs in ((0, 8, 1), (1, 4, 2)):
        alone = EpochBatches(n, 2, 3, shuffle=True)
        expected = []
        for epoch in range(epochs):
            alone.set_epoch(epoch)
            expected += list(alone)
        assert [[one.image for one in turn] for turn in first if turn[0].place == place] == expected
    batches.skip = 3
    assert list(batches) == first[3:]


def test_the_common_part_alone_is_trained_without_rests_and_stored_once(config: Path, tmp_path: Path,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    app(["share-values", str(config), *SMALL, "selection.score=magnitude", "--tasks", ",".join((*TASKS, "digits@0-1")),
         "--no-rests", "--out", str(tmp_path / "out")], standalone_mode=False)
    assert "| digits@0-1 |" in capsys.readouterr().out
    common = load_selection(tmp_path / "out" / "selections" / "common.safetensors")
    for task in (*TASKS, "digits@0-1"):
        delta, _ = read_tensors(tmp_path / "out" / task / "adapter_model.safetensors", "a delta")
        assert {name.partition(".")[0] for name in delta} == {"head", "norm"}
        assert size_of(load_run(tmp_path / "out" / task, device="cpu").attached.selection) == size_of(common)
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["bytes"] < document["bytes_apart"]
    stored = json.loads((tmp_path / "out" / "selections" / "shared.json").read_text())["bytes_with_shared_values"]
    assert list(stored) == ["2"] and stored["2"]["apart"] == 2 * stored["2"]["common_alone"]  # all choose alike


def test_common_values_that_are_gone_or_others_are_one_line(shared: Path, tmp_path: Path) -> None:
    task = TASKS[0]
    shutil.copytree(shared / task, tmp_path / "run")
    with pytest.raises(CheckpointError, match="expected the values that it shares with other tasks, common.safetensors with "
                                              "sha256 [0-9a-f]{16}.*found none: put the file there"):
        load_run(tmp_path / "run", device="cpu")
    (tmp_path / "common.safetensors").write_bytes(b"else")
    with pytest.raises(CheckpointError, match="found another one at .*common.safetensors"):
        load_run(tmp_path / "run", device="cpu")
    shutil.copy(shared / "common.safetensors", tmp_path / "run")  # in the folder itself it is found, too
    assert values(tmp_path / "run").keys() == values(shared / task).keys()
    file = tmp_path / "run" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"common": {"file": "../common.safetensors", "sha256": ""}}))
    with pytest.raises(CheckpointError, match="'common' of adapter_config.json is wrong: the file was edited or damaged"):
        load_run(tmp_path / "run", device="cpu")


@pytest.mark.parametrize(("texts", "tasks", "match"), [
    (("", ""), ["digits@0-4"], "--tasks: expected at least two different data sets.*got digits@0-4"),
    (("", "model: {name: tiny_lite, input_size: 64}"), TASKS, "digits@5-9 differs from digits@0-4 in model.name: tasks that "
     "train together need one base"),
    (("", "train: {lr: 0.5, batch_size: 4}"), TASKS, "digits@5-9 differs from digits@0-4 in train.lr: "),
    (("", "selection: {head: freeze}"), TASKS, "digits@0-4 and digits@5-9 train heads of different kinds, head.bias, "
     "head.weight"),
    (("", "selection: {bias: freeze}"), TASKS, "train different parameters as a whole, sam.image_encoder"),
    (("train: {start: runs/other}",) * 2, TASKS, "train.start is not read where tasks train together"),
])
def test_tasks_that_do_not_go_together_are_one_line(
    tmp_path: Path, texts: tuple[str, str], tasks: Sequence[str], match: str
) -> None:
    for task, text in zip(TASKS, texts, strict=True):
        settings = yaml.safe_load(BASE) | {"data": {"few_shot": 2}, "selection": {"score": "magnitude"},
                                           "train": {"batch_size": 8}}
        for key, value in (yaml.safe_load(text) or {}).items():
            settings[key] = settings.get(key, {}) | value
        (tmp_path / f"of_{task}.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=match):
        share_values(Sharing(tmp_path / "of_{data}.yaml", ["train.precision=fp32"], tasks), tmp_path / "out", say=silent)
    assert not (tmp_path / "out" / TASKS[0]).exists()


def test_nothing_in_common_and_foreign_folders_are_one_line(config: Path, selections: Path, tmp_path: Path) -> None:
    shutil.copytree(selections, tmp_path / "apart")
    common = load_selection(selections / "common.safetensors")
    save_selection(tmp_path / "apart" / "common.safetensors", replace(common, sparse={}))
    with pytest.raises(ConfigError, match="digits@0-4, digits@5-9 have no connection in common: lower --least"):
        share_values(Sharing(config, SMALL, TASKS, selections=tmp_path / "apart"), tmp_path / "out", say=silent)
    with pytest.raises(ConfigError, match="--selections brings connections along: leave out --least"):
        share_values(Sharing(config, SMALL, TASKS, 0.5, selections), tmp_path / "out", say=silent)
    with pytest.raises(ConfigError, match="is not empty: choose another --out"):
        share_values(Sharing(config, SMALL, TASKS, selections=selections), tmp_path, say=silent)
    with pytest.raises(ConfigError, match="holds nothing to resume, but other files"):
        share_values(Sharing(config, SMALL, TASKS, selections=selections), tmp_path, resume=True, say=silent)
    assert not (tmp_path / "out").exists()


def test_the_study_trains_all_kinds_and_says_what_sharing_costs_and_saves(tmp_path: Path, config: Path,
                                                                           capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["data.few_shot=2", "data.test_images=20", "data.inner_images=10", "selection.batch_size=8", "train.batch_size=8",
                "train.max_steps=1", "train.precision=fp32", "selection.score=magnitude"]
    order = ["study", "shared-values", str(config), *settings, "--tasks", ",".join(TASKS), "--rates", "1e-3,1e-2,1e-1", "--out",
             str(tmp_path / "out")]
    app(order, standalone_mode=False)
    text, found = capsys.readouterr().out, json.loads((tmp_path / "out" / "shared_values.json").read_text())
    assert "## digits@5-9, 20 test images, 1 steps" in text and "| shared, common alone | " in text
    rows = found["tasks"][TASKS[0]]["rows"]
    assert list(rows) == ["own", "shared with rests", "shared, common alone"] and "p" in rows["shared with rests"]
    assert found["bytes"]["own"] > found["bytes"]["shared, common alone"]
    for kind, scores in found["validation"].items():
        best = max(scores.values())
        row = found["tasks"][kind]["rows"]["own"] if kind in TASKS else rows[kind]
        assert scores[f"{row['rate']:g}"] == best and (row["place"] == "lower edge") == (row["rate"] == 1e-3)
    assert ("lies on the lower edge of its grid" in text) == any(
        row["place"] == "lower edge" for task in found["tasks"].values() for row in task["rows"].values())
    before = (tmp_path / "out" / "shared_values.json").read_bytes()
    app(order, standalone_mode=False)  # what is finished is not run again
    assert (tmp_path / "out" / "shared_values.json").read_bytes() == before and "training images" not in capsys.readouterr().out


@pytest.mark.parametrize(("options", "text"), [
    (("--rates", "1e-3"), "--rates: expected at least 2 different numbers, got 0.001"),
    (("--rates", "1e-3,x"), "--rates: expected numbers such as 1.0,2.0, got '1e-3,x'"),
    (("--rates", "1e-3,1e-2", "--seeds", "1,1"), "--seeds: expected at least 1 different numbers, got 1, 1"),
])
def test_a_study_without_a_choice_is_one_line(tmp_path: Path, config: Path, options: Sequence[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        app(["study", "shared-values", str(config), "--tasks", ",".join(TASKS), "--out", str(tmp_path / "out"), *options],
            standalone_mode=False)
    assert not (tmp_path / "out").exists()
