"""Weights in a folder of transformers or on the Hugging Face Hub: both are one file, ``model.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gps_seg.errors import CheckpointError, GpsSegError

FILE = "model.safetensors"
SECONDS = 5.0  # for the Hub's first answer: who mistyped a path waits no longer
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
    from huggingface_hub import HfApi, hf_hub_download

    try:
        with hub_error(name):
            HfApi().model_info(name, timeout=SECONDS)  # fetching tries again and again, a minute long
            return Path(hf_hub_download(name, FILE))
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {FILE} of {name} from the Hub ({error}); download it elsewhere and give "
                              "model.checkpoint=FILE") from None


class Refused(CheckpointError):
    """The Hub answered, and the answer was no."""


@contextmanager
def hub_error(doing: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises within the block into one line; its errors share no class.

    Raises:
        Refused: what was asked for is not there, or not for this user. CheckpointError: no answer, or a broken one.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except GpsSegError:
        raise
    except OfflineModeIsEnabled:
        raise CheckpointError(f"{doing}: HF_HUB_OFFLINE is set, so the Hub is not asked") from None
    except GatedRepoError:
        raise Refused(f"{doing}: its owners give it on request alone, on its page on the Hub") from None
    except RepositoryNotFoundError:
        raise Refused(f"{doing}: the Hub knows no such model, or shows it to others alone (hf auth login)") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        kind = Refused if status < 500 else CheckpointError
        raise kind(f"{doing}: the Hub answered with status {status} ({_first_line(error)})") from None
    except Exception as error:
        from huggingface_hub.constants import ENDPOINT

        raise CheckpointError(f"{doing}: the Hub at {ENDPOINT} gave no answer ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:120]}" if line else type(error).__name__
