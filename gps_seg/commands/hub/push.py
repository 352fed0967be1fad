"""``gps-seg push``: a run folder to the Hugging Face Hub; what leaves is said before it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gps_seg.commands.hub.card import readme
from gps_seg.config import dump_config
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files import read_json
from gps_seg.models.hub import SECONDS, hub_error, is_hub_name
from gps_seg.runs.calibration import CALIBRATION_FILE, read_calibration
from gps_seg.runs.card import CARD_FILE, PAGE_FILE, read_card
from gps_seg.runs.common_part import COMMON_KEY
from gps_seg.runs.delta import read_delta_config
from gps_seg.runs.folder import (
    CONFIG_FILE,
    DELTA_CONFIG,
    DELTA_FILE,
    README_FILE,
    SELECTION_FILE,
    is_unfinished,
    read_config,
)
from gps_seg.runs.hub import HUB_FILES
from gps_seg.runs.portable import portable, portable_config
from gps_seg.runs.ready import is_ready
from gps_seg.runs.setup import Say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Outgoing = Mapping[str, bytes | Path]  # name -> what is sent: bytes, or a file as it is


@dataclass(frozen=True)
class Destination:
    """Where a run goes.

    Attributes:
        name: USER/NAME.
        revision: a branch, made if it is not there; None: main.
        private: whether nobody else may see the repository.
    """

    name: str
    revision: str | None = None
    private: bool = False


def push(folder: Path, to: Destination, say: Say = print, *, dry: bool = False) -> None:
    """Send a run, saying each file and its size first; files of a run that was there before and are not in this one are removed.

    Args:
        dry: say what would leave, and send nothing.

    Raises:
        ConfigError: a name that is none, no token, or a repository that all can see where ``private`` was asked for.
        CheckpointError: the run is damaged or holds a part of itself alone, or the Hub refuses or does not answer.
    """
    if not is_hub_name(Path(to.name)):
        raise ConfigError(f"push: expected USER/NAME, got {to.name!r}")
    files = outgoing(folder)
    _say_what(folder, to, files, say, dry=dry)
    if not dry:
        say(f"{_send(to, files)}; use it as gps-seg predict {to.name}{f'@{to.revision}' if to.revision else ''}")


def outgoing(folder: Path) -> Outgoing:
    """What of a run folder travels: no picture, no name of one, no path of this machine, no state of training.

    Raises:
        CheckpointError: its values lie partly in a file beside it, it is not finished, or it is damaged.
    """
    description = read_delta_config(folder)
    if COMMON_KEY in description:
        raise CheckpointError(f"push: {folder} shares values with other tasks, which lie beside it: gps-seg export {folder} "
                              "--merged FILE writes the whole model")
    if is_unfinished(folder):
        raise CheckpointError(f"push: {folder} is not finished: go on with gps-seg train CONFIG --out {folder} --resume")
    if is_ready(folder):  # its card knows the hash of each file: they go as they are
        names = (*read_card(folder).files, CARD_FILE, PAGE_FILE)
        return {README_FILE: _readme(folder), **{name: folder / name for name in names if (folder / name).is_file()}}
    found: dict[str, bytes | Path] = {
        README_FILE: _readme(folder), DELTA_CONFIG: _json(portable(description)), DELTA_FILE: folder / DELTA_FILE,
    }
    if (folder / SELECTION_FILE).is_file():
        found[SELECTION_FILE] = folder / SELECTION_FILE
    if (folder / CONFIG_FILE).is_file():
        found[CONFIG_FILE] = dump_config(portable_config(read_config(folder))).encode()
    if read_calibration(folder) is not None:
        found[CALIBRATION_FILE] = _json(portable(read_json(folder / CALIBRATION_FILE, "a calibration")))
    return found


def _readme(folder: Path) -> bytes:
    """The card in the folder, which its owner may have edited; one made now for a run of former times."""
    path = folder / README_FILE
    return path.read_bytes() if path.is_file() else readme(folder).encode()


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _say_what(folder: Path, to: Destination, files: Outgoing, say: Say, *, dry: bool) -> None:
    seen = "seen by its owners alone" if to.private else "as open as the account makes it"
    where = f"{to.name}, branch {to.revision or 'main'}, {seen}"
    say(f"{'would leave' if dry else 'leaves'} for {where}:")
    for name, content in files.items():
        say(f"  {name:<28}{_size(content):>14,} bytes")
    stays = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir() if path.name not in files)
    say(f"stays here: {', '.join(stays) or 'nothing'}")


def _send(to: Destination, files: Outgoing) -> str:
    """Send it; returns the address of the commit. Raises as :func:`push`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise ConfigError("push: the Hub takes files with a token alone: hf auth login, or set HF_TOKEN")
    with hub_error(f"push to {to.name}"):
        api = HfApi()
        _open(api, to)
        there = set(api.list_repo_files(to.name, revision=to.revision))
        former = [CommitOperationDelete(name) for name in HUB_FILES if name in there and name not in files]
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        done = api.create_commit(to.name, [*added, *former], commit_message="A run of gps-seg", revision=to.revision)
        return str(done.commit_url)


def _open(api: HfApi, to: Destination) -> None:
    """Make the repository and the branch, where they are not there. Raises ConfigError: it is public and should not be."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(to.name, timeout=SECONDS)  # first, because it alone has a limit of time
    except RepositoryNotFoundError:
        api.create_repo(to.name, private=to.private or None)  # None: as the account's settings say
    else:
        if to.private and not found.private:
            raise ConfigError(f"--private: {to.name} is there already and public: choose another name, or close it on its page")
    if to.revision:
        api.create_branch(to.name, branch=to.revision, exist_ok=True)
