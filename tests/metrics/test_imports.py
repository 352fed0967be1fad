"""Scoring is light: what import-linter reads in the sources holds when Python really imports, parent packages included."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
import gps_seg.commands.check_data, gps_seg.commands.score, gps_seg.config, gps_seg.errors, gps_seg.files, gps_seg.metrics
for found in pkgutil.walk_packages(gps_seg.metrics.__path__, "gps_seg.metrics."):
    importlib.import_module(found.name)
sys.exit(", ".join(sorted({"torch", "safetensors", "matplotlib"} & set(sys.modules))) or None)
"""


def test_every_module_of_scoring_loads_without_torch_and_matplotlib() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
