"""Runs on weights in a folder of transformers: found again when they move, exported in transformers' names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gps_seg.commands.calibrate import calibrate
from gps_seg.commands.export import export_merged
from gps_seg.errors import CheckpointError
from gps_seg.models.sam_zoo import build_sam, published_state
from gps_seg.packages import import_transformers
from gps_seg.runs.base import find_base
from gps_seg.runs.load import load_run
from support.runs import train_tiny


def test_a_run_on_a_sam2_folder_moves_and_is_exported_as_transformers_reads_it(tmp_path: Path, cache: Path) -> None:
    config = build_sam("tiny_sam2").config
    transformers = import_transformers()
    transformers.Sam2Model(config).save_pretrained(tmp_path / "base")  # random: other weights than the tiny model's
    run = train_tiny(tmp_path / "run", cache, f"model.checkpoint={tmp_path / 'base'}", model="tiny_sam2")
    assert load_run(run, device="cpu").description["base_file"]["name"] == "model.safetensors"
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="the base weights model.safetensors are not at"):
        load_run(run, device="cpu")
    loaded = load_run(run, device="cpu", base=tmp_path / "elsewhere")
    assert calibrate(run, device="cpu", base=tmp_path / "elsewhere").images > 0
    for place in (run, tmp_path / "parent", cache):  # the folder moved along, with the run or to the cache
        moved = shutil.copytree(run, place / "run" if place.name == "parent" else tmp_path / f"in {place.name}")
        folder = shutil.copytree(tmp_path / "elsewhere", (moved if place == run else place) / "base")
        assert load_run(moved, device="cpu").attached.selection.base == loaded.attached.selection.base
        shutil.rmtree(folder)
    out = tmp_path / "out"
    export_merged(run, out / "model.safetensors", base=tmp_path / "elsewhere")
    config.save_pretrained(out)
    theirs = transformers.Sam2Model.from_pretrained(out).state_dict()
    loaded.attached.merge()
    ours = published_state("tiny_sam2", loaded.model.state_dict())
    assert set(theirs) == set(ours) and all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_base_recorded_by_a_hub_name_is_asked_of_the_hub_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load model.safetensors of nobody/no-such-sam from the Hub"):
        find_base(tmp_path, {"base_file": {"name": "model.safetensors", "sha256": "0" * 64}}, Path("nobody/no-such-sam"))
