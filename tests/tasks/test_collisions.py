"""``gps-seg data check`` on several sets: leaks are errors, look-alikes and contradicting masks are named, all is counted."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gps_seg.cli import main
from gps_seg.data.images import read_image, write_image, write_mask
from gps_seg.tasks.segmentation.phantom import phantom


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run the command in this process; returns its exit status, output, error line and JSON."""
    def run(*sets: object) -> tuple[int, str, str, Any]:
        target = tmp_path / "check.json"
        target.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["gps-seg", "data", "check", *map(str, sets), "--json", str(target)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        document = json.loads(target.read_text()) if target.exists() else None
        return int(stopped.value.code or 0), shown.out, shown.err, document

    return run


def add(root: Path, name: str, index: int, *, mask: int | None = None, suffix: str = ".png", side: int = 128) -> Path:
    """Write a scene and the mask of a scene, by default its own."""
    path = root / "images" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom(index, size=(96, 128))[0]).resize((side, side * 3 // 4)).save(path, quality=80)
    drawn = np.zeros((side * 3 // 4, side), np.bool_)
    at = 5 + 3 * (index if mask is None else mask)
    drawn[at : at + 20, at : at + 30] = True
    write_mask(root / "masks" / f"{name}.png", drawn)
    return root


def test_a_training_image_in_a_tested_set_is_an_error_under_any_name_and_format(tmp_path: Path, check: Any) -> None:
    train, test = tmp_path / "TrainDataset", tmp_path / "TestDataset" / "CVC-300"
    for index in range(4):
        add(train, f"t{index}", index)
    add(test, "other", 3, suffix=".tif")
    add(test, "fresh", 9)
    code, out, error, found = check(train, test)
    assert code == 2 and "6 images in 2 sets: 1 errors" in error
    assert f"error: {test}/images/other.tif: in CVC-300, the same picture as t3 in TrainDataset (train)" in out
    assert found["errors"] == 1 and found["matrix"]["identical"] == {
        "TrainDataset": {"TrainDataset": 0, "CVC-300": 1}, "CVC-300": {"TrainDataset": 1, "CVC-300": 0}}
    assert found["sets"] == {"TrainDataset": {"images": 4, "train": 4}, "CVC-300": {"images": 2}}
    again = check(test, train)
    assert again[0] == 2 and "in TrainDataset (train), the same picture as other in CVC-300" in again[1]


def test_two_tested_sets_may_overlap_but_it_is_said_and_counted(tmp_path: Path, check: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for index in range(4):
        add(one, f"a{index}", index)
        add(two, f"b{index}", index + 2)
    code, out, _, found = check(one, two)
    assert code == 0 and found["matrix"]["identical"]["one"]["two"] == 2
    assert f"warning: {two}/images/b0.png: in two, the same picture as a2 in one" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert rows == [["one", "two"], ["one", "0", "+", "0", "2", "+", "0"], ["two", "2", "+", "0", "0", "+", "0"]]
    assert out.splitlines()[-1] == "8 images in 2 sets: 0 errors, 2 warnings"


def test_a_recompressed_or_shrunk_image_is_nearly_the_same(tmp_path: Path, check: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for index in range(3):
        add(one, f"a{index}", index, side=256)
    add(two, "jpeg", 1, suffix=".jpg", side=256)
    add(two, "small", 2, side=160)
    code, out, _, found = check(one, two)
    assert code == 0 and found["matrix"]["near"]["one"]["two"] == 2 and found["matrix"]["identical"]["one"]["two"] == 0
    assert f"warning: {two}/images/jpeg.jpg: in two, nearly the same picture as a1 in one" in out
    assert f"warning: {two}/images/small.png: in two, nearly the same picture as a2 in one" in out


def test_one_picture_with_two_masks_is_named_within_a_set_and_across(tmp_path: Path, check: Any) -> None:
    one = add(add(tmp_path / "one", "a", 1), "b", 1, mask=2)
    two = add(add(tmp_path / "two", "c", 1, mask=3), "d", 5)
    code, out, _, found = check(one)
    assert code == 0 and "+" not in out and out.splitlines()[-1] == "2 images: 0 errors, 2 warnings"
    assert f"warning: {one}/images/b.png: in one, the same picture as a in one" in out
    assert f"warning: {one}/masks/b.png: in one, another mask than a in one for the same picture: their Dice is 0.765" in out
    found = check(one, two)[3]
    assert found["matrix"]["identical"] == {"one": {"one": 1, "two": 2}, "two": {"one": 2, "two": 0}}
    assert sum("another mask than" in finding["text"] for finding in found["findings"]) == 2


def test_lists_in_a_folder_make_its_parts_and_a_leak_between_them_is_an_error(tmp_path: Path, check: Any) -> None:
    for index in range(6):
        add(tmp_path / "set", f"f{index}", min(index, 4))
    (tmp_path / "set" / "train.txt").write_text("f0\nf1\nf2\nf4\n")
    (tmp_path / "set" / "test.txt").write_text("f3\nf5\n")
    code, out, _, found = check(tmp_path / "set")
    assert code == 2 and "the same picture is in train (f4) and in test" in out and found["sets"]["set"]["test"] == 2
    (tmp_path / "set" / "test.txt").write_text("f3\n")  # the lists leave an image out: then they say nothing of the whole
    code, out, _, found = check(tmp_path / "set")
    assert code == 0 and found["sets"]["set"] == {"images": 6} and "in set, the same picture as f4 in set" in out


def test_a_broken_file_a_missing_set_and_a_set_given_twice_are_said(tmp_path: Path, check: Any) -> None:
    one = add(add(tmp_path / "one", "a", 1), "b", 2)
    two = add(tmp_path / "two", "c", 3)
    (one / "images" / "a.png").write_bytes(b"broken")
    code, out, error, found = check(one, two)
    assert code == 2 and found["errors"] == 1 and "a.png: expected a JPEG" in out
    assert "given twice" in check(two, two)[2]
    code, _, error, found = check(two, "polypgn")
    assert code == 2 and found is None and error.count("\n") == 1 and "did you mean 'polypgen'" in error


def test_a_known_set_of_another_size_is_a_warning(tmp_path: Path, check: Any) -> None:
    code, out, _, _ = check(add(tmp_path / "CVC-300", "a", 1))
    assert code == 0 and "warning: CVC-300: CVC-300 holds 1 images, CVC-300 (EndoScene) as published 60" in out


def test_many_pictures_are_compared_in_seconds(tmp_path: Path, check: Any) -> None:
    random = np.random.default_rng(0)
    for index in range(700):
        small = random.integers(0, 255, (16, 17, 3), dtype=np.uint8)
        write_image(tmp_path / ("one" if index % 2 else "two") / "images" / f"{index}.png", small)
        write_mask(tmp_path / ("one" if index % 2 else "two") / "masks" / f"{index}.png", small[..., 0] > 250)
    write_image(tmp_path / "two" / "images" / "698.png", read_image(tmp_path / "one" / "images" / "699.png"))
    began = time.perf_counter()
    found = check(tmp_path / "one", tmp_path / "two")[3]
    assert time.perf_counter() - began < 10 and found["matrix"]["identical"]["one"]["two"] == 1
    assert sum(map(sum, (row.values() for row in found["matrix"]["near"].values()))) == 0
