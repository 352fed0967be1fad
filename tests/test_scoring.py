"""Folders of masks in every format, matched by stem; stable keys; no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gps_seg.errors import DataError
from gps_seg.scoring import report, score_folders, table, write_csv, write_json


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
    write_csv(tmp_path / "scores.csv", scores)
    assert (tmp_path / "scores.csv").read_text().splitlines()[0].startswith("id,dice,iou,precision,recall")


def test_the_last_line_of_the_table_is_the_headline(folders: tuple[Path, Path]) -> None:
    document = report(score_folders(*folders), settings={})
    mean = document["per_image"]
    assert table(document).splitlines()[-1] == f"mDice {mean['dice']:.4f} mIoU {mean['iou']:.4f} (per_image, 3 images)"


def test_scoring_never_imports_torch(folders: tuple[Path, Path]) -> None:
    code = ("import sys; from gps_seg.cli import app\n"
            "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules, 'imported'")
    done = subprocess.run([sys.executable, "-c", code, "score", "--pred", str(folders[0]), "--gt", str(folders[1])],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(per_image, 3 images)" in done.stdout
