"""A tuned model for other programs: one stock file, which every tool that reads SAM checkpoints knows, ONNX files, or a folder of
transformers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from gps_seg.commands.onnx.page import find_runtime, page_line
from gps_seg.commands.onnx.write import export_onnx
from gps_seg.commands.transformers_folder import export_transformers
from gps_seg.errors import ConfigError
from gps_seg.files import write_bytes
from gps_seg.methods.added import fold_modules
from gps_seg.models.sam_zoo import published_state
from gps_seg.runs.load import load_run


@dataclass(frozen=True)
class Exports:
    """What to write, at least one thing.

    Attributes:
        merged: a file. onnx, transformers: folders to make.
        page: beside the ONNX files a page for a browser.
        runtime: where the page's runtime lies; None: the cache, else npm.
    """

    merged: Path | None = None
    onnx: Path | None = None
    transformers: Path | None = None
    page: bool = False
    runtime: Path | None = None

    def __post_init__(self) -> None:
        if self.merged is None and self.onnx is None and self.transformers is None:
            raise ConfigError("say what to write: --merged FILE, --onnx DIR, --transformers DIR, or several of them")
        if self.page and self.onnx is None:
            raise ConfigError("--page: the page stands beside the ONNX files that it loads: say where with --onnx DIR")
        if self.runtime is not None and not self.page:
            raise ConfigError("--runtime: only the page of --page reads it: add --page, or leave it out")


def export_run(folder: Path, wanted: Exports, base: Path | None = None) -> Iterator[str]:
    """Write what is wanted, saying a line of each. Raises as the functions that do it; the page's runtime is found first."""
    files = find_runtime(wanted.runtime) if wanted.page else None
    if wanted.merged is not None:
        yield export_merged(folder, wanted.merged, base)
    if wanted.onnx is not None:
        yield export_onnx(folder, wanted.onnx, base, files)
        if wanted.page:
            yield page_line(wanted.onnx)
    if wanted.transformers is not None:
        yield export_transformers(folder, wanted.transformers, base)


def export_merged(folder: Path, target: Path, base: Path | None = None) -> str:
    """Merge a run's delta and write the stock state dict; returns a line that says what was written.

    Raises:
        ConfigError: the suffix is neither .pth nor .safetensors, or the file is there already.
    """
    if target.suffix not in (".pth", ".safetensors"):
        raise ConfigError(f"--merged: expected a .pth or .safetensors file, got {target.name!r}")
    if target.exists():
        raise ConfigError(f"{target} is there already: choose another --merged")
    run = load_run(folder, device="cpu", base=base)
    run.attached.merge()
    fold_modules(run.model, run.attached.selection.meta)
    state = {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}
    state = published_state(run.config.model.name, state)
    if target.suffix == ".safetensors":
        data = save(state)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
    write_bytes(target, data)
    spec = getattr(run.model, "spec", None)
    note = f"; tuned at {spec.input_size} px, use it at that size" if spec and spec.input_size != spec.native_size else ""
    return f"{target}: {run.config.model.name} in stock names, {len(data) / 1e6:.1f} MB{note}"
