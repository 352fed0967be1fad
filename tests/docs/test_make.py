"""What the Makefile would install, without installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def installed(target: str, environment: Path) -> list[str]:
    """What pip would be asked to install for a target."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "-n", target, f"VENV={environment}"]
    planned = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[-1].strip('"') for line in planned if "pip install -qq" in line and "docs" not in line]


def test_a_fresh_clone_installs_once_and_the_demo_needs_the_package_alone(tmp_path: Path) -> None:
    assert installed("demo", tmp_path) == ["."]
    assert all(installed(target, tmp_path) == [".[app,dev]"] for target in ("test", "lint", "docs", "notebooks", "env"))


def test_what_the_demo_installed_is_completed_and_a_complete_environment_serves_the_demo(tmp_path: Path) -> None:
    (tmp_path / ".core").touch()
    assert installed("demo", tmp_path) == [] and installed("test", tmp_path) == [".[app,dev]"]
    (tmp_path / ".ready").touch()
    assert installed("test", tmp_path) == installed("demo", tmp_path) == []
