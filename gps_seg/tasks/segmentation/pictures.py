"""Pictures of a run's predictions on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gps_seg.data.images import read_image, read_mask, write_image
from gps_seg.metrics.masks import ImageScore
from gps_seg.metrics.plots.pictures import Case, case_sheet, overlay
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.task import Predict


def draw_cases(
    pairs: Sequence[Pair], scores: Sequence[ImageScore], predict: Predict, *, threshold: float, count: int, folder: Path
) -> None:
    """Write overlays of the best, median and worst images, ``count`` each, and ``cases.png`` with all of them."""
    by_id = {pair.id: pair for pair in pairs}
    ranked = sorted(scores, key=lambda score: (-score.dice, score.id))
    middle = max(0, len(ranked) // 2 - count // 2)
    groups = {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[::-1][:count]}
    cases = []
    for label, group in groups.items():
        found = dict(predict([by_id[score.id] for score in group]))
        for score in group:
            pair = by_id[score.id]
            image, target, predicted = read_image(pair.image), read_mask(pair.mask), found[pair.id] > threshold
            cases.append(Case(pair.id, image, predicted, target, score.dice, label))
            write_image(folder / f"{label}_{pair.id}.png", overlay(image, predicted, target))
    if cases:
        case_sheet(cases, folder / "cases.png")
