"""Two real processes: only the small vectors travel, and the result is that of one process with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gps_seg.files.tensors import read_tensors
from gps_seg.runs.log import read_log

SETTINGS = ["model.name=tiny", "data.name=phantom", "data.phantom_images=20", "train.max_steps=3", "train.batch_size=4",
            "train.precision=fp32", "evaluate.overlays=0", "device=cpu", "train.optimizer=sgd", "train.lr=0.1",
            "train.keep=last", "selection.max_images=4"]
PROMPTED = ("train.box_probability=0.4", "train.click_probability=0.6", "train.click_rounds=2")
MIXED = ("train.quality=true", "data.negatives=phantom", "data.negative_phantoms=10", "data.negative_share=0.3")

COUNT_BYTES = """
import json, sys, torch
from accelerate import Accelerator
from gps_seg.runs.device import make_accelerator
from gps_seg.config import GPSConfig
from gps_seg.methods import METHODS
from gps_seg.models.sam_zoo import build_sam
from gps_seg.core.scores import data_free_scores
from gps_seg.core.attach import attach

accelerator = make_accelerator(torch.device("cpu"), "fp32")
model = build_sam("tiny")
scores = lambda names: data_free_scores(model, list(names), score="magnitude")
attached = attach(model, METHODS["gps"](model, GPSConfig(head="freeze"), scores, 0))
wrapped = accelerator.prepare(model)
if accelerator.is_main_process:
    handled = wrapped._get_ddp_logging_data()["total_parameter_size_bytes"]
    own = sum(p.nbytes for p in attached.trainable().values())
    open(sys.argv[1], "w").write(json.dumps({"handled": handled, "own": own, "model": sum(p.nbytes for p in model.parameters())}))
torch.distributed.destroy_process_group()
"""


def torchrun(*arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("more", [(), PROMPTED, MIXED], ids=["plain", "boxes and clicks", "negatives and quality"])
def test_two_processes_end_where_one_with_the_whole_batch_does(more: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("seed: 1\n")
    alone = [sys.executable, "-m", "gps_seg.cli", "train", str(config), *SETTINGS, *more, "--out", str(tmp_path / "one")]
    subprocess.run(alone, check=True, capture_output=True)
    torchrun("-m", "gps_seg.cli", "train", config, *SETTINGS, *more, "--out", tmp_path / "two")
    one, two = (read_tensors(tmp_path / name / "adapter_model.safetensors", "a delta")[0] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert [row["step"] for row in read_log(tmp_path / "two") if "loss" in row] == [1, 2, 3]
    assert json.loads((tmp_path / "two" / "result.json").read_text())["n"] == 4


def test_only_what_trains_is_reduced_between_processes(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNT_BYTES)
    torchrun(tmp_path / "count.py", tmp_path / "bytes.json")
    found = json.loads((tmp_path / "bytes.json").read_text())
    assert found["handled"] == found["own"] < 0.02 * found["model"]
