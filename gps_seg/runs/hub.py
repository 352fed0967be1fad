"""Runs on the Hugging Face Hub, by USER/NAME or USER/NAME@REVISION: fetched into the Hub's own cache. Loads without torch.

Only files that a run folder has are fetched, none of which holds code. ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and
``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from gps_seg.errors import CheckpointError
from gps_seg.models.hub import SECONDS, Refused, hub_error, is_hub_name
from gps_seg.runs.calibration import CALIBRATION_FILE
from gps_seg.runs.card import CARD_FILE, PAGE_FILE
from gps_seg.runs.folder import CONFIG_FILE, DELTA_CONFIG, DELTA_FILE, README_FILE, RESULT_FILE, SELECTION_FILE

HUB_FILES = (
    README_FILE, DELTA_CONFIG, DELTA_FILE, SELECTION_FILE, CONFIG_FILE, CALIBRATION_FILE, RESULT_FILE, CARD_FILE, PAGE_FILE,
)
Say = Callable[[str], object]
_COPY = re.compile(r"models--(.+)--(.+)")  # how the Hub's cache calls a repository's folder


def split_name(text: str) -> tuple[str, str | None] | None:
    """USER/NAME and the revision behind @, if any; None for what is no name on the Hub.

    USER/NAME alone is taken for a path where a folder USER is here; with a revision it never is.
    """
    name, at, revision = text.partition("@")
    if not is_hub_name(Path(name)) or name != Path(name).as_posix() or (at and not revision):
        return None
    return None if not at and Path(name).parent.is_dir() else (name, revision or None)


def name_of(folder: Path) -> str | None:
    """USER/NAME of a copy in the Hub's cache; None for any other folder."""
    found = _COPY.fullmatch(folder.absolute().parent.parent.name)
    return f"{found[1]}/{found[2]}" if found and folder.absolute().parent.name == "snapshots" else None


def fetch_run(text: str, say: Say = print, *, network: bool = True) -> Path:
    """The run of that name in the Hub's cache, fetched or brought up to date; the same one as long as this program runs.

    Without an answer from the Hub the copy of an earlier time is taken, and ``say`` is told so.

    Args:
        text: for which :func:`split_name` finds a name.
        network: False: only a copy of an earlier time is taken, silently.

    Raises:
        CheckpointError: no such repository, none that holds a run, or no answer and no copy.
    """
    found = split_name(text)
    if found is None:
        raise CheckpointError(f"expected USER/NAME or USER/NAME@REVISION, got {text!r}")
    folder, note = _fetch(*found) if network else (_copy(*found), "")
    if folder is None:
        raise CheckpointError(f"{text}: no copy of it is in the Hub's cache")
    if not (folder / DELTA_CONFIG).is_file():
        raise CheckpointError(f"{text} on the Hub holds no run of gps-seg, found no {DELTA_CONFIG}")
    if network:
        say(f"{text}: from the Hub, revision {folder.name[:12]}{note}")
    return folder


@functools.cache
def _fetch(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download  # imported here: most runs lie on this machine

    try:
        with hub_error(f"{name}{f' at {revision}' if revision else ''}"):
            HfApi().model_info(name, revision=revision, timeout=SECONDS)  # fetching has no limit of its own
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES))), ""
    except Refused:
        raise
    except CheckpointError as error:
        if (copy := _copy(name, revision)) is not None:
            return copy, f", a copy of an earlier time ({error})"
        raise


def _copy(name: str, revision: str | None) -> Path | None:
    """The copy of an earlier time; None if there is none, or a part of one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # ValueError: the Hub has no such names
        return None
