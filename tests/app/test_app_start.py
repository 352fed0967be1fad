"""What the first page waits for, and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BUILD = """
import json, sys
from pathlib import Path
stubs = []
sys.addaudithook(lambda event, found: stubs.append(str(found[0])) if event == "open" and str(found[0]).endswith(".pyi") else None)
from gps_seg_app.inference.loading import Models
from gps_seg_app.server.serve import build
from gps_seg_app.settings import Settings
runs = {"run": Path(sys.argv[1])}
build(Settings(runs), Models(runs), 7860)
import gradio
heavy = [name for name in ("torch", "scipy", "av", "matplotlib") if name in sys.modules]
print(json.dumps({"stubs": stubs, "heavy": heavy, "events": [*filter(gradio.Button.__dict__.get, ("click",))]}))
"""


@pytest.fixture(scope="module")
def started(trained: Callable[..., Path]) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", BUILD, trained()], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_first_page_waits_for_no_torch(started: dict[str, list[str]]) -> None:
    assert started["heavy"] == []


def test_gradio_writes_no_stubs_and_its_components_have_their_events(started: dict[str, list[str]]) -> None:
    assert started["stubs"] == [] and started["events"] == ["click"]
