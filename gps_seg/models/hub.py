"""Weights in a folder of transformers or on the Hugging Face Hub: both are one file, ``model.safetensors``."""

from __future__ import annotations

import re
from pathlib import Path

from gps_seg.errors import CheckpointError

FILE = "model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = (".pth", ".pt", ".safetensors", ".bin")


def weight_file(given: Path) -> Path:
    """The file that ``model.checkpoint`` means: itself, the one in a folder, or the one behind USER/NAME on the Hub.

    Raises:
        CheckpointError: there is none, or the Hub cannot be reached and its cache does not hold it.
    """
    if given.is_dir():
        if not (given / FILE).is_file():
            raise CheckpointError(f"model.checkpoint: expected {FILE} in the folder {given}, found none; give the weight file "
                                  "itself")
        return given / FILE
    if not given.is_file() and is_hub_name(given):
        return from_hub(given.as_posix())
    if not given.is_file():
        raise CheckpointError(f"expected a weight file at {given}, found none; check model.checkpoint")
    return given


def is_hub_name(given: Path) -> bool:
    """Whether it reads as USER/NAME and not as a file."""
    return given.suffix not in _FILES and _NAME.fullmatch(given.as_posix()) is not None


def in_hub_cache(name: str) -> Path | None:
    """The weight file of USER/NAME if it was loaded before."""
    from huggingface_hub import try_to_load_from_cache  # imported here: most runs find their weights in place

    found = try_to_load_from_cache(name, FILE)
    return Path(found) if isinstance(found, str) else None


def from_hub(name: str) -> Path:
    """The weight file of USER/NAME, downloaded to the Hub's own cache if it is not there.

    Raises:
        CheckpointError: it is neither there nor to be had.
    """
    cached = in_hub_cache(name)
    if cached is not None:
        return cached
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILE))
    except (OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"cannot load {FILE} of {name} from the Hub ({reason.strip()[:120]}); download it "
                              "elsewhere and give model.checkpoint=FILE") from None
