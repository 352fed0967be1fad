"""The core's page: its example runs with torch and the core alone, and the laws it names are held by tests that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import gps_seg.core

CORE = Path(gps_seg.core.__path__[0])
ROOT = Path(__file__).parents[2]
PAGE = (CORE / "README.md").read_text()


def test_the_example_runs_and_loads_nothing_of_the_project_but_the_core_and_its_errors() -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [promised] = re.findall(r"# (\d+) selected, (\d+) biases of ([\d,]+) scalars", example)
    code = example + "\nimport sys\nprint(sorted(name for name in sys.modules if name.startswith('gps_seg.')))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counted, loaded = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert [counted["selected"], counted["bias"], counted["parameters"]] == [int(text.replace(",", "")) for text in promised]
    assert all(name == "gps_seg.errors" or name.startswith("gps_seg.core") for name in loaded)


def test_no_file_of_the_core_imports_anything_but_torch_triton_and_the_projects_errors() -> None:
    allowed = {"torch", "triton", "gps_seg.errors", *sys.stdlib_module_names}
    for file in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith("gps_seg.core") or name in allowed or name.partition(".")[0] in allowed, f"{file}: {name}"


def test_the_page_names_every_file_of_the_core_and_only_tests_that_exist() -> None:
    assert {file.name for file in CORE.glob("*.py")} - {"__init__.py"} <= set(re.findall(r"`(\w+\.py)`", PAGE))
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 10
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
