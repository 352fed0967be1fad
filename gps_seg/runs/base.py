"""The pretrained weights that a run was made on, found again on whatever machine it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gps_seg.config import ModelConfig
from gps_seg.data.places import cache_folder
from gps_seg.errors import CheckpointError
from gps_seg.files import sha256
from gps_seg.models.hub import is_hub_name, weight_file


def base_file(config: ModelConfig) -> dict[str, str] | None:
    """Name and sha256 of a run's own weight file; None where the model's published weights are its base."""
    if config.checkpoint is None:
        return None
    file = weight_file(config.checkpoint)
    return {"name": file.name, "sha256": sha256(file)}


def find_base(folder: Path, description: dict[str, Any], recorded: Path | None, given: Path | None = None) -> Path | None:
    """The weight file to load for a run, or None for the model's published weights.

    Where it was is looked at first, then by its name, also in a folder of transformers that moved along, and last by its hash: in
    the run's folder, in the cache, and beside the run.

    Args:
        folder: the run's.
        description: its adapter_config.json.
        recorded: where the file was when the run was made: itself, a folder of transformers or a name on the Hub.
        given: where the user says it is.

    Raises:
        CheckpointError: it is nowhere, or the given file is another one.
    """
    known = description.get("base_file") or {}
    digest, name = known.get("sha256"), known.get("name") or (recorded.name if recorded else None)
    if given is not None:
        given = weight_file(given)
        if not given.is_file():
            raise CheckpointError(f"--base: expected the base's weight file at {given}, found none")
        if digest and sha256(given) != digest:
            raise CheckpointError(f"--base {given}: expected the weights with sha256 {digest[:16]}..., which the run in {folder} "
                                  "was made on")
        return given
    if recorded is None:
        return None
    inside = [weight_file(recorded)] if recorded.is_dir() else []
    around = (folder, cache_folder(), folder.absolute().parent)
    places = [recorded, *inside, *(place / part for part in (str(name), f"{recorded.name}/{name}") for place in around)]
    others = [path for place in around if place.is_dir() for path in sorted(place.iterdir())
              if path.suffix in (".pth", ".pt", ".safetensors") and path not in places]
    for path in places + (others if digest else []):
        if path.is_file() and (digest is None or sha256(path) == digest):
            return path
    if is_hub_name(recorded):
        return weight_file(recorded)
    raise CheckpointError(f"{folder}: the base weights {name} are not at {recorded}, beside the run, or in {cache_folder()}: put "
                          "them there, or say where they are with --base FILE")
