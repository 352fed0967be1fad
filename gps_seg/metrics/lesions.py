"""Polyps one by one, and frames without any. Numpy and OpenCV only.

A polyp is an 8-connected component of at least 0.05 % of the image's area; smaller specks, such as JPEG leaves around hard
masks, are dropped from targets and predictions alike. A target polyp is found if a predicted one overlaps it with
IoU >= 0.5, one to one, the best overlaps first; a predicted polyp that found nothing is a false positive. The MICCAI 2015
rule stands beside it (``_centre``): found if the centroid of a predicted polyp lies on it.

``negatives`` looks at frames whose target mask holds no pixel at all. A frame alarms if one pixel of it is predicted, as in
Dice, where such a frame scores 0; ``polyp_alarm_rate`` asks for a whole predicted polyp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
LEAST_FRACTION = 0.0005
LEAST_IOU = 0.5
# Name and upper end, as a part of the image's area, of each group of polyp sizes.
SIZES = (("under_2_percent", 0.02), ("2_to_10_percent", 0.1), ("10_to_30_percent", 0.3), ("over_30_percent", np.inf))


@dataclass(frozen=True)
class Lesions:
    """One image.

    Attributes:
        areas: each target polyp's part of the image's area, 0..1.
        found, centred: whether each target polyp was found, by overlap and by centroid.
        predicted: number of predicted polyps.
        false, false_centre: predicted polyps that found nothing, by overlap and by centroid.
        empty: the target mask holds no pixel.
        predicted_fraction: predicted part of the image's area, specks included.
        confidence: the highest probability in the image.
    """

    areas: tuple[float, ...]
    found: tuple[bool, ...]
    centred: tuple[bool, ...]
    predicted: int
    false: int
    false_centre: int
    empty: bool
    predicted_fraction: float
    confidence: float


@dataclass(frozen=True, eq=False)
class Components:
    """``labels`` int (H, W), 0 for background; ``areas`` in pixels and ``centroids`` (x, y) of labels 1, 2, ..."""

    labels: NDArray[np.int64]
    areas: NDArray[np.int64]
    centroids: NDArray[np.float64]


def components(mask: Mask) -> Components:
    """The mask's polyps, numbered without gaps."""
    number, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    kept = areas >= LEAST_FRACTION * mask.size
    kept[0] = False
    renamed = np.zeros(number, np.int64)
    renamed[kept] = np.arange(1, np.count_nonzero(kept) + 1)
    return Components(renamed[labels], areas[kept], centroids[kept])


def compare(predicted: Mask, target: Mask, *, confidence: float = 1.0) -> Lesions:
    """Match the polyps of two masks (H, W); ``confidence`` is the highest probability in the image."""
    ours, theirs = components(np.ascontiguousarray(predicted)), components(np.ascontiguousarray(target))
    overlaps = _overlaps(ours, theirs)
    found = _match(overlaps)
    columns, rows = np.rint(ours.centroids).astype(np.int64).T
    struck = theirs.labels[rows, columns]
    centred = np.isin(np.arange(1, theirs.areas.size + 1), struck)
    return Lesions(
        areas=tuple(float(area) / target.size for area in theirs.areas), found=tuple(bool(yes) for yes in found),
        centred=tuple(bool(yes) for yes in centred), predicted=ours.areas.size, false=ours.areas.size - int(found.sum()),
        false_centre=int(np.count_nonzero(struck == 0)), empty=not target.any(),
        predicted_fraction=float(predicted.mean()), confidence=confidence,
    )


def _overlaps(ours: Components, theirs: Components) -> NDArray[np.float64]:
    """IoU of every predicted with every target polyp, (predicted, target)."""
    shape = (ours.areas.size + 1, theirs.areas.size + 1)
    shared = np.bincount((ours.labels * shape[1] + theirs.labels).ravel(), minlength=shape[0] * shape[1])
    shared = shared.reshape(shape)[1:, 1:]
    return shared / (ours.areas[:, None] + theirs.areas - shared)


def _match(overlaps: NDArray[np.float64]) -> Mask:
    """Which target polyps are found. Only an IoU of one half to the pixel can be contested; the first then wins."""
    used, found = np.zeros(overlaps.shape[0], np.bool_), np.zeros(overlaps.shape[1], np.bool_)
    ours, theirs = np.nonzero(overlaps >= LEAST_IOU)
    for at in np.argsort(-overlaps[ours, theirs], kind="stable"):
        if not (used[ours[at]] or found[theirs[at]]):
            used[ours[at]] = found[theirs[at]] = True
    return found


def summarise_polyps(images: Sequence[Lesions]) -> dict[str, Any]:
    """The ``polyps`` block, from at least one image; a rate of nothing is None."""
    areas = np.array([area for image in images for area in image.areas])
    found = np.array([yes for image in images for yes in image.found], np.bool_)
    centred = [yes for image in images for yes in image.centred]
    predicted, false = sum(image.predicted for image in images), sum(image.false for image in images)
    by_size, low = {}, 0.0
    for name, high in SIZES:
        inside = (areas >= low) & (areas < high)
        by_size[name] = {"polyps": int(inside.sum()), "detection_rate": _mean(found[inside])}
        low = high
    hits = int(found.sum())
    return {
        "frames": len(images), "polyps": len(areas), "predicted": predicted,
        "detection_rate": _mean(found), "precision": hits / predicted if predicted else None,
        "f1": 2 * hits / (len(areas) + predicted) if len(areas) + predicted else None,
        "false_positives_per_frame": false / len(images),
        "detection_rate_centre": _mean(centred),
        "false_positives_per_frame_centre": sum(image.false_centre for image in images) / len(images),
        "count_error": float(np.mean([abs(image.predicted - len(image.areas)) for image in images])), "by_size": by_size,
    }


def summarise_negatives(images: Sequence[Lesions], *, has_probabilities: bool = False) -> dict[str, Any]:
    """The ``negatives`` block; only the number of frames, 0, if every frame has a polyp.

    Args:
        has_probabilities: the predictions were not all hard masks, so that ``presence_auroc``, the chance that a frame with
            a polyp has a higher highest probability than one without, means something.
    """
    negatives = [image for image in images if image.empty]
    if not negatives:
        return {"frames": 0}
    areas = [image.predicted_fraction for image in negatives]
    alarms = float(np.mean([area > 0 for area in areas]))
    block = {
        "frames": len(negatives), "false_positive_rate": alarms, "specificity": 1 - alarms,
        "polyp_alarm_rate": float(np.mean([image.predicted > 0 for image in negatives])),
        "false_positives_per_frame": float(np.mean([image.predicted for image in negatives])),
        "area_mean": float(np.mean(areas)), "area_p95": float(np.percentile(areas, 95)),
    }
    positives = [image.confidence for image in images if not image.empty]
    if has_probabilities and positives:
        block["presence_auroc"] = auroc(positives, [image.confidence for image in negatives])
    return block


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Chance that a positive's value is above a negative's, ties counting half; both must hold a value."""
    ranked, values = np.sort(negatives), np.asarray(positives)
    below, upto = np.searchsorted(ranked, values, "left"), np.searchsorted(ranked, values, "right")
    return float(np.mean(below + upto) / (2 * ranked.size))


def _mean(values: Sequence[bool] | Mask) -> float | None:
    return float(np.mean(values)) if len(values) else None
