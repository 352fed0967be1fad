"""One selection for several tasks: what is written, what the report says, and that runs train with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gps_seg.cli import app
from gps_seg.commands.select import task_of
from gps_seg.commands.share import share_tasks
from gps_seg.commands.train import train
from gps_seg.core.overlap import ENCODER, check_same_base, size_of
from gps_seg.core.selection import Selection
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files.tensors import read_tensors
from gps_seg.methods.selection_file import load_selection
from support.settings import classification, silent

CONFIG = Path(__file__).parents[2] / "configs" / "classification" / "small_efficientnet.yaml"
SMALL = ["model.name=tiny", "data.few_shot=2", "data.check_counts=false", "selection.batch_size=8", "train.batch_size=8",
         "train.max_steps=1", "train.precision=fp32", "device=cpu"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes of plain colors, three training images and one test image each."""
    from PIL import Image

    for part, number, shade in (("train", 3, 0), ("test", 1, 9)):
        for name, color in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
            folder = tmp_path / "tree" / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (70, 70), tuple(value + index + shade for value in color)).save(folder / f"{index}.png")
    return tmp_path / "tree"


def test_tasks_share_a_selection_that_classify_trains_with(tmp_path: Path, tree: Path) -> None:
    said: list[str] = []
    overrides = [*SMALL, f"data.root={tree}"]
    document = share_tasks(CONFIG, overrides, ["digits", "folder"], tmp_path / "shared", least=1.0, say=said.append)
    assert json.loads((tmp_path / "shared" / "shared.json").read_text()) == document
    common = load_selection(tmp_path / "shared" / "common.safetensors")
    for task, row in document["tasks"].items():
        own, rest = (load_selection(tmp_path / "shared" / part / f"{task}.safetensors") for part in ("own", "rest"))
        assert row["own"] == size_of(own) and row["trained"] == size_of(common) + size_of(rest)
        assert row["connections_kept"] == pytest.approx(size_of(common) / size_of(own)) and row["not_chosen"] == 0
        assert 0 < row["mass_kept"] <= 1
    sizes = document["connections"]
    assert sizes["apart"] == 2 * sizes["common"] + sizes["rest"]
    stored = document["delta_bytes"]
    assert stored["apart"] == 8 * sizes["apart"] and stored["common_alone"] == 12 * sizes["common"]
    files = f"[{tmp_path}/shared/common.safetensors,{tmp_path}/shared/rest/folder.safetensors]"
    assert f"data.name=digits selection.files=[{tmp_path / 'shared' / 'common.safetensors'}" in said[-1]
    settings = classification(CONFIG, [*overrides, "data.name=folder", f"selection.files={files}"])
    run = train(settings, tmp_path / "run", say=silent)
    assert run["run"]["trainable"]["selected"] == document["tasks"]["folder"]["trained"]
    tensors, _ = read_tensors(tmp_path / "run" / "adapter_model.safetensors", "a delta")
    assert tensors["head.weight"].shape[0] == 3
    with pytest.raises(CheckpointError, match="selection.files: .*common.safetensors is of other encoder weights.*model.name"):
        train(classification(CONFIG, [*overrides, "data.name=folder", "model.name=tiny_lite",
                                                    f"selection.files={files}"]), tmp_path / "other", say=silent)


def test_the_common_part_has_one_tasks_size_and_keeps_most_of_all_scores(tmp_path: Path, tree: Path) -> None:
    document = share_tasks(CONFIG, [*SMALL, f"data.root={tree}"], ["digits", "folder"], tmp_path / "shared", say=silent)
    parts = {path.stem: load_selection(path) for path in (tmp_path / "shared" / "own").iterdir()}
    common = load_selection(tmp_path / "shared" / "common.safetensors")
    assert size_of(common) == size_of(parts["digits"]) == document["connections"]["common"]
    kept = [row["mass_kept"] for row in document["tasks"].values()]
    for task, row in document["tasks"].items():
        assert row["connections_kept"] < row["mass_kept"] < 1 and row["not_chosen"] == row["rest"] > 0
        assert set(common.sparse) == set(parts[task].sparse)
    assert sum(kept) > 1  # a task's own selection alone keeps 1 of its own and something of the other's


