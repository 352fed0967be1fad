"""The public names are typed, cheap to import, and written in one place that type checkers and the interpreter agree on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gps_seg

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("public_names.py")
TYPES = [
    "gps_seg.config.RunConfig", "gps_seg.models.sam.SamModel", "gps_seg.runs.load.Run", "gps_seg.runs.gps_model.GPSModel",
    "gps_seg.runs.gps_model.GPSModel", "dict[str, Any]", "dict[str, Any]", "list[gps_seg.metrics.measures.BlockScore]",
    "gps_seg.errors.GpsSegError", "gps_seg.runs.predictor.Prediction", "list[gps_seg.runs.predictor.Prediction]",
]


def test_type_checkers_and_the_interpreter_find_the_same_names_in_the_same_homes() -> None:
    tree = ast.parse(Path(gps_seg.__file__).read_text(encoding="utf-8"))
    checked = {alias.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
               for alias in node.names if (node.module or "").startswith("gps_seg.")}
    assert checked == gps_seg._HOMES  # type: ignore[attr-defined]
    assert sorted(gps_seg.__all__) == dir(gps_seg)
    assert all(getattr(gps_seg, name).__name__ == name for name in gps_seg.__all__)


def test_a_wrong_name_is_told_the_right_ones() -> None:
    with pytest.raises(AttributeError, match="module 'gps_seg' has no attribute 'fit'; it has GPSConfig, GPSModel"):
        gps_seg.fit  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = ("import sys, gps_seg; assert not {'torch', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules); "
            "gps_seg.load_config; assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mypy_knows_the_type_of_every_public_name_and_refuses_wrong_uses() -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(SCRIPT)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    here = [line for line in said.splitlines() if SCRIPT.name in line]
    assert re.findall(r'Revealed type is "(.*)"', "\n".join(here)) == TYPES, said
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    expected = {number for number, line in enumerate(lines, start=1) if "# refused" in line}
    assert {int(line.split(":")[1]) for line in here if ": error:" in line} == expected, said
