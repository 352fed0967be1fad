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

from gps_seg.commands.compare.report import markdown, run_comparison
from gps_seg.commands.compare.cells import Cell, GridConfig, best_rate, load_grid, overrides, run_cells, settings_of
from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import ConfigError
from gps_seg.tasks.segmentation.phantom import phantom

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
    path = write(tmp_path, methods=methods, seeds=[0], learning_rates=[1e-3], reference="gps", columns={"gps": {"paper": 0.881}})
    said: list[str] = []
    found = run_comparison(path, tmp_path / "out", ["cpu", "cpu"], said.append)
    rows = {row["method"]: row for row in found["data"]["test list"]["rows"]}
    assert set(rows) == {"gps", "decoder only"} and all(0 <= row["dice"] <= 1 for row in rows.values())
    assert rows["gps"]["selected"] > 0 == rows["decoder only"]["selected"] and rows["decoder only"]["head"] == rows["gps"]["head"]
    assert rows["gps"]["rate"] == 1e-3 and "p" in rows["decoder only"] and rows["gps"]["delta_bytes"] > 1000
    assert "keeps its tokens on a grid" in found["failed"]["vpt_deep, seed 0, lr 0.001"]
    result = json.loads((tmp_path / "out" / "runs" / "gps-seed0-lr0.001" / "result.json").read_text())
    assert "per_image" not in result and result["run"]["best_inner_dice"] >= 0  # the test list was not read in training
    (revision,) = found["provenance"]["revision"] or [""]
    assert len(revision) in (0, 40, 41) and found["provenance"]["precision"] == ["fp32"]
    assert found["provenance"]["hardware"] and found["provenance"]["versions"][0]["torch"]
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| decoder only |" in text and "| paper |" in text and "0.881" in text and "failed: vpt_deep" in text
    with Image.open(tmp_path / "out" / "test_list.png") as picture:
        assert picture.width > 800
    (score,) = (tmp_path / "out" / "scores").glob("*/gps-seed0-lr0.001.json")
    score.unlink()  # as if killed before it was written
    said.clear()
    again = run_comparison(path, tmp_path / "out", ["cpu"], said.append)
    dices = {row["method"]: row["dice"] for row in again["data"]["test list"]["rows"]}
    assert dices == {name: row["dice"] for name, row in rows.items()}
    assert [line for line in said if "failed" not in line] == ["training vpt_deep, seed 0, lr 0.001 on cpu",
                                                               "scoring gps, seed 0, lr 0.001 on its test list"]


def test_the_rate_with_the_best_inner_validation_is_chosen_and_failed_cells_are_left_out(tmp_path: Path) -> None:
    cells = [Cell("gps", 0, rate, tmp_path / f"{rate}") for rate in (1e-4, 1e-3, 1e-2)]
    assert best_rate(cells) is None
    for cell, dice in zip(cells[:2], (0.5, 0.7), strict=True):
        cell.folder.mkdir()
        (cell.folder / "result.json").write_text(json.dumps({"run": {"best_inner_dice": dice}}))
    assert best_rate(cells) is cells[1]


def test_a_cells_settings_are_the_base_the_shared_ones_and_its_own(tmp_path: Path) -> None:
    grid = GridConfig(base=tmp_path, methods={"random": {"method": "gps", "selection.score": "random"}, "full": {}},
                      settings={"train.max_steps": 7})
    assert overrides(grid, "random", 2, 1e-4) == ["train.max_steps=7", "method=gps", "selection.score=random", "seed=2",
                                                  "evaluate.test=false", "train.lr=0.0001"]
    assert "method=full" in overrides(grid, "full", 0, None)


