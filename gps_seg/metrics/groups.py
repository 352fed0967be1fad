"""Which images belong together: frames of a sequence, pictures of a patient. Intervals then draw whole groups."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from gps_seg.errors import DataError, first_names


def read_groups(path: Path, ids: Sequence[str]) -> list[str]:
    """The group of each image, from a CSV file with a row ``stem,group`` for each; other stems are passed over.

    Raises:
        DataError: unreadable, a row without two cells, a stem in two groups, or images without a group.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in cells] for cells in csv.reader(file) if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the groups in {path}: {getattr(error, 'strerror', None) or 'not a CSV file'}") from None
    groups: dict[str, str] = {}
    for cells in rows:
        if len(cells) != 2 or not all(cells):
            raise DataError(f"{path}: expected rows of stem,group, got {','.join(cells)!r}")
        if groups.setdefault(cells[0], cells[1]) != cells[1]:
            raise DataError(f"{path}: {cells[0]} is in two groups, {groups[cells[0]]} and {cells[1]}")
    if absent := [id_ for id_ in ids if id_ not in groups]:
        raise DataError(f"{path}: {len(absent)} images have no group: {first_names(absent)}")
    return [groups[id_] for id_ in ids]
