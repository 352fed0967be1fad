"""Measuring a run under corruptions: the numbers by hand, a cell against files on disk, and the command for real."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gps_seg.cli import app
from gps_seg.commands import corruptions as robustness
from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.train import train
from gps_seg.config import load_config
from gps_seg.data.images import read_image, read_mask, write_image, write_mask
from gps_seg.data.splits import spread
from gps_seg.errors import ConfigError
from gps_seg.metrics.masks import ImageScore, score_image
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.corruptions import CORRUPTIONS, corrupt
from gps_seg.tasks.segmentation.pairs import pair_folder
from gps_seg.tasks.segmentation.phantom import write_phantoms
from support.settings import SETTINGS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "config.yaml").write_text("method: gps\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(cache))
        settings = [*SETTINGS, "evaluate.overlays=0", "train.max_steps=1", "data.phantom_images=10"]
        train(load_config(folder / "config.yaml", settings), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small scenes, the last without a polyp."""
    root = write_phantoms(tmp_path_factory.mktemp("data") / "set", 4, size=(96, 120))
    write_mask(root / "masks" / "phantom_00003.png", np.zeros((96, 120), np.bool_))
    return root


def score(id_: str, hit: int, false: int = 0, polyp: int = 10) -> ImageScore:
    """An image of 100 pixels with a polyp of ten (or none): ``hit`` of them found and ``false`` beside."""
    predicted, target = np.zeros((2, 1, 100), np.bool_)
    target[0, :polyp] = True
    predicted[0, :hit] = True
    predicted[0, 50 : 50 + false] = True
    return score_image(id_, predicted, target)


def test_the_numbers_are_those_worked_out_by_hand() -> None:
    clean = [score("a", 10), score("b", 5), score("n", 0, polyp=0)]  # Dice 1, 2/3, 1
    cells = {("x", 1): clean, ("x", 2): [score("a", 5), score("b", 5), score("n", 0, 3, polyp=0)],  # 2/3, 2/3, 0
             ("y", 1): [score("a", 10), score("b", 10), score("n", 0, polyp=0)], ("y", 2): clean}  # 1, 1, 1
    found = robustness.summarise(clean, cells)
    assert (found["n"], found["n_negative"], found["severities"]) == (3, 1, [1, 2])
    assert found["clean"] == {"dice": pytest.approx(8 / 9), "dice_positive": pytest.approx(5 / 6), "false_positive_rate": 0.0}
    x, y = found["by_corruption"]["x"], found["by_corruption"]["y"]
    assert [cell["drop"] for cell in x["severities"]] == pytest.approx([0, 4 / 9])
    assert [cell["false_positive_rate"] for cell in x["severities"]] == [0.0, 1.0]
    assert [cell["dice_positive"] for cell in x["severities"]] == pytest.approx([5 / 6, 2 / 3])
    assert [cell["dice"] for cell in y["severities"]] == pytest.approx([1, 8 / 9])
    assert (x["error"], y["error"]) == (pytest.approx((1 / 9 + 5 / 9) / 2), pytest.approx((0 + 1 / 9) / 2))
    assert found["mce"] == pytest.approx((3 / 9 + 0.5 / 9) / 2)
    assert found["relative_mce"] == pytest.approx(found["mce"] - 1 / 9)
    assert (found["worst"]["corruption"], found["worst"]["severity"]) == ("x", 2)


