"""The three answers counted over labelled frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import DataError
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.benchmarks.answers import benchmark


def test_answers_are_counted_apart_for_frames_with_and_without_a_polyp(tmp_path: Path, trained: Callable[..., Path]) -> None:
    run = trained()
    frames, empty = [phantom(index, size=(144, 192)) for index in range(4)], 0
    for index, (pixels, mask) in enumerate(frames):
        write_image(tmp_path / "set" / "images" / f"{index}.png", pixels if index else pixels // 20)
        write_mask(tmp_path / "set" / "masks" / f"{index}.png", mask & (index != 3))
        empty += not (mask & (index != 3)).any()
    shown = benchmark(run, str(tmp_path / "set"), device="cpu", json_path=tmp_path / "answers.json")
    document = json.loads((tmp_path / "answers.json").read_text())
    assert "* the run's own threshold" in shown and document["versions"]["torch"]
    for row in document["rows"]:
        assert sum(row["without"].values()) == empty and sum(row["with_polyp"].values()) == 4 - empty
        assert row["found_meeting_the_polyp"] <= row["with_polyp"]["found"]
        assert row["with_polyp"]["not_assessable"] + row["without"]["not_assessable"] >= 1  # the dark one
    found = [row["with_polyp"]["found"] + row["without"]["found"] for row in document["rows"]]
    assert found == sorted(found, reverse=True)  # a higher threshold finds no more
    with pytest.raises(DataError):
        benchmark(run, str(tmp_path / "nothing"))
