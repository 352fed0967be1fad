"""Numbers that no set of masks gives together are refused, whether a bug or a hand has made them. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gps_seg.errors import DataError, GpsSegError
from gps_seg.metrics.clicks import AFTER, MEANS
from gps_seg.metrics.masks import METRICS, Counts, check_consistent
from gps_seg.metrics.measures import BLOCKS
from gps_seg.metrics.presence import NAMES as PRESENCE
from gps_seg.metrics.surface import BOUNDARIES

SLACK = 1e-6
COUNTS = ("tp", "fp", "fn", "tn")
PARTS = frozenset({  # names of numbers in 0..1, in every block; the E-measure is none, its divisor is the pixels less one
    *METRICS, "nsd", "hd95_of_diagonal", "mean_dice", "mean_iou", "max_dice", "max_iou", "weighted_f", "s_measure", "mae",
    *PRESENCE, "detection_rate", "detection_rate_centre", "f1", "false_positive_rate", "polyp_alarm_rate", "area_mean", "ece",
    "brier", *MEANS,
})


def check_document(document: Mapping[str, Any]) -> None:
    """Check one report: by itself, and against its rows, whose pixel counts decide.

    Raises:
        DataError: it is not of a report's form, or a row's numbers are missing.
        GpsSegError: a number is out of its range, is not finite, or contradicts another.
    """
    try:
        _check_ranges(document)
        _check_pairs(document)
        if "images" in document:
            _check_rows(document, document["images"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        where = f" (at {error.args[0]!r})" if isinstance(error, KeyError) else ""
        raise DataError(f"expected the JSON of gps-seg score or evaluate; this one is damaged{where}") from None


def _check_ranges(document: Mapping[str, Any]) -> None:
    for block in (*BLOCKS, "unseen_centers", "clicks"):
        for name, value in _numbers(document.get(block) or {}, block):
            last = name.rpartition(".")[2]
            if not math.isfinite(value):
                raise GpsSegError(f"{name} is {value}: expected a finite number")
            if value < -SLACK or (last in PARTS and value > 1 + SLACK):
                raise GpsSegError(f"{name} is {value:.6g}, outside of {'0 to 1' if last in PARTS else 'what can be'}")
    for block, found in (document.get("intervals") or {}).items():
        for name, (low, high) in found.items():
            if not low <= high:
                raise GpsSegError(f"intervals.{block}.{name} runs from {low:.6g} to {high:.6g}")


def _numbers(block: Mapping[str, Any], place: str) -> Iterator[tuple[str, float]]:
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}.{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{place}.{name}", float(value)


def _check_pairs(document: Mapping[str, Any]) -> None:
    pairs = [("per_image", "dice", "iou"), ("dataset", "dice", "iou"), ("pranet", "mean_dice", "mean_iou"),
             ("pranet", "max_dice", "max_iou")]
    if document.get("clicks", {}).get("images"):
        pairs += [("clicks", f"dice_after_{number}", f"iou_after_{number}") for number in AFTER]
    for block, dice, iou in pairs:
        if block in document:
            try:
                check_consistent(document[block][dice], document[block][iou])
            except GpsSegError as error:
                raise GpsSegError(f"{block}: {error}") from None
    pooled = document["dataset"]
    both = pooled["precision"] + pooled["recall"]
    _must_equal("dataset.dice", pooled["dice"], 2 * pooled["precision"] * pooled["recall"] / both if both else pooled["dice"],
                "precision and recall give")
    _must_equal("dataset.iou", pooled["iou"], pooled["dice"] / (2 - pooled["dice"]), "pooled Dice gives")


def _check_rows(document: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> None:
    _must_equal("n", document["n"], len(images), "the rows of images are")
    pooled = Counts(0, 0, 0, 0)
    for image in images:
        counts = Counts(*(image[name] for name in COUNTS))
        pooled += counts
        for name, metric in METRICS.items():
            if name in image:
                _must_equal(f"images, {image['id']}: {name}", image[name], metric(counts), "its pixel counts give")
    for name, metric in METRICS.items():
        if name in document["dataset"]:
            _must_equal(f"dataset.{name}", document["dataset"][name], metric(pooled), "the images' pixel counts give")
    for name in (*METRICS, *BOUNDARIES):
        if name in document["per_image"] and all(name in image for image in images):
            mean = float(np.mean([image[name] for image in images]))
            _must_equal(f"per_image.{name}", document["per_image"][name], mean, "the mean of the images' rows is")


def _must_equal(name: str, said: float, found: float, why: str) -> None:
    if not abs(said - found) <= SLACK * max(1.0, abs(found)):
        raise GpsSegError(f"{name} is {said:.6g}, but {why} {found:.6g}: the numbers come from different masks or definitions")
