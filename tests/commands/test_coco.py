"""What predict writes as COCO is what it writes as masks, and can be scored as a data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gps_seg.data.coco import mask_of
from gps_seg.data.images import read_mask, write_image
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.sets import set_pairs
from support.commands import gps_seg


def test_the_document_holds_the_masks(trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        write_image(tmp_path / "in" / f"{index}.png", phantom(index, size=(48, 64))[0])
    asked = ("predict", trained(), tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu", "--threshold", "0.4",
             "--coco", tmp_path / "in" / "found.json")
    assert gps_seg(monkeypatch, *asked) == 0
    document = json.loads((tmp_path / "in" / "found.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["0.png", "1.png", "2.png"]
    for image in document["images"]:
        found = np.zeros((48, 64), np.bool_)
        for one in document["annotations"]:
            if one["image_id"] == image["id"]:
                part = mask_of(one["segmentation"], (48, 64))
                x, y, width, height = one["bbox"]
                assert part[y : y + height, x : x + width].sum() == part.sum() == one["area"] and 0 < one["score"] <= 1
                assert not (found & part).any()
                found |= part
        assert np.array_equal(found, read_mask(tmp_path / "out" / image["file_name"]))
    for pair in set_pairs(str(tmp_path / "in" / "found.json")):
        assert np.array_equal(read_mask(pair.mask), read_mask(tmp_path / "out" / f"{pair.id}.png"))
    assert gps_seg(monkeypatch, *asked, "--out", tmp_path / "other") == 2
