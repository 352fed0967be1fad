"""The card of a ready model: what it is for, what it was made of, what was measured, and what it must not be used for.

``card.json`` of a ready model's folder. Words come from the YAML file given to ``gps-seg models pack`` (:class:`Words`); every
number comes from a file that a command wrote: the run's own, or a report of ``gps-seg evaluate``. Loads without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from gps_seg.config import Section
from gps_seg.runs.folder import read_page

CARD_FILE, PAGE_FILE = "card.json", "card.md"


class Words(Section):
    """What no command can know: the YAML file of ``gps-seg models pack --words``."""

    summary: str = Field(min_length=1, description="one line, for gps-seg models list")
    purpose: tuple[str, ...] = Field(min_length=1, description="what it is for, a sentence each")
    not_for: tuple[str, ...] = Field(min_length=1, description="what it is not for, a sentence each")
    limits: tuple[str, ...] = Field(min_length=1, description="what is known to go wrong, a sentence each")
    remarks: tuple[str, ...] = Field((), description="what else a reader should know of how it was made")
    data_terms: str | None = Field(None, description="terms of the training data, where it is no known set; else an error")


class Number(Section):
    """A number of a report, with its 95 % interval where it has one."""

    value: int | float
    low: float | None = None
    high: float | None = None


class Surroundings(Section):
    """Where and with what something was computed."""

    hardware: str
    precision: str
    revision: str
    versions: dict[str, str]


class Measured(Section):
    """One report of ``gps-seg evaluate`` on the model as packed.

    Attributes:
        data, split, prompt, threshold: the protocol; ``data`` as gps-seg evaluate --data names it, ``split`` "all" for a whole
            set.
        presence: quality below which the answer was none; None for a model without a trained quality, or with a prompt.
        flips: whether answers were means over mirror images.
        title: of the set, as its authors write it.
        images: number of images. files_sha256: over their names and bytes and their masks'.
        trained_on: how many of them the run had trained on; None where that could not be told.
        corrupted: how many of them were scored under every corruption.
        blocks: what was measured, as --blocks takes it.
        warnings: what a reader of the scores must know.
        numbers: by block and name, such as per_image.dice; ``by_size`` holds the Dice of images by the area of their polyps.
    """

    data: str
    title: str
    split: str
    prompt: str
    threshold: float
    presence: float | None
    flips: bool
    images: int
    files_sha256: str
    trained_on: int | None
    corrupted: int | None
    blocks: tuple[str, ...]
    warnings: tuple[str, ...]
    numbers: dict[str, Number]
    made: Surroundings

    @property
    def label(self) -> str:
        """For tables: the set and its part, and what of the answers was done differently."""
        said = [self.title, *([f"{self.split} part"] if self.split != "all" else []),
                *(["every mask shown"] if self.presence == 0 else []), *(["mean over flips"] if self.flips else [])]
        return ", ".join(said)

    @property
    def key(self) -> tuple[str, str, str, float | None, bool]:
        """What no two reports of a card share."""
        return self.data, self.split, self.prompt, self.presence, self.flips


class Base(Section):
    """The pretrained model: its name, the fingerprint of its weights, their licence, what is known of the data it saw."""

    name: str
    sha256: str
    licence: str
    note: str


class Training(Section):
    """What was trained on: data sets with titles and terms, the protocol, and at which size of picture."""

    data: str
    title: str
    terms: str
    protocol: str
    beside: tuple[str, ...]
    input_size: int


class Method(Section):
    """What trained, and what is stored.

    Attributes:
        counts: trained values by role, their sum ``trainable``, the model's ``parameters``.
        delta_bytes: of adapter_model.safetensors. folder_bytes: of all files but the card.
        relative, absolute, small: what rounding to 16 bits cost, see ``runs.compact.Rounding``.
    """

    name: str
    counts: dict[str, int]
    delta_bytes: int
    folder_bytes: int
    relative: float
    absolute: float
    small: int


class Made(Section):
    """How and when: the commands, the run's seed, steps and seconds, and its surroundings."""

    commands: tuple[str, ...]
    seed: int
    steps: int
    seconds: float
    packed: str
    where: Surroundings


class Card(Section):
    """card.json.

    Attributes:
        threshold: above which a pixel is polyp.
        presence: below which quality the answer is none; None for a model that always shows its mask.
        calibration: in words, from calibration.json; None without one.
        files: sha256 of every other file of the folder by its name, but card.md.
    """

    format: Literal[1]
    name: str
    words: Words
    base: Base
    training: Training
    method: Method
    threshold: float
    presence: float | None
    calibration: str | None
    measured: tuple[Measured, ...]
    made: Made
    files: dict[str, str]


def read_card(folder: Path) -> Card:
    """The card of a ready model's folder. Raises CheckpointError: there is none, or it was edited or damaged."""
    return read_page(Card, folder / CARD_FILE, "the card of a ready model")


def dump_card(card: Card) -> str:
    """The card as JSON that :func:`read_card` reads back unchanged; a number a line."""
    document = card.model_dump(mode="json")
    for measured in document["measured"]:
        measured["numbers"] = {name: {key: value for key, value in number.items() if value is not None}
                               for name, number in measured["numbers"].items()}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
