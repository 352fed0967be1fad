"""A selection as a file: safetensors, int32 indices by weight name; it names the weights it was made on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import CheckpointError
from gps_seg.files.tensors import read_tensors, write_tensors

FORMAT = "gps-seg selection 1"
NOTHING = "__none__"  # safetensors keeps text only beside a tensor


def save_selection(path: Path, selection: Selection) -> None:
    """Write a selection: int32 indices by weight name; dense names, base hash and how it was made as metadata."""
    tensors = {name: indices.to(torch.int32) for name, indices in selection.sparse.items()}
    if not tensors:
        tensors = {NOTHING: torch.zeros(0, dtype=torch.int32)}
    metadata = {"format": FORMAT, "base_sha256": selection.base, "dense": json.dumps(dict(selection.dense)),
                "meta": json.dumps(dict(selection.meta))}
    write_tensors(path, tensors, metadata)


def load_selection(path: Path, model: nn.Module | None = None) -> Selection:
    """Read a selection; with a model, refuse one that was made on other weights.

    Raises:
        CheckpointError: missing, damaged, not a selection, or of another base.
    """
    tensors, metadata = read_tensors(path, "a selection")
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a gps-seg selection, got another safetensors file")
    selection = Selection(
        {name: indices.long() for name, indices in tensors.items() if name != NOTHING},
        json.loads(metadata["dense"]), metadata["base_sha256"], json.loads(metadata["meta"]),
    )
    if model is not None:
        check_base(path, selection.base, model)
    return selection


def check_base(path: Path, base: str, model: nn.Module) -> None:
    """Raise CheckpointError if what ``path`` holds was made on other weights than the model's."""
    found = fingerprint(model)
    if found != base:
        raise CheckpointError(f"{path} was made on other base weights: expected {base[:16]}..., the loaded model is "
                              f"{found[:16]}...; load the base it names")
