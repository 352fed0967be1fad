"""``gps-seg models list``: the ready models that are here."""

from __future__ import annotations

from gps_seg.commands.models.page import headline
from gps_seg.errors import CheckpointError
from gps_seg.runs.card import read_card
from gps_seg.runs.ready import own, packaged, ready_models


def describe_models() -> str:
    """A few lines a model: name, base, size, what it is, its Dice; a damaged one says so. And where they were looked for."""
    lines = [line for name in ready_models() for line in _describe(name)]
    hidden = [folder.name for folder in (own().iterdir() if own().is_dir() else ()) if (packaged() / folder.name).is_dir()]
    lines += [f"{own() / name}: hidden by the package's model of that name" for name in hidden]
    return "\n".join([*(lines or ["no ready model is installed"]), f"searched {packaged()} and {own()}"])


def _describe(name: str) -> list[str]:
    try:
        card = read_card(ready_models()[name])
    except CheckpointError as error:
        return [f"{name}: {error}"]
    return [f"{name}  {card.words.summary}", f"  {card.base.name}, {card.method.name}, {card.method.folder_bytes / 1e6:.2f} MB",
            f"  {headline(card)}"]
