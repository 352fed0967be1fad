"""From the scores of images to the numbers of a data set, each with its 95 % interval. Needs no torch.

The JSON document has stable keys, schema 2 (schema 1 plus what is marked +):

- ``schema``, ``n``, ``empty_targets``, ``aggregation`` (what the names mean), ``settings`` (the protocol);
- ``per_image``, ``dataset``: see ``masks.aggregate``; + ``per_image.hd95``, ``.hd95_of_diagonal``, ``.nsd`` and how many
  images have one or both masks empty, as far as boundaries were asked for;
- + ``pranet``, ``polyps``, ``negatives``, ``calibration``: the blocks asked for, see their modules;
- + ``negatives`` also says how well frames with and without a polyp are told apart, see ``metrics.presence``;
- + ``unseen_centers``: where frames of some centers trained, the same of all others' frames, and their number ``n``;
- + ``clicks``: where clicks were simulated, see ``metrics.clicks``;
- + ``intervals``: ``intervals.per_image.dice`` is [low, high], likewise for other means; none for a single image or group;
- + ``statistics``: how the intervals were made; + ``omitted``: blocks asked for that mean nothing here, and why;
- + ``corruptions``: under ``evaluate --corruptions`` only, see ``commands.corruptions``;
- + ``gps_legacy``: under data.protocol=released, and where it was asked for, see :func:`gps_legacy`;
- ``images``: one row an image, see ``measures.row``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.metrics import calibration, clicks, lesions, pranet, presence
from gps_seg.metrics.contradictions import check_document
from gps_seg.metrics.masks import METRICS, ImageScore, aggregate
from gps_seg.metrics.measures import BlockScore, row
from gps_seg.metrics.statistics import LEVEL, RESAMPLES, clusters, interval, resample
from gps_seg.metrics.surface import BOUNDARIES

SCHEMA = 2
AGGREGATION = "per_image: mean over images; dataset: pixel counts pooled over all images; foreground only"
HARD = "the predictions are hard masks: they hold no probabilities to calibrate"

Float = NDArray[np.float64]
# A block's columns (n, k), which add up over images, and the numbers they give: sums (..., k) -> values (...).
Resampled = tuple[Float, Callable[[Float], dict[str, Float]]]


def report(
    scores: Sequence[ImageScore], *, settings: Mapping[str, Any], groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The JSON document of a set of scores.

    Args:
        settings: the protocol it was measured under.
        groups: a sequence, patient or duplicate group for each image; intervals then draw whole groups.
        resamples: of the bootstrap.

    Raises:
        DataError: no image, or another number of groups.
        GpsSegError: two numbers contradict each other.
    """
    document: dict[str, Any] = {"schema": SCHEMA, **aggregate(scores)}
    full = [score for score in scores if isinstance(score, BlockScore)]
    omitted = _add_blocks(document, full) if len(full) == len(scores) else {}
    number = int(clusters(groups, len(scores)).max()) + 1
    drawn = _resampled(scores, full, document)
    document["intervals"] = {
        name: _intervals(columns, values, groups, resamples) for name, (columns, values) in drawn.items()
    } if number > 1 else {}
    if document.get("negatives", {}).get("frames"):
        _add_presence(document, "negatives", full, groups, resamples)
    if full and settings.get("trained_centers"):
        _add_unseen(document, settings["trained_centers"], full, groups, resamples)
    document |= {
        "statistics": {"level": LEVEL, "resamples": resamples, "seed": 0, "clusters": number, "grouped": groups is not None},
        "omitted": omitted, "aggregation": AGGREGATION, "settings": dict(settings), "images": _rows(scores),
    }
    if settings.get("data_protocol") == "released" or any(score.legacy for score in full):
        document["gps_legacy"] = gps_legacy(document["dataset"]["recall"])
    check_document(document)
    return document


def _rows(scores: Sequence[ImageScore]) -> list[dict[str, Any]]:
    """A row an image; with the center of each where the set tells any, since all rows of a table have the same columns."""
    centers = [getattr(score, "center", None) for score in scores]
    return [row(score) | ({"center": center} if any(centers) else {}) for score, center in zip(scores, centers, strict=True)]


