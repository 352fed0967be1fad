"""A comparison: cells run once, failures are recorded, each method has its own rate, tables and pictures are written."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from PIL import Image

from gps_seg.commands.compare.cells import best_cell, final_cells, run_cells, tuning_cells
from gps_seg.commands.compare.costs import costs, costs_table
from gps_seg.commands.compare.markdown import markdown
from gps_seg.commands.compare.report import values
from gps_seg.commands.compare.run import run_comparison
from gps_seg.commands.compare.settings import load_comparison
from gps_seg.config import RunConfig, dump_config
from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.lookup import COMPARED
from gps_seg.tasks.segmentation.phantom import phantom

LR = (("train.lr", 1e-3),)
BASE = {
    "model": {"name": "tiny"}, "data": {"name": "phantom", "phantom_images": 12}, "selection": {"batch_size": 4},
    "train": {"max_steps": 3, "batch_size": 2, "precision": "fp32", "validate_every": 3}, "evaluate": {"overlays": 0},
}


def write(folder: Path, **values: object) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", **values}))
    return path


def test_a_comparison_runs_scores_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))
    methods = {"gps": {}, "decoder only": {"method": "head"}, "vpt_deep": {}}
    path = write(tmp_path, methods=methods, seeds=[0], learning_rates=[1e-3], reference="gps",
                 columns={"gps": {"test part": 0.881}})
    said: list[str] = []
    found = run_comparison(path, tmp_path / "out", ["cpu", "cpu"], said.append)
    rows = {row["method"]: row for row in found["data"]["test part"]["rows"]}
    assert set(rows) == {"gps", "decoder only"} and all(0 <= row["score"] <= 1 for row in rows.values())
    assert rows["gps"]["selected"] > 0 == rows["decoder only"]["selected"] and rows["decoder only"]["head"] == rows["gps"]["head"]
    assert rows["gps"]["rate"] == 1e-3 and "p" in rows["decoder only"] and rows["gps"]["delta_bytes"] > 1000
    assert "keeps its tokens on a grid" in found["failed"]["vpt_deep, seed 0, lr 0.001"]
    result = json.loads((tmp_path / "out" / "runs" / "gps-seed0-lr0.001" / "result.json").read_text())
    assert result["settings"]["split"] == "inner"  # the test part was not read in training
    tuning = found["tuning"]["phantom"]
    assert tuning["gps"] == {"0.001": result["run"]["best_inner_dice"]} and tuning["vpt_deep"] == {"0.001": None}
    (revision,) = found["provenance"]["revision"] or [""]
    assert len(revision) in (0, 40, 41) and found["provenance"]["precision"] == ["fp32"]
    assert found["provenance"]["hardware"] and found["provenance"]["versions"][0]["torch"]
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| decoder only |" in text and "| published |" in text and "0.8810" in text and "failed: vpt_deep" in text
    assert "against gps; Holm over all pairs of methods, 1." in text and "the test part was read by the scoring alone" in text
    with Image.open(tmp_path / "out" / "test_part.png") as picture:
        assert picture.width > 800
    (score,) = (tmp_path / "out" / "scores").glob("*/gps-seed0-lr0.001.json")
    score.unlink()  # as if killed before it was written
    said.clear()
    again = run_comparison(path, tmp_path / "out", ["cpu"], said.append)
    dices = {row["method"]: row["score"] for row in again["data"]["test part"]["rows"]}
    assert dices == {name: row["score"] for name, row in rows.items()}
    assert [line for line in said if "failed" not in line] == ["training vpt_deep, seed 0, lr 0.001 on cpu",
                                                               "scoring gps, seed 0, lr 0.001 on test part"]


def test_a_method_that_trains_nothing_is_scored_once_whatever_the_rates_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path, methods={"untuned": {"method": "none"}, "head": {}}, seeds=[0, 1], learning_rates=[1e-3])
    found = run_comparison(path, tmp_path / "out", ["cpu"], lambda _: None)
    rows = {row["method"]: row for row in found["data"]["test part"]["rows"]}
    assert not found["failed"] and set(rows) == {"untuned", "head"}
    assert (len(rows["untuned"]["score_by_seed"]), len(rows["head"]["score_by_seed"])) == (1, 2)
    assert rows["untuned"]["rate"] is None and rows["untuned"]["head"] == rows["untuned"]["encoder"] == 0
    assert [folder.name for folder in (tmp_path / "out" / "runs").glob("untuned*") if folder.is_dir()] == ["untuned-seed0"]
    run = tmp_path / "out" / "runs" / "untuned-seed0"
    result = json.loads((run / "result.json").read_text())["run"]
    assert (result["steps"], result["stopped"]) == (0, "nothing trains") and not (run / "training.png").exists()
    again = load_comparison(path, ["train.quality=true"])  # then it trains the quality head, by a rate
    assert again.grid("untuned") == {"train.lr": (1e-3,)} and again.seeds("untuned", "") == (0, 1)


def test_the_rate_with_the_best_inner_validation_is_chosen_and_failed_cells_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"gps": {}}, learning_rates=[1e-4, 1e-3, 1e-2, 1e-1])
    cells = tuning_cells(load_comparison(path), tmp_path, "gps", "")
    assert best_cell(cells, "dice") is None
    for cell, dice in zip(cells[:3], (0.5, 0.7, 0.7), strict=True):
        cell.folder.mkdir(parents=True)
        (cell.folder / "result.json").write_text(json.dumps({"run": {"best_inner_dice": dice}}))
    assert best_cell(cells, "dice") is cells[1]
    (cells[2].folder / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"result.json holds no score: remove that folder to run it again"):
        best_cell(cells, "dice")


def test_a_cells_settings_are_the_base_the_shared_ones_and_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"random": {"method": "gps", "selection.score": "random"}, "full": {}, "linear": {}},
                 settings={"train.max_steps": 7, "selection.max_images": 3}, learning_rates=[1e-4])
    comparison = load_comparison(path, ["train.batch_size=1"])
    random, full, linear = (tuning_cells(comparison, tmp_path, method, "")[0].config for method in ("random", "full", "linear"))
    assert (random.method, random.selection.score, random.selection.batch_size, random.selection.max_images) == (
        "gps", "random", 4, 3)
    assert full.method == "full" and not full.selection.model_dump() and linear.method == "head"  # gps's own is left out
    assert random.train == full.train and (full.train.lr, full.train.max_steps, full.train.batch_size) == (1e-4, 7, 1)
    assert [cell.config.seed for cell in final_cells(comparison, tmp_path, "full", "", (("train.lr", 1e-4),))] == [0, 1, 2]


@pytest.mark.parametrize(("task", "base", "tuning", "final"), [
    ("segmentation", {}, ("tune", "best"), ("tune", "best")), ("classification", {}, ("tune", "last"), ("final", "best")),
    ("segmentation", {"protocol": "released"}, ("released", "best"), ("released", "best")),
    ("segmentation", {"protocol": "honest"}, ("tune", "best"), ("tune", "best")),
    ("segmentation", {"protocol": "final"}, ("tune", "last"), ("final", "best")),
    ("classification", {"protocol": "tune"}, ("tune", "best"), ("tune", "best")),
])
def test_rates_are_judged_on_the_step_that_the_final_runs_keep(
    tmp_path: Path, task: str, base: dict[str, str], tuning: tuple[str, str], final: tuple[str, str]
) -> None:
    path = write(tmp_path, methods={"head": {}}, learning_rates=[1e-3], data=["digits"] if task == "classification" else [])
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"task": task, "data": base}))
    comparison = load_comparison(path)
    (rate,), (first, *_) = (cells(comparison, tmp_path, "head", comparison.trained[0], *more)
                            for cells, more in ((tuning_cells, ()), (final_cells, (LR,))))
    assert [(cell.config.data.protocol, cell.config.train.keep) for cell in (rate, first)] == [tuning, final]
    assert (rate == first) == (tuning == final)  # then the tuned cell is the final one of its seed


@pytest.mark.parametrize(("values", "text"), [
    ({"methods": {"gps": {"train.lrr": 1}}}, "unknown key 'train.lrr', did you mean 'train.lr'"),
    ({"methods": {"gpss": {}}}, "method: "), ({"methods": {}}, "methods: "),
    ({"seed": 1}, "unknown key 'seed', did you mean 'seeds'"),
    ({"methods": {"gps": {}}, "reference": "full"}, "reference: expected one of gps, got 'full'"),
    ({"methods": {"gps": {}, "full": {}}, "settings": {"selection.rank": 2}}, "selection.rank: an option of method lora"),
    ({"methods": {"gps": {}}, "settings": {"seed": 2}}, "settings: seed is what seeds decides: leave it out here"),
    ({"methods": {"gps": {"device": "cpu"}}}, "methods: gps: device is what --devices decides"),
    ({"methods": {"gps": {}}, "settings": {"method": "full"}}, "settings: method is what methods decides"),
    ({"methods": {"gps": {}}, "task": "classification", "data": ["digits"]}, r"method gps: .*base\.yaml: "),
])
def test_a_wrong_comparison_is_refused_before_anything_runs(tmp_path: Path, values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_comparison(write(tmp_path, **values))
    with pytest.raises(ConfigError, match="expected a comparison with base and methods"):
        load_comparison(tmp_path / "base.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration .*missing.yaml"):
        load_comparison(tmp_path / "missing.yaml")


def test_an_empty_comparison_still_gives_a_table() -> None:
    text = markdown({"name": "x", "task": "segmentation", "data": {"own": {"reference": "gps", "rows": [], "pairs": []}},
                     "means": {}, "costs": [], "learning_rates": [], "failed": {"gps": "no memory"}})
    assert "## own\n\nNo scores; why stands below." in text and "failed: gps: no memory" in text


def test_a_comparison_of_classifiers_tunes_on_validation_and_reads_the_test_part_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({
        "task": "classification", "model": {"name": "tiny", "input_size": 64}, "data": {"few_shot": 1},
        "selection": {"batch_size": 5}, "train": {"max_steps": 1, "batch_size": 5, "precision": "fp32"},
    }))
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "data": ["digits"], "seeds": [0], "learning_rates": [1e-3],
                                    "methods": {"a linear": {"method": "head"}, "gps": {}}}))
    found = run_comparison(path, tmp_path / "out", ["cpu", "cpu"], lambda text: None)
    rows = {row["method"]: row for row in found["data"]["digits"]["rows"]}
    assert rows["a linear"]["encoder"] == 0 < rows["gps"]["encoder"] and "p" in rows["gps"] and not found["failed"]
    results = {folder.name.split("-")[2]: json.loads((folder / "result.json").read_text())
               for folder in (tmp_path / "out" / "runs").iterdir() if folder.is_dir() and "linear" in folder.name}
    assert {phase: result["part"] for phase, result in results.items()} == {"tune": "validation", "final": "test"}
    assert rows["a linear"]["score"] == pytest.approx(results["final"]["accuracy"])
    assert found["tuning"]["digits"]["a linear"] == {"0.001": results["tune"]["accuracy"]}
    assert not (tmp_path / "out" / "scores").exists()
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| a linear |" in text and "those that peak early do not win" in text
    assert (tmp_path / "out" / "digits.png").is_file()
    costs = {row["method"]: row for row in found["costs"]}
    assert costs["a linear"]["percent"] == 0 < costs["gps"]["percent"] and costs["gps"]["score"] == rows["gps"]["score"]
    final = results["final"]["run"]
    assert costs["a linear"]["train_s"] == pytest.approx(final["selection_s"] + final["step_s"])  # of a single step
    assert "## What the score costs, mean over 1 data set" in text
    with Image.open(tmp_path / "out" / "accuracy_against_cost.png") as picture:
        assert picture.width > 800
    path.write_text(yaml.safe_dump({"base": "base.yaml", "methods": {"gps": {}}}))
    with pytest.raises(ConfigError, match="expected the names of classification data sets"):
        load_comparison(path)


def test_what_a_score_costs_is_a_mean_over_the_data_sets_of_methods_that_have_all() -> None:
    cost = {"encoder": 50, "parameters": 1000, "step_s": 0.5, "train_s": 10.0, "peak_memory_bytes": 2e9}
    dear = cost | {"encoder": 100, "train_s": 30.0, "peak_memory_bytes": 3e9}
    tables = {"a": {"rows": [{"method": "gps", "score": 0.5, **cost}, {"method": "full", "score": 0.9, **cost}]},
              "b": {"rows": [{"method": "gps", "score": 0.7, **dear}]}}
    (row,) = costs(tables)
    assert row == {"method": "gps", "score": pytest.approx(0.6), "encoder": 75, "step_s": 0.5, "train_s": 20.0, "percent": 7.5,
                   "peak_memory_bytes": 3e9}
    assert costs_table([row], "accuracy", 2)[4] == "| gps | 0.6000 | 75 | 7.500 | 20 | 0.500 | 3.00 |"
    assert costs({}) == [] == costs_table([], "accuracy", 0)


def test_a_finished_cell_of_other_settings_is_not_reused(tmp_path: Path) -> None:
    cell, = final_cells(load_comparison(write(tmp_path, methods={"gps": {}}, seeds=[0])), tmp_path, "gps", "", ())
    cell.folder.mkdir(parents=True)
    (cell.folder / "result.json").write_text("{}")

    def left_by(config: RunConfig) -> None:
        (cell.folder / "config.yaml").write_text(dump_config(config))

    left_by(cell.config.model_copy(update={"device": "cpu"}))
    run_cells([cell], ["cpu"], lambda text: None)  # the same settings: nothing to do
    left_by(cell.config.model_copy(update={"train": cell.config.train.model_copy(update={"max_steps": 99})}))
    with pytest.raises(ConfigError, match="other settings than gps, seed 0 has now, train.max_steps: choose another --out"):
        run_cells([cell], ["cpu"], lambda text: None)
    with pytest.raises(ConfigError, match="--devices: expected cpu, cuda or cuda:NUMBER, got 'gpu'"):
        run_cells([cell], ["gpu"], lambda text: None)


def test_a_weight_file_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"gps": {}}, settings={"model.checkpoint": "missing.pth"})
    with pytest.raises(ConfigError, match="model.checkpoint: expected a weight file at missing.pth, found none"):
        run_comparison(path, tmp_path / "out", ["cpu"])
    assert not (tmp_path / "out").exists()


def test_scores_of_other_images_do_not_stand_in_one_table() -> None:
    first, other = ({"images": [{"id": id_, "label": 0, "predicted": 0}]} for id_ in "ab")
    with pytest.raises(DataError, match="full: its scores are not of the 1 images of the first method's"):
        values(COMPARED["classification"], {"gps": [first], "full": [first, other]})


def test_two_comparisons_do_not_work_in_one_folder(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"head": {}}, seeds=[0])
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ConfigError, match="another gps-seg compare is at work there"):
        run_comparison(path, tmp_path / "out", ["cpu"], lambda _: None)
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(("values", "text"), [
    ({"learning_rates": [-1.0]}, "train.lr: input should be greater than 0"), ({"blocks": ["bogus"]}, "--blocks: expected"),
    ({"seeds": [0, 0]}, "seeds: expected different numbers"),
    ({"learning_rates": [0.001, 1.0e-3]}, "learning_rates: expected different numbers"),
    ({"columns": {"hed": {"paper": 0.8}}}, "columns: expected one of gps, got 'hed'"),
    ({"groups": {"a": ["b"]}}, "groups: a: expected one of test part, got 'b'"),
    ({"columns": {"gps": {"mean Dice": 0.8}}}, "columns: gps: expected one of test part, mean, mean of groups, got 'mean Dice'"),
    ({"methods": {"../up": {}}}, "methods: '../up' cannot be a file's name"),
])
def test_rates_blocks_and_seeds_are_checked_before_anything_runs(tmp_path: Path, values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_comparison(write(tmp_path, **({"methods": {"gps": {}}} | values)))


def test_an_interrupted_comparison_says_how_to_go_on_and_begins_nothing_more(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"gps": {}, "full": {}, "bitfit": {}}, seeds=[0])
    command = [sys.executable, "-m", "gps_seg.cli", "compare", str(path), "train.max_steps=100000", "--devices", "cpu",
               "--out", str(tmp_path / "out")]
    environment = {**os.environ, "GPS_SEG_CACHE": str(tmp_path / "cache")}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    runs = tmp_path / "out" / "runs"
    while not list(runs.glob("*/selection.safetensors")) and running.poll() is None:
        time.sleep(0.1)
    time.sleep(2)  # some steps into the training
    os.killpg(running.pid, signal.SIGINT)  # as a terminal's Ctrl-C, which reaches the cell's process too
    try:
        _, said = running.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # a failure leaves nothing that trains on
    assert running.returncode == 2 and "interrupted; the same command goes on" in said and "Traceback" not in said
    assert len([folder for folder in runs.iterdir() if folder.is_dir()]) == 1


def test_scores_of_other_files_are_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name may come to hold other images: scores know the bytes they are of."""
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))
    sets = []
    for number in range(2):
        folder = tmp_path / str(number) / "set"
        for index in range(3):
            image, mask = phantom(10 * number + index, size=(48, 48))
            write_image(folder / "images" / f"{index}.png", image)
            write_mask(folder / "masks" / f"{index}.png", mask)
        sets.append(folder)
    means = []
    for folder in (*sets, sets[0]):
        path = write(tmp_path, methods={"head": {}}, seeds=[0], data=[str(folder)])
        document = run_comparison(path, tmp_path / "out", ["cpu"], lambda _: None)
        means.append(document["data"]["set"]["rows"][0]["score"])
    assert means[0] == means[2] != means[1]
