"""Where a number comes from: versions, revision, hardware, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def surroundings(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions, revision, hardware: what a reader needs to repeat a number."""
    packages = ("gps-seg", "torch", "segment-anything", "monai", "albumentations", "accelerate", "numpy")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "device": device.type, "hardware": f"{name}, {torch.get_num_threads()} threads", "precision": precision,
        "versions": {package: metadata.version(package) for package in packages} | {"python": platform.python_version()},
        "revision": revision(),
    }


def processor_name() -> str:
    """The CPU's model name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def revision() -> str:
    """The checkout's commit, with ``+`` if files differ from it; empty outside a git checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return ""


def peak_memory(device: torch.device) -> int:
    """Bytes: of CUDA's allocator, or of the whole process on a CPU (Linux counts KiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
