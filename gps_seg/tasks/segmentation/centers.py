"""Which of PolypGen's six centers a frame is from, and which of its frames belong to one sequence.

The folder says it (``images_C3``), else ``manifest.csv`` beside the folder of images (columns ``name`` and ``centre``), else the
frame's name. Source: Ali et al., Scientific Data 2023; names as its single frames are published.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from gps_seg.errors import DataError
from gps_seg.tasks.segmentation.pairs import Pair

CENTERS = (1, 2, 3, 4, 5, 6)
NAMES: dict[int, str] = {
    1: r"(\d+OLCV1_)?100[HS]\d+", 2: r"EndoCV2021_\d+", 3: r"C3_EndoCV2021_\d+",
    4: r"\d+_endocv2021_(positive|negative)_\d+(_\d+)?", 5: r"EndoCV2021_C5_\d+", 6: r"EndoCV2021_C6_\d+",
}
SEQUENCE = r"(\d+)(OLCV1|_endocv2021)_"  # what a name begins with where its number is a patient's or a video's


def center_of(pair: Pair) -> int | None:
    """A frame's center, 1 to 6; None where nothing tells, as for the images of all other sets. Raises DataError."""
    stem, folder = pair.image.stem, pair.image.parent
    if named := re.fullmatch(r"images[-_ ]?c([1-6])", folder.name, re.IGNORECASE):
        return int(named[1])
    if listed := _listed(folder.parent / "manifest.csv").get(stem):
        return listed
    return next((center for center, pattern in NAMES.items() if re.fullmatch(pattern, stem)), None)


def sequence_of(pair: Pair) -> str:
    """What frames of one sequence or patient share, as far as their names tell; else the frame's own id."""
    found = re.match(SEQUENCE, pair.image.stem)
    return found[0] if found else pair.id


def _listed(path: Path) -> Mapping[str, int]:
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> Mapping[str, int]:
    """Name -> center of a manifest; nothing of a file with other columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(row.get("name"), row.get("centre") or "") for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{path}: expected a CSV file with the columns name and centre, cannot read it") from None
    return {name: int(center[-1]) for name, center in rows if name and re.fullmatch(r"[cC]?[1-6]", center)}