@pytest.mark.parametrize(("values", "text"), [
    ({"methods": {"gps": {"train.lrr": 1}}}, "unknown key 'train.lrr', did you mean 'train.lr'"),
    ({"methods": {"gpss": {}}}, "method: "), ({"methods": {}}, "methods: "),
    ({"seed": 1}, "unknown key 'seed', did you mean 'seeds'"),
    ({"methods": {"gps": {}}, "reference": "full"}, "reference: expected one of gps, got 'full'"),
])
def test_a_wrong_comparison_is_refused_before_anything_runs(tmp_path: Path, values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_grid(write(tmp_path, **values))
    with pytest.raises(ConfigError, match="expected a comparison with base and methods"):
        load_grid(tmp_path / "base.yaml")
    with pytest.raises(ConfigError, match="cannot read the comparison"):
        load_grid(tmp_path / "missing.yaml")


def test_an_empty_comparison_still_gives_a_table() -> None:
    text = markdown({"name": "x", "data": {"own": {"reference": "gps", "rows": [], "pairs": []}}, "failed": {"gps": "no memory"}})
    assert "failed: gps: no memory" in text


def test_a_comparison_of_classifiers_tunes_on_validation_and_reads_the_test_part_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({
        "model": {"name": "tiny", "input_size": 64}, "data": {"few_shot": 1}, "selection": {"batch_size": 5},
        "train": {"max_steps": 1, "batch_size": 5, "precision": "fp32"},
    }))
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"task": "classification", "base": "base.yaml", "data": ["digits"], "seeds": [0],
                                    "learning_rates": [1e-3], "methods": {"a linear": {"method": "head"}, "gps": {}}}))
    found = run_comparison(path, tmp_path / "out", ["cpu", "cpu"], lambda text: None)
    rows = {row["method"]: row for row in found["data"]["digits"]["rows"]}
    assert rows["a linear"]["trainable"] == 0 < rows["gps"]["trainable"] and "p" in rows["gps"] and not found["failed"]
    parts = {folder.name.split("-")[2]: json.loads((folder / "result.json").read_text())["part"]
             for folder in (tmp_path / "out" / "runs").iterdir() if folder.is_dir() and "linear" in folder.name}
    assert parts == {"tune": "validation", "final": "test"}
    assert "| a linear |" in (tmp_path / "out" / "compare.md").read_text()
    path.write_text(yaml.safe_dump({"task": "classification", "base": "base.yaml", "methods": {"gps": {}}}))
    with pytest.raises(ConfigError, match="expected the names of classification data sets"):
        load_grid(path)


def test_a_finished_cell_of_other_settings_is_not_reused(tmp_path: Path) -> None:
    grid = load_grid(write(tmp_path, methods={"gps": {}}, seeds=[0]))
    cell = Cell("gps", 0, None, tmp_path / "cell")
    cell.folder.mkdir()
    (cell.folder / "result.json").write_text("{}")
    (cell.folder / "config.yaml").write_bytes(settings_of(grid, cell, ["device=cpu"]))
    run_cells(grid, [cell], ["cpu"], lambda text: None)  # the same settings: nothing to do
    (cell.folder / "config.yaml").write_bytes(settings_of(grid, cell, ["device=cpu", "train.max_steps=99"]))
    with pytest.raises(ConfigError, match="was run with other settings than gps, seed 0 has now: choose another --out"):
        run_cells(grid, [cell], ["cpu"], lambda text: None)
    with pytest.raises(ConfigError, match="--devices: expected cpu, cuda or cuda:NUMBER, got 'gpu'"):
        run_cells(grid, [cell], ["gpu"], lambda text: None)


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
    ({"groups": {"a": ["b"]}}, "groups: only classification data sets are grouped"),
    ({"methods": {"../up": {}}}, "methods: '../up' cannot be a file's name"),
])
def test_rates_blocks_and_seeds_are_checked_before_anything_runs(tmp_path: Path, values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_grid(write(tmp_path, **({"methods": {"gps": {}}} | values)))


def test_an_interrupted_comparison_says_how_to_go_on_and_begins_nothing_more(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"gps": {}, "full": {}, "bitfit": {}}, seeds=[0], settings={"train.max_steps": 100_000})
    command = [sys.executable, "-m", "gps_seg.cli", "compare", str(path), "--out", str(tmp_path / "out"), "--devices", "cpu"]
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
        means.append(document["data"]["set"]["rows"][0]["dice"])
    assert means[0] == means[2] != means[1]
