"""What clicks buy: scores after some of them, and how many a score takes. Numpy only; frames without a polyp are left out.

- ``dice_after_N``, ``iou_after_N``: means after N clicks.
- ``noc_iou_90``, the literature's NoC@90: clicks until IoU is 0.90 or more for the first time, at most 20; an image that never
  gets there counts as 20, and ``never_iou_90`` says how many do. ``noc_dice_95``, ``never_dice_95``: likewise for Dice 0.95.
  IoU 0.90 is Dice 0.947, so the two lie close together: one compares with published numbers, one is in the words of this report.

Source: Sofiiuk et al. (RITM), 2021, arXiv 2102.06583, section 4: NoC@90 is of IoU, with at most 20 clicks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.config import MOST_CLICKS
from gps_seg.metrics.masks import count, dice, iou

AFTER = (1, 3, 5)
GOALS = {"iou_90": ("iou", 0.90), "dice_95": ("dice", 0.95)}
MEANS = tuple(f"{name}_after_{clicks}" for name in ("dice", "iou") for clicks in AFTER)
NEEDED = tuple(f"noc_{goal}" for goal in GOALS)
Mask = NDArray[np.bool_]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Clicks:
    """One image: its scores after 1 to 20 clicks; none for a frame without a polyp."""

    dice: tuple[float, ...] = ()
    iou: tuple[float, ...] = ()

    def needed(self, goal: str) -> int | None:
        """Clicks until a goal is reached for the first time; None if it never is."""
        name, least = GOALS[goal]
        return next((number for number, value in enumerate(getattr(self, name), start=1) if value >= least), None)

    def row(self) -> dict[str, float | None]:
        """All numbers of the image, None for a frame without a polyp."""
        if not self.dice:
            return dict.fromkeys((*MEANS, *NEEDED))
        after = {f"{name}_after_{clicks}": getattr(self, name)[clicks - 1] for name in ("dice", "iou") for clicks in AFTER}
        return after | {f"noc_{goal}": float(self.needed(goal) or MOST_CLICKS) for goal in GOALS}


def click_scores(answers: Iterable[Mask], target: Mask) -> Clicks:
    """Score the masks after each click against the target, all (H, W)."""
    if not target.any():
        return Clicks()
    counts = [count(answer, target) for answer in answers]
    return Clicks(tuple(map(dice, counts)), tuple(map(iou, counts)))


def summarise(images: Sequence[Clicks]) -> dict[str, Any]:
    """The ``clicks`` block: ``images`` with a polyp, ``most`` clicks, the means, and how many never reach a goal."""
    polyps = [image for image in images if image.dice]
    values = np.array([[*image.row().values()] for image in polyps], np.float64)
    means = dict(zip((*MEANS, *NEEDED), values.mean(axis=0).tolist(), strict=True)) if polyps else {}
    never = {f"never_{goal}": sum(image.needed(goal) is None for image in polyps) for goal in GOALS}
    return {"images": len(polyps), "most": MOST_CLICKS, **means, **never}


def resampled(images: Sequence[Clicks]) -> tuple[Float, Callable[[Float], dict[str, Float]]]:
    """The columns whose sums give the means, for the bootstrap of ``metrics.report``."""
    names = (*MEANS, *NEEDED)
    columns = [[*image.row().values(), 1.0] if image.dice else [0.0] * (len(names) + 1) for image in images]
    return np.array(columns, np.float64), lambda sums: {name: sums[:, at] / sums[:, -1] for at, name in enumerate(names)}