def _add_presence(
    document: dict[str, Any], block: str, scores: Sequence[BlockScore], groups: Sequence[str] | None, resamples: int
) -> None:
    """Into a block of the document and its intervals: how well frames with and without a polyp are told apart."""
    found, maps = [score.evidence for score in scores if score.evidence], any(score.is_map for score in scores)
    document[block] |= presence.summarise(scores, found, has_probabilities=maps)
    if block in document["intervals"]:
        document["intervals"][block] |= presence.intervals(scores, found, groups, resamples=resamples, has_probabilities=maps)


def _add_unseen(
    document: dict[str, Any], trained: Sequence[int], scores: Sequence[BlockScore], groups: Sequence[str] | None, resamples: int
) -> None:
    """The block of the frames whose center no training frame is from; nothing where the scored set tells no center."""
    kept = [at for at, score in enumerate(scores) if score.lesions and score.center is not None and score.center not in trained]
    if not kept:
        return
    unseen, clustered = [scores[at] for at in kept], None if groups is None else [groups[at] for at in kept]
    looked = [score.lesions for score in unseen if score.lesions]
    document["unseen_centers"] = {
        "centers": sorted({score.center for score in unseen if score.center}), "n": len(unseen),
        **lesions.summarise_negatives(looked, has_probabilities=any(score.is_map for score in unseen)),
    }
    several = int(clusters(clustered, len(unseen)).max()) > 0 and document["unseen_centers"]["frames"]
    if several:
        document["intervals"]["unseen_centers"] = _intervals(*_alarms(looked), clustered, resamples)
    if document["unseen_centers"]["frames"]:
        _add_presence(document, "unseen_centers", unseen, clustered, resamples)
    else:
        document["unseen_centers"]["polyps_dice"] = float(np.mean([score.dice for score in unseen]))


def gps_legacy(recall: float) -> dict[str, Any]:
    """What the released GPS scorer calls mDice and mIoU: background pixels are dropped, so false positives never count.

    Only pooled recall R is left: its mIoU is R, its mDice 2R / (1 + R); an all-foreground mask scores 1. Source:
    FightingFighting/GPS, SAM/test.py, mmseg's metrics with ignore_index=0.
    """
    return {"dice": 2 * recall / (1 + recall), "iou": recall,
            "warning": "background is ignored: an all-foreground mask scores 1; never compare with any other number"}


def _add_blocks(document: dict[str, Any], scores: Sequence[BlockScore]) -> dict[str, str]:
    """Add every block the scores hold; returns what was left out, and why."""
    surfaces = [score.surface for score in scores if score.surface]
    sweeps = [score.sweep for score in scores if score.sweep]
    found = [score.lesions for score in scores if score.lesions]
    counted = [score.reliability for score in scores if score.reliability]
    maps = any(score.is_map for score in scores)
    if surfaces:
        document["per_image"] |= {
            **{name: float(np.mean([getattr(one, name) for one in surfaces])) for name in BOUNDARIES},
            "one_mask_empty": sum((score.tp + score.fn == 0) != (score.tp + score.fp == 0) for score in scores),
            "both_masks_empty": sum(score.tp + score.fn + score.fp == 0 for score in scores),
        }
    if sweeps:
        document["pranet"] = pranet.summarise(sweeps)
    if found:
        document["polyps"] = lesions.summarise_polyps(found)
        document["negatives"] = lesions.summarise_negatives(found, has_probabilities=maps)
    if clicked := [score.clicks for score in scores if score.clicks]:
        document["clicks"] = clicks.summarise(clicked)
    if counted and maps:
        document["calibration"] = calibration.summarise(counted)
    return {"calibration": HARD} if counted and not maps else {}


def _resampled(scores: Sequence[ImageScore], full: Sequence[BlockScore], document: Mapping[str, Any]) -> dict[str, Resampled]:
    made = {"per_image": _means(scores, full), "dataset": _pooled(scores)}
    if "pranet" in document:
        made["pranet"] = _curves([score.sweep for score in full if score.sweep])
    if "polyps" in document:
        made["polyps"] = _rates([score.lesions for score in full if score.lesions])
        if document["negatives"]["frames"]:
            made["negatives"] = _alarms([score.lesions for score in full if score.lesions])
    if "clicks" in document:
        made["clicks"] = clicks.resampled([score.clicks for score in full if score.clicks])
    if "calibration" in document:
        columns = np.stack([score.reliability.sums for score in full if score.reliability])
        made["calibration"] = columns, lambda sums: dict(zip(("ece", "brier"), np.moveaxis(calibration.errors(sums), -1, 0),
                                                             strict=True))
    return made


