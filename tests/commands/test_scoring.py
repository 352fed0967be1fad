"""Folders of masks and probability maps in every format, matched by stem; stable keys; no torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gps_seg.cli import options
from gps_seg.commands.score import score_folders
from gps_seg.data.images import write_mask
from gps_seg.data.maps import read_prediction
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import write_json
from gps_seg.metrics.groups import read_groups
from gps_seg.metrics.measures import BLOCKS, DEFAULT_BLOCKS, parse_blocks, row
from gps_seg.metrics.report import report
from gps_seg.metrics.tables import table, write_rows


def disc(radius: float, size: int = 40) -> NDArray[np.uint8]:
    y, x = np.mgrid[:size, :size] - size / 2
    return ((y**2 + x**2 < radius**2) * 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predicted, target = tmp_path / "predicted", tmp_path / "target"
    for folder, radii in ((predicted, (8, 10, 0)), (target, (10, 10, 5))):
        folder.mkdir()
        for number, radius in enumerate(radii):
            Image.fromarray(disc(radius)).save(folder / f"frame_{number}.png")
    return predicted, target


def test_scoring_two_folders(folders: tuple[Path, Path]) -> None:
    scores = score_folders(*folders)
    assert [score.id for score in scores] == ["frame_0", "frame_1", "frame_2"]
    assert scores[1].dice == 1 and scores[2].dice == 0 and 0.7 < scores[0].dice < 0.85


def test_every_way_to_store_a_mask_scores_alike(folders: tuple[Path, Path], tmp_path: Path) -> None:
    mask = disc(8)
    kinds = {
        "rgb.png": Image.fromarray(mask).convert("RGB"),
        "rgba.png": Image.merge("RGBA", [Image.fromarray(mask)] * 3 + [Image.new("L", (40, 40), 255)]),
        "palette.png": Image.fromarray(mask).convert("P"),
        "two_colors.png": Image.fromarray(mask).quantize(2),
        "one_bit.png": Image.fromarray(mask).convert("1"),
        "sixteen.png": Image.fromarray(mask.astype(np.uint16) * 257),
        "zero_one.png": Image.fromarray(mask // 255),
        "grey.tif": Image.fromarray(mask),
        "bmp.bmp": Image.fromarray(mask),
        "jpeg.jpg": Image.fromarray(mask),
    }
    for name, picture in kinds.items():
        stem = Path(name).stem
        predicted, target = tmp_path / stem / "p", tmp_path / stem / "t"
        predicted.mkdir(parents=True), target.mkdir()
        picture.save(predicted / f"a{Path(name).suffix}")
        Image.fromarray(disc(10)).save(target / "a.png")
        expected = score_folders(*folders)[0].dice
        tolerance = 0.02 if name.endswith("jpg") else 0
        assert abs(score_folders(predicted, target)[0].dice - expected) <= tolerance, name


def soft(radius: float, size: int = 40) -> NDArray[np.float32]:
    """A probability map of 256 levels whose 0.5 contour is a disc."""
    y, x = np.mgrid[:size, :size] - size / 2
    return (np.rint(255 / (1 + np.exp(np.hypot(y, x) - radius))) / 255).astype(np.float32)


def array_file(values: NDArray[np.float32]) -> bytes:
    np.save(held := io.BytesIO(), values)
    return held.getvalue()


def only(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    make(folder / name)
    return folder


def test_every_way_to_store_a_probability_map_scores_alike(tmp_path: Path) -> None:
    target = only(tmp_path / "t", "a.png", Image.fromarray(disc(9)).save)
    p = soft(8)
    eight, sixteen = np.rint(p * 255).astype(np.uint8), np.rint(p * 65535).astype(np.uint16)
    ways: dict[str, Callable[[Path], object]] = {
        "a.png": Image.fromarray(eight).save, "a.tif": Image.fromarray(p).save, "a.bmp": Image.fromarray(eight).save,
        "a.npy": lambda path: np.save(path, p), "a.NPY": lambda path: path.write_bytes(array_file(p[None])),
        "a.TIFF": Image.fromarray(sixteen).save, "a.webp": lambda path: Image.fromarray(eight).save(path, lossless=True),
    }
    found = [score_folders(only(tmp_path / str(number), name, make), target, blocks=BLOCKS)[0]
             for number, (name, make) in enumerate(ways.items())]
    rows = [row(score) for score in found]
    assert all(score.is_map for score in found) and all(one == pytest.approx(rows[0], abs=1e-6) for one in rows)
    assert 0.8 < rows[0]["dice"] < 1 and rows[0]["calibration_ece"] > 0.05


def test_the_threshold_cuts_probabilities(tmp_path: Path) -> None:
    predicted = only(tmp_path / "p", "a.npy", lambda path: np.save(path, soft(8)))
    target = only(tmp_path / "t", "a.png", Image.fromarray(disc(8)).save)
    areas = [score.tp + score.fp for limit in (0.1, 0.5, 0.9, 1.0)
             for score in score_folders(predicted, target, threshold=limit)]
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[1] > areas[2] > areas[3] == 0


def test_a_faint_map_among_maps_is_faint_and_a_mask_of_ones_among_masks_is_a_mask(tmp_path: Path) -> None:
    target, maps, masks, deep = (tmp_path / name for name in ("t", "maps", "masks", "deep"))
    for name in ("faint", "sure"):
        only(target, f"{name}.png", Image.fromarray(disc(8)).save)
    for folder, sure in ((maps, np.rint(soft(8) * 255).astype(np.uint8)), (masks, disc(8))):
        only(folder, "faint.png", Image.fromarray(disc(8) // 255).save)
        only(folder, "sure.png", Image.fromarray(sure).save)
    only(deep, "faint.png", Image.fromarray((soft(8) * 200).astype(np.uint16)).save)
    only(deep, "sure.png", Image.fromarray((soft(8) * 65535).astype(np.uint16)).save)
    assert [score.dice > 0.9 for score in score_folders(masks, target)] == [True, True]
    assert [score.dice > 0.9 for score in score_folders(maps, target)] == [False, True]
    assert [score.dice > 0.9 for score in score_folders(deep, target)] == [False, True]


@pytest.mark.parametrize(("values", "message"), [
    (np.full((4, 4), 1.5), "expected probabilities from 0 to 1, got 1.5 to 1.5"),
    (np.full((4, 4), np.nan), "expected probabilities from 0 to 1, got nan"),
    (np.zeros((4, 4, 3)), r"expected an array of height and width, got shape \(4, 4, 3\)"),
    (np.zeros((4, 4), np.int64), "expected bool, uint8, uint16 or floating-point values, got int64"),
    (np.zeros((4, 4), np.complex64), "expected bool, uint8, uint16 or floating-point values, got complex64"),
])
def test_arrays_that_are_no_probabilities_are_refused(values: NDArray[np.generic], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=f"a.npy: {message}"):
        read_prediction(tmp_path / "a.npy")


def test_a_damaged_or_absent_array_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="a.npy: expected a NumPy array without objects"):
        read_prediction(tmp_path / "a.npy")
    with pytest.raises(DataError, match="expected an array at .*b.npy"):
        read_prediction(tmp_path / "b.npy")


def test_calibration_of_hard_masks_is_omitted_with_one_line(folders: tuple[Path, Path]) -> None:
    document = report(score_folders(*folders, blocks=BLOCKS), settings={})
    assert "calibration" not in document and "pranet" in document
    assert "calibration omitted: the predictions are hard masks" in table(document)


def test_blocks_are_chosen_by_name(folders: tuple[Path, Path]) -> None:
    assert parse_blocks("all") == BLOCKS[:-1] and BLOCKS[-1] == "gps_legacy"
    assert parse_blocks(" pranet, dataset ") == ("dataset", "pranet")
    assert parse_blocks(options.DEFAULT_BLOCKS) == DEFAULT_BLOCKS
    with pytest.raises(ConfigError, match="--blocks: expected per_image, .* or all, got dice"):
        parse_blocks("dice,pranet")
    counts = report(score_folders(*folders, blocks=("dataset",)), settings={})
    assert "hd95" not in counts["per_image"] and "polyps" not in counts and counts["dataset"]["dice"] > 0


def test_groups_are_read_and_their_gaps_named(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("stem,group\r\nframe_0, video 1\r\nframe_1,video 1\r\nother,video 2\r\n")
    assert read_groups(path, ["frame_1", "frame_0"]) == ["video 1", "video 1"]
    with pytest.raises(DataError, match="1 images have no group: frame_2"):
        read_groups(path, ["frame_0", "frame_2"])
    for text, message in (("a,b,c\n", "expected rows of stem,group, got 'a,b,c'"), ("a,1\na,2\n", "a is in two groups, 1 and 2")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_groups(path, ["a"])
    with pytest.raises(DataError, match="cannot read the groups"):
        read_groups(tmp_path / "none.csv", [])


def test_missing_surplus_and_doubled_masks_are_named(folders: tuple[Path, Path]) -> None:
    predicted, target = folders
    (predicted / "frame_1.png").unlink()
    with pytest.raises(DataError, match="1 predictions are missing: frame_1; --allow-missing"):
        score_folders(predicted, target)
    assert score_folders(predicted, target, allow_missing=True)[1].dice == 0
    Image.fromarray(disc(3)).save(predicted / "other.png")
    with pytest.raises(DataError, match="1 predictions without a target mask in .*target: other"):
        score_folders(predicted, target, allow_missing=True)
    (predicted / "other.png").unlink()
    Image.fromarray(disc(3)).save(predicted / "frame_0.jpg")
    with pytest.raises(DataError, match=r"frame_0.jpg and frame_0.png have the same stem"):
        score_folders(predicted, target)


def test_another_size_is_an_error_unless_resizing_was_asked_for(folders: tuple[Path, Path]) -> None:
    predicted, target = folders
    Image.fromarray(disc(16, 80)).save(predicted / "frame_0.png")
    with pytest.raises(DataError, match=r"frame_0: predicted mask is 80 x 80 pixels, target 40 x 40.*--resize-pred"):
        score_folders(predicted, target)
    resized = score_folders(predicted, target, resize_predicted=True, blocks=BLOCKS)[0]
    assert resized.dice > 0.75 and resized.sweep is not None and resized.sweep.dice.max() > 0.75
    (predicted / "frame_0.png").unlink()
    np.save(predicted / "frame_0.npy", soft(16, 80))
    assert score_folders(predicted, target, resize_predicted=True)[0].dice > 0.75


def test_wrong_folders_are_explained(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="expected a folder of masks at .*nowhere"):
        score_folders(tmp_path / "nowhere", folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected images, found none"):
        score_folders(tmp_path / "empty", folders[1])


def test_a_data_sets_root_may_stand_for_its_masks_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    folders[1].rename(tmp_path / "set" / "masks")
    assert len(score_folders(folders[0], tmp_path / "set")) == 3


def test_the_json_keys_are_stable(folders: tuple[Path, Path], tmp_path: Path) -> None:
    scores = score_folders(*folders)
    write_json(tmp_path / "out" / "scores.json", report(scores, settings={"threshold": 0.5}))
    document = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(document) >= {"schema", "n", "per_image", "dataset", "empty_targets", "aggregation", "settings", "images"}
    assert document["n"] == 3 and {"dice", "iou", "precision", "recall"} <= set(document["per_image"])
    assert set(document["dataset"]) >= {"dice", "iou", "precision", "recall"}
    assert set(document["images"][0]) >= {"id", "dice", "iou", "precision", "recall", "tp", "fp", "fn", "tn", "target_fraction"}
    write_rows(tmp_path / "scores.csv", document["images"])
    assert (tmp_path / "scores.csv").read_text().splitlines()[0].startswith("id,dice,iou,precision,recall")


def test_the_last_line_of_the_table_is_the_headline(folders: tuple[Path, Path]) -> None:
    document = report(score_folders(*folders), settings={})
    mean = document["per_image"]
    assert table(document).splitlines()[-1] == f"mDice {mean['dice']:.4f} mIoU {mean['iou']:.4f} (per_image, 3 images)"


def test_scoring_never_imports_torch(folders: tuple[Path, Path]) -> None:
    code = ("import sys; from gps_seg.cli import app\n"
            "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules, 'imported'")
    done = subprocess.run([sys.executable, "-c", code, "score", "--pred", str(folders[0]), "--gt", str(folders[1]),
                           "--blocks", "all"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(per_image, 3 images)" in done.stdout


def test_every_option_of_score_and_compare_at_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("frame_0,a\nframe_1,a\nframe_2,b\n")
    out = tmp_path / "out"
    common = ["--groups", tmp_path / "groups.csv", "--markdown", out / "t.md", "--latex", out / "t.tex", "--plots", out / "plots"]
    score = ["score", "--pred", folders[0], "--gt", folders[1], "--blocks", "all", "--threshold", "0.4", "--tolerance", "3",
             "--json", out / "s.json", "--csv", out / "s.csv", *common]
    contrast = ["compare-scores", f"a={out / 's.json'}", f"b={out / 's.json'}", "--metric", "iou", "--json", out / "c.json",
                *common]
    code = ("import sys; from gps_seg.cli import main\nsys.argv = ['gps-seg', *sys.argv[1:]]\n"
            "try: main()\nfinally: assert 'torch' not in sys.modules")
    for arguments, last in ((score, "(per_image, 3 images)"), (contrast, "effect: rank-biserial")):
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].endswith(last)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {"s.json", "s.csv", "c.json", "t.md", "t.tex", "plots/boxes.png", "plots/size.png", "plots/worst.png",
                     "plots/methods.png"}
    document = json.loads((out / "s.json").read_text())
    assert document["settings"]["threshold"] == 0.4 and document["settings"]["nsd_tolerance_px"] == 3
    assert document["statistics"] == {"level": 0.95, "resamples": 10_000, "seed": 0, "clusters": 2, "grouped": True}
    assert json.loads((out / "c.json").read_text())["pairs"][0]["p_holm"] == 1


@pytest.mark.parametrize("levels", [(0, 2), (0, 50)])
def test_masks_of_other_class_numbers_are_refused_instead_of_read_as_empty(tmp_path: Path, levels: tuple[int, int]) -> None:
    for name, pair in {"gt": levels, "pred": (0, 255)}.items():
        (tmp_path / name).mkdir()
        pixels = np.full((20, 20), pair[0], np.uint8)
        pixels[5:15, 5:15] = pair[1]
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    for pred, gt in (("pred", "gt"), ("gt", "pred")):
        with pytest.raises(DataError, match=f"a.png: expected a mask of 0 and 255, .* its largest value is {levels[1]}"):
            score_folders(tmp_path / pred, tmp_path / gt)


def test_the_true_masks_are_no_predictions_of_themselves(tmp_path: Path) -> None:
    write_mask(tmp_path / "masks" / "a.png", np.ones((8, 8), np.bool_))
    with pytest.raises(DataError, match="this is the folder of the true masks themselves"):
        score_folders(tmp_path / "masks", tmp_path)