def test_the_interval_of_a_drop_is_paired_and_draws_whole_groups() -> None:
    ids = [str(number) for number in range(40)]
    clean = [score(id_, 2 + number % 9) for number, id_ in enumerate(ids)]
    same = robustness.summarise(clean, {("x", 1): clean})["by_corruption"]["x"]
    assert same["interval"] == [0, 0] and same["drop"] == 0
    half = [score(id_, 1 if number < 20 else 2 + number % 9) for number, id_ in enumerate(ids)]
    cells = {("x", 1): half}
    alone = robustness.summarise(clean, cells)["by_corruption"]["x"]
    grouped = robustness.summarise(clean, cells, [str(number // 20) for number in range(40)])["by_corruption"]["x"]
    assert alone["interval"][0] < alone["drop"] < alone["interval"][1]
    assert np.ptp(grouped["interval"]) > 1.5 * np.ptp(alone["interval"])
    assert robustness.summarise(clean[:1], {("x", 1): half[:1]})["relative_mce_interval"] is None


def test_a_subset_is_spread_evenly_and_never_larger_than_the_set() -> None:
    assert spread(range(5), None) == spread(range(5), 9) == (0, 1, 2, 3, 4)
    assert spread(range(101), 3) == (0, 50, 100) and spread(range(7), 1) == (0,)
    assert all(len(set(spread(range(97), most))) == most for most in range(1, 97))


def test_a_cell_is_what_evaluating_corrupted_files_gives(run: Path, scenes: Path, tmp_path: Path) -> None:
    loaded, pairs = load_run(run, device="cpu"), pair_folder(scenes)
    calls: list[int] = []
    found = robustness.measure(loaded, pairs, names=["noise", "dark_border"], progress=lambda: calls.append(1))
    assert len(calls) == 2 * 5 * 4 and list(found["by_corruption"]) == ["noise", "dark_border"]
    for pair in pairs:
        write_image(tmp_path / "images" / f"{pair.id}.png", corrupt(read_image(pair.image), "noise", 4, pair.id))
        write_mask(tmp_path / "masks" / f"{pair.id}.png", read_mask(pair.mask))
    noisy, clean = (evaluate_run(run, data=str(folder), device="cpu") for folder in (tmp_path, scenes))
    cell = found["by_corruption"]["noise"]["severities"][3]
    assert cell["severity"] == 4 and cell["dice"] == pytest.approx(noisy["per_image"]["dice"], abs=1e-9)
    assert cell["false_positive_rate"] == noisy["negatives"]["false_positive_rate"]
    assert cell["drop"] == pytest.approx(clean["per_image"]["dice"] - noisy["per_image"]["dice"], abs=1e-9)
    with pytest.raises(ConfigError, match="did you mean 'dark_border'"):
        robustness.measure(loaded, pairs, names=["dark_borders"])


def test_the_command_prints_a_table_and_writes_json_and_pictures(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["evaluate", str(run), "--data", str(scenes), "--corruptions", "--max-images", "2", "--device", "cpu",
         "--json", str(tmp_path / "e.json"), "--plots", str(tmp_path / "plots")], standalone_mode=False)
    text = capsys.readouterr().out
    document = json.loads((tmp_path / "e.json").read_text())
    found = document["corruptions"]
    assert (found["n"], found["n_available"], document["n"]) == (2, 4, 4)
    assert found["ids"] == [f"phantom_{number:05d}" for number in (0, 3)]
    kept = [image["dice"] for image in document["images"] if image["id"] in found["ids"]]
    assert found["clean"]["dice"] == pytest.approx(np.mean(kept)) and found["n_negative"] == 1
    assert list(found["by_corruption"]) == list(CORRUPTIONS)
    cells = [cell for one in found["by_corruption"].values() for cell in one["severities"]]
    assert len(cells) == 55 and found["mce"] == pytest.approx(np.mean([1 - cell["dice"] for cell in cells]))
    assert found["worst"]["drop"] == max(cell["drop"] for cell in cells)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
    assert rows["severity"][:6] == ["0", "1", "2", "3", "4", "5"] and set(CORRUPTIONS) <= set(rows)
    assert "corruptions (mean Dice, 2 of 4 images)" in text and "false-positive rate on them" in text
    assert text.splitlines()[-1].startswith(f"mCE {found['mce']:.4f} (1 - Dice, mean of 55 cells), relative to clean ")
    assert read_image(tmp_path / "plots" / "corruptions.png").shape[0] > 500
    assert read_image(tmp_path / "plots" / "corruptions_example.png").shape[0] > 900


def test_a_limit_without_corruptions_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="add --corruptions"):
        app(["evaluate", str(run), "--max-images", "2"], standalone_mode=False)