def _intervals(
    columns: Float, values: Callable[[Float], dict[str, Float]], groups: Sequence[str] | None, resamples: int
) -> dict[str, list[float]]:
    """Samples where a rate does not exist, as none of its images was drawn, are left out of it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = values(resample(columns, groups, resamples=resamples))
    exist = {name: found[np.isfinite(found)] for name, found in samples.items()}
    return {name: [*interval(found)] for name, found in exist.items() if found.size}


def _means(scores: Sequence[ImageScore], full: Sequence[BlockScore]) -> Resampled:
    names = [*METRICS]
    columns = {name: [getattr(score, name) for score in scores] for name in METRICS}
    if full and full[0].surface:
        columns |= {name: [getattr(score.surface, name) for score in full] for name in BOUNDARIES}
        names += BOUNDARIES
    values = np.array([*columns.values(), [1.0] * len(scores)]).T
    return values, lambda sums: {name: sums[:, at] / sums[:, -1] for at, name in enumerate(names)}


def _pooled(scores: Sequence[ImageScore]) -> Resampled:
    def values(sums: Float) -> dict[str, Float]:
        tp, fp, fn, tn = sums.T
        nothing = (tp + fp + fn == 0).astype(np.float64)
        parts = {"dice": (2 * tp, 2 * tp + fp + fn), "iou": (tp, tp + fp + fn), "precision": (tp, tp + fp),
                 "recall": (tp, tp + fn), "f2": (5 * tp, 5 * tp + 4 * fn + fp)}
        ratios = {name: np.where(bottom > 0, top / bottom, nothing) for name, (top, bottom) in parts.items()}
        return ratios | {"specificity": np.where(tn + fp > 0, tn / (tn + fp), 1.0)}

    return np.array([[score.tp, score.fp, score.fn, score.tn] for score in scores], np.float64), values


def _curves(sweeps: Sequence[pranet.Sweep]) -> Resampled:
    curves = ("dice", "iou", "e")
    columns = [np.concatenate([one.dice, one.iou, one.e, [one.weighted_f, one.s, one.mae, 1]]) for one in sweeps]

    def values(sums: Float) -> dict[str, Float]:
        means = sums[:, :-1] / sums[:, -1:]
        found: dict[str, Float] = {}
        for at, name in enumerate(curves):
            curve = means[:, at * pranet.LEVELS : (at + 1) * pranet.LEVELS]
            found |= {f"mean_{name}": curve.mean(axis=1), f"max_{name}": curve.max(axis=1)}
        return found | dict(zip(("weighted_f", "s_measure", "mae"), means[:, -3:].T, strict=True))

    return np.array(columns), values


def _rates(images: Sequence[lesions.Lesions]) -> Resampled:
    columns = [[len(one.areas), sum(one.found), sum(one.centred), one.predicted, one.false, one.false_centre,
                abs(one.predicted - len(one.areas)), 1] for one in images]

    def values(sums: Float) -> dict[str, Float]:
        polyps, found, centred, predicted, false, false_centre, off, frames = sums.T
        return {"detection_rate": found / polyps, "precision": found / predicted, "f1": 2 * found / (polyps + predicted),
                "false_positives_per_frame": false / frames, "detection_rate_centre": centred / polyps,
                "false_positives_per_frame_centre": false_centre / frames, "count_error": off / frames}

    return np.array(columns, np.float64), values


def _alarms(images: Sequence[lesions.Lesions]) -> Resampled:
    columns = [[one.empty, one.empty and one.predicted_fraction > 0, one.empty and one.predicted > 0,
                one.empty * one.predicted, one.empty * one.predicted_fraction] for one in images]

    def values(sums: Float) -> dict[str, Float]:
        frames, alarms, polyp_alarms, predicted, area = sums.T
        return {"false_positive_rate": alarms / frames, "specificity": 1 - alarms / frames,
                "polyp_alarm_rate": polyp_alarms / frames, "false_positives_per_frame": predicted / frames,
                "area_mean": area / frames}

    return np.array(columns, np.float64), values