def test_the_command_shares_a_selection(tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["select", str(CONFIG), *SMALL, f"data.root={tree}", "selection.score=magnitude", "--tasks", "digits,folder", "--out",
         str(tmp_path / "shared")], standalone_mode=False)
    text = capsys.readouterr().out
    assert "100.0%" in text and "with the common part alone" in text  # weights alone decide, so both tasks choose the same


@pytest.mark.parametrize("own_files", [False, True])
def test_each_task_selects_its_own_k_and_the_common_part_has_the_smallest(tmp_path: Path, tree: Path, own_files: bool) -> None:
    overrides = [*SMALL, f"data.root={tree}", "selection.score=magnitude"]  # weights alone decide, which takes no pass
    config, tasks = CONFIG, ["digits=3", "folder=2"]
    if own_files:
        config, tasks = tmp_path / "of_{data}.yaml", ["digits", "folder"]
        for task, k in (("digits", 3), ("folder", 2)):
            (tmp_path / f"of_{task}.yaml").write_text(f"model: {{input_size: 64}}\nselection: {{k: {k}}}\n")
    document = share_tasks(config, overrides, tasks, tmp_path / "shared", say=silent)
    own = {task: load_selection(tmp_path / "shared" / "own" / f"{task}.safetensors") for task in ("digits", "folder")}
    assert {task: (row["k"], row["own"]) for task, row in document["tasks"].items()} == {
        task: (int(selection.meta["k"]), size_of(selection)) for task, selection in own.items()}
    assert own["digits"].meta["k"] == "3" and own["folder"].meta["k"] == "2"
    assert document["connections"]["common"] == size_of(own["folder"]) < size_of(own["digits"])
    assert document["tasks"]["folder"]["rest"] == 0 == document["tasks"]["digits"]["not_chosen"]


def test_settings_of_a_classifier_need_no_task_to_be_selected_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text("data: {name: digits, few_shot: 2}\nmodel: {name: tiny, input_size: 64}\nselection: {score: magnitude}\n")
    out = tmp_path / "digits.safetensors"
    app(["select", str(path), "device=cpu", "selection.k=2", "--out", str(out)], standalone_mode=False)
    assert "gps: " in capsys.readouterr().out
    selection = load_selection(tmp_path / "digits.safetensors")
    assert selection.meta["k"] == "2" and {"head.weight", "head.bias"} <= set(selection.dense)


@pytest.mark.parametrize(("text", "overrides", "task"), [
    ("data: {name: digits}", (), "classification"), ("method: gps", ("data.name=vtab_dtd",), "classification"),
    ("data: {name: kvasir-seg}", (), "segmentation"), ("data: {name: folder}", (), "segmentation"),
    ("task: classification\ndata: {name: folder}", (), "classification"), ("", ("task=classification",), "classification"),
    ("data: 3", (), "segmentation"), ("task: segmentation\ndata: {name: digits}", (), "segmentation"),
])
def test_the_task_is_what_settings_name_or_what_their_data_set_is_of(
    tmp_path: Path, text: str, overrides: tuple[str, ...], task: str
) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert task_of(tmp_path / "settings.yaml", overrides) == task


def test_few_or_unfit_tasks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tasks: expected at least two different data sets.*got digits"):
        share_tasks(CONFIG, SMALL, ["digits"], tmp_path / "shared")
    with pytest.raises(ConfigError, match="--tasks: expected task=classification method=gps.*method=lora"):
        share_tasks(CONFIG, ["device=cpu", "method=lora"], ["digits", "folder"], tmp_path / "shared")
    with pytest.raises(ConfigError, match="selection.k: input should be a whole number from 1, or auto"):
        share_tasks(CONFIG, SMALL, ["digits=many", "folder"], tmp_path / "shared")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty: choose another --out"):
        share_tasks(CONFIG, SMALL, ["digits", "folder"], tmp_path / "full")
    assert not (tmp_path / "shared").exists()


def test_selections_of_one_encoder_with_different_heads_can_be_compared() -> None:
    sparse = {"encoder.weight": torch.tensor([0])}
    one, two = (Selection(sparse, {}, base, {ENCODER: "same"}) for base in ("head of 10", "head of 3"))
    check_same_base({"one": one, "two": two})
    with pytest.raises(CheckpointError, match="different base weights"):
        check_same_base({"one": one, "old": Selection(sparse, {}, "head of 3")})
