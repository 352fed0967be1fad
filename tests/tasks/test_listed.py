"""Data sets that a file lists: the same masks as a folder, and one line for what is wrong with it."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gps_seg.commands.check_data import check_data
from gps_seg.config import PolypDataConfig
from gps_seg.data.coco import mask_of, run_lengths
from gps_seg.data.images import read_mask, write_image, write_mask
from gps_seg.errors import DataError
from gps_seg.files import sha256
from gps_seg.tasks.segmentation.parts import load_splits
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.sets import expand, label, set_pairs

PHANTOMS = [phantom(index, size=(48, 64)) for index in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/ and masks/, and the same as COCO and as CSV."""
    root, images, annotations = tmp_path / "set", [], []
    for index, (image, mask) in enumerate(PHANTOMS):
        write_image(root / "images" / f"{index}.png", image)
        write_mask(root / "masks" / f"{index}.png", mask)
        images.append({"id": index, "file_name": f"images/{index}.png", "height": 48, "width": 64})
        annotations.append({"id": index, "image_id": index, "category_id": 1, "segmentation": run_lengths(mask)})
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    with (root / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "mask"], *([f"images/{n}.png", f"masks/{n}.png"] for n in range(len(PHANTOMS)))])
    return root


def test_every_format_gives_the_same_pictures_and_the_same_mask_files(folder: Path) -> None:
    digests = [[(pair.id, sha256(pair.image), sha256(pair.mask)) for pair in set_pairs(str(path))]
               for path in (folder, folder / "coco.json", folder / "set.csv")]
    assert digests[0] == digests[1] == digests[2] and len(digests[0]) == len(PHANTOMS)


def test_a_file_is_split_and_named_as_a_folder_is(folder: Path) -> None:
    parts = [load_splits(PolypDataConfig(name="folder", root=path))  # type: ignore[call-arg]
             for path in (folder, folder / "coco.json", folder / "set.csv")]
    named = [[[pair.id for pair in part] for part in (one.train, one.inner, one.test)] for one in parts]
    assert named[0] == named[1] == named[2]
    assert label(str(folder / "coco.json")) == "coco.json"
    assert expand([str(folder / "set.csv")]) == [str(folder / "set.csv")]


def test_a_file_is_checked_as_a_folder_is(folder: Path) -> None:
    whole, *listed = (check_data([str(path)]).splitlines()[-1] for path in (folder, folder / "coco.json", folder / "set.csv"))
    assert whole.startswith("6 images: 0 errors") and listed == [whole, whole]


