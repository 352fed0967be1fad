"""Where a number comes from: versions, revision, hardware, memory, and what a base model saw before."""

from __future__ import annotations

import platform
import resource
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gps_seg.tasks.segmentation.known import KNOWN
from gps_seg.tasks.segmentation.sets import known_name, number_warning


@dataclass(frozen=True)
class _Seen:
    """What a base model was trained on, as far as polyps go.

    Attributes:
        note: one clause for every result.
        sets: known sets it was trained on for certain.
        any_set: whether it may have seen any public polyp set.
    """

    note: str
    sets: tuple[str, ...] = ()
    any_set: bool = False


# By the beginning of a model's name. SAM-Med2D: OpenGVLab/SAM-Med2D issue 43. LiteMedSAM: bowang-lab/MedSAM issue 255.
_BASES = {
    "lite_medsam": _Seen("LiteMedSAM's pretraining data may contain public polyp sets (unverified)", any_set=True),
    "sam_med2d": _Seen("SAM-Med2D was trained on Kvasir-SEG and CVC-ClinicDB", sets=("kvasir-seg", "cvc-clinicdb")),
    "sam_vit": _Seen("SAM was trained on SA-1B, natural images; no polyp set in it is known"),
}


def base_note(name: str) -> str:
    """What is known of the data a base model saw before; empty for an unknown model."""
    seen = _base(name)
    return seen.note if seen else ""


def base_warning(name: str, data: str) -> str:
    """What to say if a base model has seen, or may have seen, a data set (a name or a folder) before; else empty."""
    seen, known = _base(name), known_name(data)
    if seen is None or known is None:
        return ""
    if {known, *KNOWN[known].images_of} & set(seen.sets):
        return f"{seen.note}: images of {KNOWN[known].title} are not unseen"
    return f"{seen.note}: {KNOWN[known].title} may not be unseen" if seen.any_set else ""


def data_warnings(model: str, data: str, images: int, *, whole: bool) -> dict[str, str]:
    """What a reader of a score must know of its images: ``base_warning``, ``number_warning``; only those there are.

    Args:
        model: name of the base.
        data: name or folder scored.
        images: how many.
        whole: whether they are meant to be the whole set, not a part of a split.
    """
    found = {"base_warning": base_warning(model, data), "number_warning": number_warning(data, images) if whole else ""}
    return {name: text for name, text in found.items() if text}


def _base(name: str) -> _Seen | None:
    return next((seen for start, seen in _BASES.items() if name.startswith(start)), None)


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
