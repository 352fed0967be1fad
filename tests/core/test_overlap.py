"""What several selections share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gps_seg.commands.overlap import report_overlap
from gps_seg.core.overlap import overlap, per_block, share, union
from gps_seg.core.selection import Selection
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.methods.selection_file import save_selection


def chosen(base: str = "b", **sparse: list[int]) -> Selection:
    names = {"first": "image_encoder.blocks.0.mlp.weight", "second": "image_encoder.blocks.1.mlp.weight"}
    return Selection({names[key]: torch.tensor(value) for key, value in sparse.items()}, {"bias": "bias"}, base)


TASKS = {"a": chosen(first=[0, 1, 2, 3], second=[5]), "b": chosen(first=[0, 1, 9]), "c": chosen(first=[0, 7], second=[5, 6])}


def test_overlap_is_the_part_of_the_rows_connections_that_the_column_has_too() -> None:
    np.testing.assert_allclose(overlap(TASKS), [[1, 2 / 5, 2 / 5], [2 / 3, 1, 1 / 3], [2 / 4, 1 / 4, 1]])


def test_connections_are_counted_by_block() -> None:
    assert list(per_block(TASKS["a"]).values()) == [4, 1]


@pytest.mark.parametrize(("least", "common", "rest"), [(0.5, 3, 5), (1.0, 1, 9), (0.01, 8, 0)])
def test_common_and_rest_together_hold_everything_a_task_chose(least: float, common: int, rest: int) -> None:
    shared = share(TASKS, least)
    assert shared.sizes() == {"common": common, "rest": rest}
    for task, selection in TASKS.items():
        whole = union([shared.common, shared.rests[task]])
        for name, indices in selection.sparse.items():
            assert set(indices.tolist()) <= set(whole.sparse[name].tolist())
            if name in shared.common.sparse and name in shared.rests[task].sparse:
                assert not set(shared.common.sparse[name].tolist()) & set(shared.rests[task].sparse[name].tolist())


def test_selections_of_different_bases_are_refused() -> None:
    with pytest.raises(CheckpointError, match="different base weights: a b, z other"):
        overlap({"a": TASKS["a"], "z": chosen("other", first=[1])})


def test_the_command_prints_the_matrix_and_draws_it(tmp_path: Path) -> None:
    for name, selection in TASKS.items():
        save_selection(tmp_path / f"{name}.safetensors", selection)
    text = report_overlap([f"{name}={tmp_path / name}.safetensors" for name in TASKS], plots=tmp_path / "plots")
    assert "0.667" in text and "12 connections; one shared by at least 50% of them holds 3, the rests 5: 33 % saved" in text
    for name in ("blocks", "overlap"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    with pytest.raises(ConfigError, match="expected NAME=FILE"):
        report_overlap(["a.safetensors"])
    with pytest.raises(ConfigError, match="at least two selections"):
        report_overlap([f"a={tmp_path / 'a.safetensors'}"])
