"""Segmentation metrics for one foreground class. Numpy only.

Per image, with TP, FP, FN in pixels: Dice = 2TP / (2TP + FP + FN), IoU = TP / (TP + FP + FN), precision = TP / (TP + FP),
recall = TP / (TP + FN), specificity = TN / (TN + FP), F2 = 5TP / (5TP + 4FN + FP). Background is counted as background:
false positives always cost.

The empty-mask convention, here and nowhere else: where a ratio is 0 / 0 it is 1 if predicted and target mask are both
empty, else 0. So a clean negative frame scores 1, a false alarm on it 0, and a missed polyp 0, in Dice, IoU, precision,
recall and F2. Specificity is 0 / 0 only where the target fills the image; it is 1 there, as nothing could be a false positive.

Aggregations are always named: ``per_image`` is the mean over images, ``dataset`` uses counts pooled over all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import DataError, GpsSegError

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Counts:
    """Pixels: true positive, false positive, false negative, true negative."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def count(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> Counts:
    """Compare two bool masks of the same shape (H, W).

    Raises:
        DataError: shapes differ or a mask is not bool.
    """
    if predicted.dtype != np.bool_ or target.dtype != np.bool_:
        raise DataError(f"expected bool masks, got {predicted.dtype} and {target.dtype}")
    if predicted.shape != target.shape:
        raise DataError(f"predicted mask is {_size(predicted)} pixels, target {_size(target)}; compare at the target's size")
    tp = int(np.count_nonzero(predicted & target))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(target)) - tp
    return Counts(tp, fp, fn, target.size - tp - fp - fn)


def _size(mask: NDArray[Any]) -> str:
    return " x ".join(str(side) for side in mask.shape)


def _ratio(numerator: int, denominator: int, counts: Counts) -> float:
    if denominator:
        return numerator / denominator
    return 1.0 if counts.tp + counts.fp + counts.fn == 0 else 0.0


def dice(counts: Counts) -> float:
    """2TP / (2TP + FP + FN), in 0..1."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, counts)


def iou(counts: Counts) -> float:
    """TP / (TP + FP + FN), in 0..1."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn, counts)


def precision(counts: Counts) -> float:
    """TP / (TP + FP), in 0..1."""
    return _ratio(counts.tp, counts.tp + counts.fp, counts)


def recall(counts: Counts) -> float:
    """TP / (TP + FN), in 0..1."""
    return _ratio(counts.tp, counts.tp + counts.fn, counts)


def specificity(counts: Counts) -> float:
    """TN / (TN + FP), in 0..1; 1 if the target has no background."""
    return counts.tn / (counts.tn + counts.fp) if counts.tn + counts.fp else 1.0


def f2(counts: Counts) -> float:
    """5TP / (5TP + 4FN + FP), in 0..1: recall weighs twice as much as precision."""
    return _ratio(5 * counts.tp, 5 * counts.tp + 4 * counts.fn + counts.fp, counts)


METRICS: dict[str, Callable[[Counts], float]] = {
    "dice": dice, "iou": iou, "precision": precision, "recall": recall, "specificity": specificity, "f2": f2,
}


@dataclass(frozen=True)
class ImageScore:
    """One image's scores. ``target_fraction`` is the target's part of the area, 0..1."""

    id: str
    dice: float
    iou: float
    precision: float
    recall: float
    tp: int
    fp: int
    fn: int
    tn: int
    target_fraction: float
    specificity: float
    f2: float

    @property
    def counts(self) -> Counts:
        """The four pixel counts."""
        return Counts(self.tp, self.fp, self.fn, self.tn)


def score_image(id_: str, predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> ImageScore:
    """Score one pair of masks (H, W). Raises DataError, with the image's id, as :func:`count` does."""
    try:
        counts = count(predicted, target)
    except DataError as error:
        raise DataError(f"{id_}: {error}") from None
    values = {name: metric(counts) for name, metric in METRICS.items()}
    return ImageScore(id_, **values, tp=counts.tp, fp=counts.fp, fn=counts.fn, tn=counts.tn,
                      target_fraction=(counts.tp + counts.fn) / max(1, target.size))


def aggregate(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Both aggregations of a set of images.

    Returns:
        ``n``; ``per_image`` with the mean of each metric, and of Dice the median, standard deviation (ddof 0), 5th
        percentile, and the share of images with IoU below one half; ``dataset`` with each metric of the pooled counts;
        ``empty_targets``, the number of images without foreground.

    Raises:
        DataError: no image.
        GpsSegError: two numbers contradict each other (a bug, or a file that was edited).
    """
    if not scores:
        raise DataError("expected at least one scored image, got none")
    per_image: dict[str, float] = {name: float(np.mean([getattr(score, name) for score in scores])) for name in METRICS}
    dices = np.array([score.dice for score in scores])
    per_image |= {
        "dice_median": float(np.median(dices)), "dice_sd": float(dices.std()), "dice_p5": float(np.percentile(dices, 5)),
        "iou_below_half": float(np.mean([score.iou < 0.5 for score in scores])),
    }
    pooled = sum((score.counts for score in scores), Counts(0, 0, 0, 0))
    dataset = {name: metric(pooled) for name, metric in METRICS.items()}
    check_consistent(per_image["dice"], per_image["iou"])
    check_consistent(dataset["dice"], dataset["iou"])
    empty = sum(score.tp + score.fn == 0 for score in scores)
    return {"n": len(scores), "per_image": per_image, "dataset": dataset, "empty_targets": empty}


def check_consistent(mean_dice: float, mean_iou: float) -> None:
    """Refuse a pair that no set of masks can have.

    Per image IoU = D / (2 - D), which is convex in D, so over any set mean IoU >= D / (2 - D) with D the mean Dice; and
    IoU <= Dice always.

    Raises:
        GpsSegError: the pair is impossible, so the two numbers come from different masks or definitions.
    """
    least = mean_dice / (2 - mean_dice)
    if mean_iou < least - TOLERANCE:
        raise GpsSegError(f"mean Dice {mean_dice:.4f} needs a mean IoU of at least {least:.4f}, got {mean_iou:.4f}: "
                          "the two numbers come from different masks or definitions")
    if mean_iou > mean_dice + TOLERANCE:
        raise GpsSegError(f"mean IoU {mean_iou:.4f} is above mean Dice {mean_dice:.4f}: "
                          "the two numbers come from different masks or definitions")
