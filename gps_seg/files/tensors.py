"""Named tensors with text beside them: safetensors, written atomically, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gps_seg.errors import CheckpointError
from gps_seg.files import write_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and text atomically. The same content gives the same bytes.

    The text goes under one key, because safetensors writes several in a random order.
    """
    text = {"gps_seg": json.dumps(dict(metadata), sort_keys=True)}
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, text))


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            text = (file.metadata() or {}).get("gps_seg", "{}")
            return {name: file.get_tensor(name) for name in names}, json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"expected {what} at {path}, found none") from None
    except (SafetensorError, OSError, ValueError):
        raise CheckpointError(f"{path}: expected {what}, the file is damaged or cut short") from None