def test_run_lengths_are_cocos() -> None:
    coco: Any = pytest.importorskip("pycocotools.mask", reason="pip install 'gps-seg[coco]'")
    draw = np.random.default_rng(0)
    masks = [draw.random((7, 9)) > part for part in (0.1, 0.5, 0.9)] + [np.zeros((3, 4), bool), np.ones((3, 4), bool)]
    masks.append(np.pad(np.ones((300, 200), bool), 50))
    for mask in masks:
        encoded = run_lengths(mask)
        assert encoded["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(mask_of(dict(encoded), mask.shape), mask)
    assert np.array_equal(mask_of({"size": [2, 2], "counts": [1, 2, 1]}, (2, 2)), [[False, True], [True, False]])


def test_polygons_are_filled_and_united(folder: Path) -> None:
    coco: Any = pytest.importorskip("pycocotools.mask", reason="pip install 'gps-seg[coco]'")
    rings = [[4, 4, 20, 4, 20, 20, 4, 20], [30.5, 10, 40, 10, 35, 30]]
    document = json.loads((folder / "coco.json").read_text())
    document["annotations"] = [{"id": n, "image_id": 0, "category_id": 1, "segmentation": [ring]} for n, ring in enumerate(rings)]
    (folder / "polygons.json").write_text(json.dumps(document))
    first, second = set_pairs(str(folder / "polygons.json"))[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        wanted = coco.decode(coco.merge(coco.frPyObjects(rings, 48, 64))).astype(bool)
    assert np.array_equal(read_mask(first.mask), wanted) and not read_mask(second.mask).any()


def test_a_file_nested_too_deep_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="damaged or something else"):
        set_pairs(str(tmp_path / "deep.json"))


def test_what_is_wrong_with_a_file_is_one_line(folder: Path) -> None:
    whole = json.loads((folder / "coco.json").read_text())

    def coco(**changes: Any) -> str:
        path = folder / "wrong.json"
        path.write_text(json.dumps({**whole, **changes}))
        return str(path)

    def table(text: str) -> str:
        (folder / "wrong.csv").write_text(text)
        return str(folder / "wrong.csv")

    first, image = whole["annotations"][0], whole["images"][0]
    runs = first["segmentation"]
    for make, words in (
        (lambda: coco(annotations=[first, {**first, "category_id": 2}]), "one category, got 2: 1, 2; export one"),
        (lambda: coco(annotations=[{**first, "segmentation": {**runs, "counts": "abc"}}]), "annotation 0 of images/0.png: "),
        (lambda: coco(annotations=[{**first, "segmentation": {"size": [5, 5], "counts": [25]}}]), r"of an image of \[48, 64\]"),
        (lambda: coco(annotations=[{**first, "segmentation": [[1, 2]]}]), "polygons of three corners"),
        (lambda: coco(annotations=[{**first, "segmentation": {**runs, "counts": [3071.5, 0.5]}}]), "runs in whole numbers"),
        (lambda: coco(annotations=[{**first, "segmentation": [[1, 2, "a", 4, 5, 6]]}]), "a corner is no number"),
        (lambda: coco(annotations=[{**first, "segmentation": [[1, 2, 1e30, 4, 5, 6]]}]), "far outside of the 48 x 64 pixels"),
        (lambda: coco(annotations=[{**first, "image_id": [0]}]), r"numbers or names of images, got \[0\]"),
        (lambda: coco(images=[image, {**image, "file_name": "images/1.png"}], annotations=[]), "1 ids of images occur twice: 0"),
        (lambda: coco(annotations=[first], categories=[{"id": 3, "name": "polyp"}]), "1 categories are used and not declared: 1"),
        (lambda: coco(annotations=[first], categories={"polyp": 1}), "expected categories as a list"),
        (lambda: coco(annotations=[{**first, "image_id": 77}]), "does not list, 77"),
        (lambda: coco(images=[{**image, "file_name": "gone.png"}], annotations=[]), "1 of the 1 images are missing: .*gone.png"),
        (lambda: coco(images=[{**image, "height": None}], annotations=[]), "expected file_name, height and width"),
        (lambda: coco(images=[{**image, "height": 10**9}], annotations=[]), "over 40 megapixels"),
        (lambda: coco(images=[image, {**image, "id": 9}], annotations=[]), "1 names occur twice: 0"),
        (lambda: coco(images=[]), "does not list"),
        (lambda: coco(images=[], annotations=[]), "expected images, it lists none"),
        (lambda: coco(images={}), "expected a COCO file with images and annotations"),
        (lambda: table("picture,mask\n"), "separated by a comma, got picture, mask"),
        (lambda: table("image;mask\nimages/0.png;masks/0.png\n"), "separated by a comma, got image;mask"),
        (lambda: table("image,mask\nimages/0.png,\n"), "line 2: expected an image and its mask, got images/0.png and none"),
        (lambda: table("mask,image\nmasks/0.png\n"), "line 2: expected an image and its mask, got none"),
        (lambda: table("image,mask\nimages/0.png,gone.png\n"), "1 of the 1 masks are missing"),
    ):
        with pytest.raises(DataError, match=words) as raised:
            set_pairs(make())  # type: ignore[no-untyped-call]
        assert "\n" not in str(raised.value)
