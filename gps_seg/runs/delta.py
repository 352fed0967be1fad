"""Reading and writing deltas: safetensors and JSON, written atomically, never pickle.

A delta is a folder in Hugging Face PEFT's layout: ``adapter_config.json`` and ``adapter_model.safetensors``. For every
weight with selected entries the latter holds ``NAME.gps_indices`` (int32, flat, ascending) and ``NAME.gps_values`` (fp32,
absolute values, so that merging is exact); for every other trained parameter the tensor under its own name. A compact delta,
format 2, holds the same in half the bytes, see :mod:`gps_seg.runs.compact`; training writes format 1. Where several tasks share
values, a delta holds a task's own ones, and the common ones lie in a file beside its folder, see :mod:`gps_seg.runs.common_part`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.core.attach import Attached, attach
from gps_seg.core.roles import Role
from gps_seg.core.selection import Selection
from gps_seg.errors import CheckpointError, GpsSegError
from gps_seg.files import read_json, write_json
from gps_seg.files.tensors import read_tensors, write_tensors
from gps_seg.methods.selection_file import check_base
from gps_seg.runs.common_part import COMMON_KEY, CommonPart, join, read_common
from gps_seg.runs.compact import COLUMNS, INDICES, VALUES, compress, exact, expand
from gps_seg.runs.folder import DELTA_CONFIG, DELTA_FILE

DELTA_KEYS = {"base_sha256": str, "dense": dict, "meta": dict}
FORMATS = {"gps-seg delta 1": 1, "gps-seg delta 2": 2}  # of the tensors: exact, compact


def save_delta(
    folder: Path, attached: Attached, description: Mapping[str, Any], state: Mapping[str, Tensor] | None = None, *,
    compact: bool = False, common: CommonPart | None = None,
) -> None:
    """Write a delta folder.

    Args:
        attached: the model being tuned.
        description: what a reader needs to rebuild the model; goes to adapter_config.json with PEFT's common keys.
        state: values to write instead of the current ones, keyed like ``attached.trainable()``.
        compact: write the compact form, which rounds the values to 16 bits.
        common: a file that holds some of the values already: the delta names it and holds the others.

    Raises:
        CheckpointError: a value is too large for 16 bits.
    """
    sparse, state = attached.selection.sparse, attached.state() if state is None else state
    if common is not None:
        sparse, state = common.without(sparse, state)
    tensors = compress(sparse, state, _shapes(attached.model)) if compact else exact(sparse, state)
    kind = "gps-seg delta 2" if compact else "gps-seg delta 1"
    config = {
        "peft_type": "GPS", "format": FORMATS[kind], "base_sha256": attached.selection.base, "inference_mode": True,
        "dense": dict(attached.selection.dense), "meta": dict(attached.selection.meta), **description,
        **({} if common is None else {COMMON_KEY: common.named()}),
    }
    write_tensors(folder / DELTA_FILE, tensors, {"format": kind, "base_sha256": attached.selection.base})
    write_json(folder / DELTA_CONFIG, config)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def add_to_delta(folder: Path, values: Mapping[str, Tensor], role: Role, description: Mapping[str, Any]) -> None:
    """Put parameters as a whole into a delta folder, under a role, with more to say of it; all else in it stays, bit for bit.

    Raises:
        CheckpointError: the delta is missing or damaged.
    """
    config, (tensors, metadata) = read_delta_config(folder), read_tensors(folder / DELTA_FILE, "a delta")
    sparse = {name + suffix for name in values for suffix in (INDICES, COLUMNS, VALUES)}
    kept = {name: tensor for name, tensor in tensors.items() if name not in sparse}
    write_tensors(folder / DELTA_FILE, kept | dict(values), metadata)
    write_json(folder / DELTA_CONFIG, {**config, "dense": config["dense"] | dict.fromkeys(values, role), **description})


def read_delta_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a delta folder. Raises CheckpointError if it is not one of ours."""
    config = read_json(folder / DELTA_CONFIG, "a delta's adapter_config.json")
    if not isinstance(config, dict) or config.get("peft_type") != "GPS":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{folder / DELTA_CONFIG}: expected a GPS delta, got peft_type {found!r}")
    if config.get("format") == "peft":
        raise CheckpointError(f"{folder}: this is an adapter of peft: load it with peft.PeftModel.from_pretrained after import "
                              "gps_seg.peft, whose to_gps_model turns it into a GPSModel")
    for key, kind in DELTA_KEYS.items():
        if not isinstance(config.get(key), kind):
            raise CheckpointError(f"{folder / DELTA_CONFIG}: {key!r} is missing or wrong: the file was edited or damaged")
    threshold = config.get("threshold", 0.5)
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise CheckpointError(f"{folder / DELTA_CONFIG}: expected a threshold between 0 and 1, got {threshold!r}")
    return config


def load_delta(
    folder: Path, model: nn.Module, insert: Callable[[nn.Module, Mapping[str, str]], None] | None = None
) -> Attached:
    """Attach a delta folder to its base model.

    Args:
        insert: adds to the base the modules that the delta's ``meta`` names (``methods.added.add_modules``).

    Raises:
        CheckpointError: missing or damaged files, also that of the values it shares, or a delta of another base.
    """
    config = read_delta_config(folder)
    tensors, metadata = read_tensors(folder / DELTA_FILE, "a delta")
    if metadata.get("format") not in FORMATS:
        raise CheckpointError(f"{folder / DELTA_FILE}: expected {' or '.join(FORMATS)}, got {metadata.get('format')!r}: a newer "
                              "gps-seg may have made it")
    if metadata.get("base_sha256") != config.get("base_sha256"):
        raise CheckpointError(f"{folder}: {DELTA_CONFIG} and {DELTA_FILE} belong to different runs")
    check_base(folder / DELTA_FILE, metadata["base_sha256"], model)
    if insert is not None:
        insert(model, config["meta"])
    sparse, state = expand(tensors, _shapes(model))
    if COMMON_KEY in config:
        sparse, state = join((sparse, state), expand(read_common(folder, config[COMMON_KEY]), _shapes(model)))
    attached = attach(model, Selection(sparse, config["dense"], metadata["base_sha256"], config["meta"]))
    try:
        attached.load(state)
    except GpsSegError as error:
        attached.unmerge()
        raise CheckpointError(f"{folder / DELTA_FILE}: {error}") from None
    return attached
