"""``gps-seg predict --coco FILE``: what was found, as one COCO document; a file of it trains and scores again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gps_seg.data.coco import run_lengths
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import replacing
from gps_seg.tasks.segmentation.task import Segmentation

CATEGORY = {"id": 1, "name": "polyp", "supercategory": "polyp"}
Annotation = dict[str, Any]


def annotations_of(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> tuple[Annotation, ...]:
    """A mask's 8-connected parts, top to bottom: ``segmentation`` as run lengths (exact), ``polygons`` (outlines through the
    middles of pixels, without holes), bbox x, y, width, height, area in pixels, and score: the mean probability inside.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return tuple(_annotation(labels == number, probability) for number in range(1, count + 1))


def _annotation(part: NDArray[np.bool_], probability: NDArray[np.float32]) -> Annotation:
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "segmentation": run_lengths(part), "polygons": [line.reshape(-1).tolist() for line in outlines if len(line) > 2],
        "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1], "area": int(part.sum()),
        "score": round(float(probability[part].mean()), 6), "iscrowd": 0, "category_id": CATEGORY["id"],
    }


def check_coco(path: Path | None, task: object, *, replace: bool) -> None:
    """Raise before anything is predicted: ConfigError for classes, DataError for a file that is there and not to be replaced."""
    if path is not None and not isinstance(task, Segmentation):
        raise ConfigError("--coco: only masks are written as COCO, and this run answers with classes")
    if path is not None and path.exists() and not replace:
        raise DataError(f"{path} is there already; choose another --coco or add --overwrite")


def write_coco(path: Path, found: Callable[[], Iterator[Mapping[str, Any]]]) -> None:
    """Write all images and their annotations as one COCO document, one image at a time in memory.

    Args:
        found: gives file name (``image``), ``size`` (height, width) and ``annotations`` of every image, each time anew.
    """
    with replacing(path) as file:
        file.write(f'{{\n  "info": {_indented({"description": "gps-seg predict"})},\n  "images": '.encode())
        _write_list(file, ({"id": number, "file_name": one["image"], "height": one["size"][0], "width": one["size"][1]}
                           for number, one in enumerate(found(), start=1)))
        file.write(f',\n  "categories": {_indented([CATEGORY])},\n  "annotations": '.encode())
        parts = ((number, part) for number, one in enumerate(found(), start=1) for part in one["annotations"])
        _write_list(file, ({"id": index, "image_id": number, **part} for index, (number, part) in enumerate(parts, start=1)))
        file.write(b"\n}\n")


def _write_list(file: BinaryIO, values: Iterable[Any]) -> None:
    begin = b"[\n    "
    for value in values:
        file.write(begin + _indented(value, 4).encode())
        begin = b",\n    "
    file.write(b"[]" if begin.startswith(b"[") else b"\n  ]")


def _indented(value: Any, by: int = 2) -> str:
    """As :func:`gps_seg.files.write_json` would write it at this depth."""
    return json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n" + " " * by)
