"""``gps-seg score``: folders of masks in, tables out. Needs no torch.

The JSON document has stable keys: ``schema`` (1), ``n``, ``empty_targets``, ``per_image.*``, ``dataset.*`` (see
``metrics.aggregate``), ``aggregation`` (what the two names mean), ``settings`` (the protocol), and ``images``, a list of
one row an image with ``id``, ``dice``, ``iou``, ``precision``, ``recall``, ``tp``, ``fp``, ``fn``, ``tn``, ``target_fraction``.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import images_by_stem, list_images, read_mask
from gps_seg.errors import DataError
from gps_seg.metrics import ImageScore, aggregate, score_image

AGGREGATION = "per_image: mean over images; dataset: pixel counts pooled over all images; foreground only"


def score_folders(
    predicted: Path, target: Path, *, allow_missing: bool = False, resize_predicted: bool = False
) -> list[ImageScore]:
    """Score every target mask against the predicted mask of the same file stem.

    Args:
        predicted, target: folders of mask images; a ``masks`` folder inside ``target`` is used if target has no images.
        allow_missing: a target without prediction counts as an empty prediction instead of an error.
        resize_predicted: predictions of another size are resized to the target's (nearest) instead of an error.

    Raises:
        DataError: names the files that are missing, surplus, doubled, unreadable or of another size.
    """
    targets, predictions = images_by_stem(_mask_folder(target)), images_by_stem(_existing(predicted))
    missing, surplus = sorted(set(targets) - set(predictions)), sorted(set(predictions) - set(targets))
    if surplus:
        raise DataError(f"{predicted}: {len(surplus)} predictions without a target mask in {target}: {_first(surplus)}")
    if missing and not allow_missing:
        raise DataError(f"{predicted}: {len(missing)} predictions are missing: {_first(missing)}; "
                        "--allow-missing counts them as empty")
    return [_score_pair(stem, predictions.get(stem), path, resize=resize_predicted) for stem, path in sorted(targets.items())]


def _score_pair(stem: str, predicted: Path | None, target: Path, *, resize: bool) -> ImageScore:
    truth = read_mask(target)
    found = np.zeros_like(truth) if predicted is None else read_mask(predicted)
    if resize and found.shape != truth.shape:
        found = _resize(found, truth.shape)
    try:
        return score_image(stem, found, truth)
    except DataError as error:
        raise DataError(f"{error}, or add --resize-pred") from None


def _resize(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT) > 0


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"expected a folder of masks at {folder}, found none")
    return folder


def _mask_folder(folder: Path) -> Path:
    if not list_images(_existing(folder)) and (folder / "masks").is_dir():
        return folder / "masks"
    return folder


def _first(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def report(scores: Sequence[ImageScore], *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document of a set of scores; ``settings`` is the protocol it was measured under."""
    return {"schema": 1, **aggregate(scores), "aggregation": AGGREGATION, "settings": dict(settings),
            "images": [asdict(score) for score in scores]}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document atomically. Raises DataError if it cannot be written."""
    _write(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, scores: Sequence[ImageScore]) -> None:
    """One row an image, columns as in ``images``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def table(document: Mapping[str, Any]) -> str:
    """The document for a terminal; the last line is the two means and what they are."""
    mean, pooled = document["per_image"], document["dataset"]
    lines = [f"{'':<10} {'Dice':>7} {'IoU':>7} {'prec.':>7} {'recall':>7}"]
    for label, row in (("per_image", mean), ("dataset", pooled)):
        lines.append(f"{label:<10} " + " ".join(f"{row[name]:>7.4f}" for name in ("dice", "iou", "precision", "recall")))
    lines.append(f"Dice median {mean['dice_median']:.4f}, sd {mean['dice_sd']:.4f}, 5th percentile {mean['dice_p5']:.4f}; "
                 f"IoU below 0.5: {100 * mean['iou_below_half']:.1f} % of images")
    if document["empty_targets"]:
        lines.append(f"{document['empty_targets']} images have an empty target: 1 if nothing is predicted on them, else 0")
    shown = ", ".join(f"{key} {value}" for key, value in document["settings"].items() if value not in ("", None))
    lines += [f"protocol: {shown}"] if shown else []
    return "\n".join([*lines, headline(document)])


def headline(document: Mapping[str, Any]) -> str:
    """The two means, with the name of their aggregation and the number of images."""
    mean = document["per_image"]
    return f"mDice {mean['dice']:.4f} mIoU {mean['iou']:.4f} (per_image, {document['n']} images)"
