"""From a report of ``gps-seg evaluate`` to what a card keeps of it: every number with its interval, and no row of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gps_seg.errors import ConfigError, DataError
from gps_seg.files import read_json
from gps_seg.metrics.contradictions import check_document
from gps_seg.metrics.lesions import SIZES
from gps_seg.metrics.measures import BLOCKS
from gps_seg.metrics.statistics import mean_interval
from gps_seg.runs.card import Measured, Number, Surroundings
from gps_seg.tasks.segmentation.sets import title_of

Document = Mapping[str, Any]
NEEDED = {"n", "per_image", "dataset", "images", "settings", "run"}
NO_NUMBERS = ("settings", "statistics", "intervals", "omitted", "run")
DIGITS = 6


def read_reports(arguments: Sequence[str]) -> list[Document]:
    """The documents of ``NAME=FILE`` arguments; NAME is the data set's, in a file of several sets it says which.

    Raises:
        ConfigError: another form, or the report is of another set.
        DataError: no report of gps-seg evaluate.
        GpsSegError: its numbers contradict each other.
    """
    found = []
    for text in arguments:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--report: expected NAME=FILE, such as kvasir-seg=report.json, got {text!r}")
        found.append(_read(name, Path(path)))
    return found


def _read(name: str, path: Path) -> Document:
    document = read_json(path, "the JSON of gps-seg evaluate", DataError)
    if isinstance(document, dict) and "sets" in document:
        document = document["sets"].get(name) or document
    if not isinstance(document, dict) or not set(document) >= NEEDED or "files" not in document["run"]:
        raise DataError(f"{path}: expected the JSON of gps-seg evaluate, as this version writes it, on {name}")
    check_document(document)
    if document["settings"]["data"] != name:
        raise ConfigError(f"--report {name}={path}: the report is of {document['settings']['data']}")
    return document


def measured(document: Document) -> Measured:
    """What a card keeps of a report."""
    settings, run = document["settings"], document["run"]
    data = str(settings["data"])
    return Measured(
        data=data, title=title_of(data), split=settings["split"], prompt=settings["prompt"], threshold=settings["threshold"],
        presence=settings.get("presence"), flips=settings.get("flips", False), images=document["n"],
        files_sha256=settings["files_sha256"], trained_on=settings["images_trained_on"],
        corrupted=document["corruptions"]["n"] if "corruptions" in document else None, blocks=blocks_of(document),
        warnings=tuple(str(text) for key, text in settings.items() if key.endswith("warning")), numbers=numbers(document),
        made=surroundings_of(run),
    )


def surroundings_of(run: Document) -> Surroundings:
    """Where a report or a run was computed, from its ``run`` block."""
    return Surroundings(**{name: run[name] for name in Surroundings.model_fields})


def blocks_of(document: Document) -> tuple[str, ...]:
    """What ``--blocks`` measured."""
    return tuple(name for name in BLOCKS if name in document and (name != "per_image" or "hd95" in document[name]))


def numbers(document: Document) -> dict[str, Number]:
    """Every number of the blocks by block and name, with its interval; and Dice by the size of the polyps."""
    intervals = document.get("intervals") or {}
    found: dict[str, Number] = {}
    for block, values in document.items():
        if isinstance(values, Mapping) and block not in NO_NUMBERS:
            found.update(_flat(values, block, intervals.get(block) or {}))
    return found | dict(_by_size(document))


def _flat(values: Document, place: str, intervals: Document) -> Iterator[tuple[str, Number]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}.{name}", {})
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{place}.{name}", _number(value, intervals.get(name) or _interval_beside(values, name))


def _interval_beside(values: Document, name: str) -> Sequence[float] | None:
    """Of a drop under corruptions, whose interval stands beside it."""
    return values.get("interval" if name == "drop" else f"{name}_interval")


def _number(value: int | float, ends: Sequence[float] | None) -> Number:
    low, high = (round(end, DIGITS) for end in ends) if ends else (None, None)
    return Number(value=value if isinstance(value, int) else round(value, DIGITS), low=low, high=high)


def _by_size(document: Document) -> Iterator[tuple[str, Number]]:
    """Mean Dice of the images whose polyps cover so much of them; intervals where images were drawn singly."""
    rows = [(image["dice"], (image["tp"] + image["fn"]) / sum(image[name] for name in ("tp", "fp", "fn", "tn")))
            for image in document["images"] if image["tp"] + image["fn"]]
    low, grouped = 0.0, bool((document.get("statistics") or {}).get("grouped"))
    for name, high in SIZES:
        dices = [dice for dice, area in rows if low <= area < high]
        low = high
        if dices:
            ends = mean_interval(dices) if len(dices) > 1 and not grouped else None
            yield f"by_size.{name}.images", Number(value=len(dices))
            yield f"by_size.{name}.dice", _number(sum(dices) / len(dices), ends)
