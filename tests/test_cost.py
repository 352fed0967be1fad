"""The cost benchmark: what no noise touches is asserted, times are only reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from gps_seg.cost import measure
from gps_seg.models.sam import build_sam


def test_a_gps_step_needs_fewer_operations_and_far_less_state_than_full_fine_tuning() -> None:
    model, image = build_sam("tiny", input_size=128), torch.randn(1, 3, 128, 128)
    rows = {row.method: row for row in measure(model, image, ["full", "gps", "head", "bitfit", "floor"], precision="fp32",
                                               repetitions=1, say=lambda text: None)}
    assert rows["head"].flops < rows["gps"].flops < rows["full"].flops
    # bitfit has no weight gradient at all; a random tiny model uses more of its columns than a trained one
    assert rows["gps"].flops <= 1.15 * rows["bitfit"].flops
    assert rows["gps"].encoder_state_bytes < 0.03 * rows["full"].encoder_state_bytes
    assert rows["gps"].saved_bytes <= rows["full"].saved_bytes
    assert rows["floor"].state_bytes == rows["floor"].delta_bytes == 0
    assert rows["gps"].delta_bytes < rows["full"].delta_bytes


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gps_seg.cli", "benchmark", "cost", "--model", "tiny", "--methods", "full,gps,lora,shira",
         "--repetitions", "1",
         "--json", str(tmp_path / "cost.json")], capture_output=True, text=True, check=True,
    )
    assert "GFLOP" in done.stdout
    document = json.loads((tmp_path / "cost.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["full", "gps", "lora", "shira"] and document["rows"][0]["ratio"] == 1
    assert {"step_s", "flops", "forward_s", "peak_bytes", "saved_bytes", "state_bytes", "delta_bytes"} <= set(document["rows"][0])
    assert {"hardware", "versions", "model", "input_size"} <= set(document)
