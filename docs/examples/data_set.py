"""Two data sets: one of images with masks, in a layout of its own; one of images with labels, in a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from gps_seg.errors import DataError
from gps_seg.tasks.classification.catalog import Adapter
from gps_seg.tasks.classification.items import Item, Parts
from gps_seg.tasks.segmentation.known import KnownSet

# Masks: one entry of KNOWN in tasks/segmentation/known.py
CLINIC = KnownSet(
    title="Pictures of a clinic", images=12, folders=("my-clinic*",), source="the clinic, on request", terms="research only",
    layouts=(("pictures", "outlines"),), mask_name=r"(.+)_outline", note="outlines by one endoscopist",
)


# Labels: a reader, and one entry of ADAPTERS in tasks/classification/catalog.py
def read_table(root: Path) -> Parts:
    """table.csv with the columns file, class and part (train or test); files are below ``root``."""
    try:
        rows = list(csv.DictReader((root / "table.csv").read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise DataError(f"cannot read {root / 'table.csv'}: {error.strerror}") from None
    classes = tuple(sorted({row["class"] for row in rows}))

    def part(name: str) -> Sequence[Item]:
        return [Item(root / row["file"], classes.index(row["class"]), row["file"]) for row in rows if row["part"] == name]

    return Parts(train=part("train"), val=None, test=part("test"), class_names=classes)


SHAPES = Adapter(
    read_table, classes=2, train=20, test=8, folders=("my-shapes",), layouts=(("table.csv",),), where="whoever drew it",
)
