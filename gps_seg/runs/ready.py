"""Ready models: run folders with a card, found by a bare name wherever a run is expected. Loads without torch.

They lie in ``gps_seg/ready/NAME`` of the package, and the user's own in ``$GPS_SEG_CACHE/ready/NAME``. Who opens one, by name
or by path, gets it as it was packed or an error: its card knows the hash of every file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from gps_seg.data.places import cache_folder, subfolders
from gps_seg.errors import CheckpointError
from gps_seg.files import sha256
from gps_seg.runs.calibration import CALIBRATION_FILE
from gps_seg.runs.card import CARD_FILE, PAGE_FILE, read_card
from gps_seg.runs.folder import CONFIG_FILE, DELTA_CONFIG, DELTA_FILE, RESULT_FILE
from gps_seg.runs.hub import fetch_run, split_name

DEFAULT = "polyp"  # what gps-seg app opens by itself
MODEL_FILES = (DELTA_FILE, DELTA_CONFIG, CONFIG_FILE, CALIBRATION_FILE)  # what an answer depends on
READY_FILES = (*MODEL_FILES, RESULT_FILE, CARD_FILE, PAGE_FILE)
Say = Callable[[str], object]


def packaged() -> Path:
    """The folder of the ready models that come with the package."""
    return Path(str(resources.files("gps_seg").joinpath("ready")))


def own() -> Path:
    """The folder of the user's own ready models."""
    return cache_folder() / "ready"


def ready_models() -> dict[str, Path]:
    """Name -> folder of every ready model, the package's first; one of the package hides one of the user's of the same name."""
    found = {folder.name: folder for place in (own(), packaged()) for folder in subfolders(place) if is_ready(folder)}
    return dict(sorted(found.items(), key=lambda item: (item[1].parent != packaged(), item[0])))


def run_folder(name: str | Path, say: Say = print, *, network: bool = True) -> Path:
    """The folder that is meant where a run is expected: a run folder, a ready model by its bare name, or a run on the Hub.

    A run folder of that name in the current directory wins over the others, and where it hides a ready model ``say`` is told so.

    Args:
        network: whether the Hub may be asked, see :func:`gps_seg.runs.hub.fetch_run`.

    Raises:
        CheckpointError: none of them is there, or a file of a ready model was changed.
    """
    path, model = Path(name), ready_models().get(str(name))
    if model is not None and (path / DELTA_CONFIG).is_file() and path.resolve() != model.resolve():
        say(f"{name}: the run folder here is meant, not the ready model of that name, which is {model}")
        path = path.absolute()
    elif model is not None:
        path = model
    elif not path.is_dir():
        path = _on_the_hub(str(name), say, network=network)
    check_whole(path)
    return path


def ready_folder(name: str) -> Path:
    """The folder of a ready model by its name, or by its path; its files are not looked at. Raises CheckpointError: none."""
    if (Path(name) / CARD_FILE).is_file():
        return Path(name)
    if name in (models := ready_models()):
        return models[name]
    raise CheckpointError(f"expected the name of a ready model, got {name!r}{_nearest(name)}")


def is_ready(folder: Path) -> bool:
    """Whether a run folder is a ready model, which nothing may change."""
    return (folder / CARD_FILE).is_file()


def check_whole(folder: Path) -> None:
    """Raise CheckpointError if a file of a ready model was changed or is missing; a run folder without a card is let pass."""
    if not is_ready(folder):
        return
    known = read_card(folder).files
    for file in MODEL_FILES:
        if (folder / file).is_file() and file not in known:
            raise CheckpointError(f"ready model {folder.name}: {folder / file} was added since it was packed: install it again; "
                                  f"a copy of the folder without {CARD_FILE} is a run of your own")
    for file, digest in known.items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            raise CheckpointError(f"ready model {folder.name}: {folder / file} was changed since it was packed, or is missing: "
                                  f"install it again; a copy of the folder without {CARD_FILE} is a run of your own")


def model_files(folder: Path) -> dict[str, str]:
    """Sha256 of the files of a run folder that decide its answers, by name: whether a report is of this model."""
    return {file: sha256(folder / file) for file in MODEL_FILES if (folder / file).is_file()}


def _on_the_hub(name: str, say: Say, *, network: bool) -> Path:
    if split_name(name) is None:
        other = f"; {name}@main would be one on the Hub" if split_name(f"{name}@main") else ""
        raise CheckpointError(f"{_neither(name)}{other}")
    try:
        return fetch_run(name, say, network=network)
    except CheckpointError as error:
        raise CheckpointError(f"{_neither(name)}; nor as a name on the Hub: {error}") from None


def _neither(name: str) -> CheckpointError:
    if Path(name).name != name:
        return CheckpointError(f"expected a run folder at {name}, found none; gps-seg train CONFIG --out DIR makes one")
    return CheckpointError(f"expected a run folder at {name}, or the name of a ready model, found neither{_nearest(name)}; "
                           "gps-seg train CONFIG --out DIR makes a run")


def _nearest(name: str) -> str:
    names = list(ready_models())
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ";"
    return f"{meant} ready models: {', '.join(names)}" if names else "; no ready model is installed"
