"""One answered picture: everything that an export may say about it, and nothing that names a person or a file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.quality import Assessment, assess
from gps_seg_app.answer.regions import Finding, find
from gps_seg_app.intake.pictures import Picture

if TYPE_CHECKING:
    from gps_seg_app.inference.predictor import Predictor, Timing


@dataclass(frozen=True, eq=False)
class Result:
    """A picture and the answer to it.

    Attributes:
        probability: float32 (H, W) in 0..1, of the picture's size: the model's own, whatever a person did to the mask.
        threshold: above which a pixel belongs to a region.
        edited: whether a person changed the mask; ``dice_to_model`` then compares it with the model's.
        timing: of the model's run; None if it was not measured.
    """

    picture: Picture
    probability: NDArray[np.float32]
    finding: Finding
    assessment: Assessment
    threshold: float
    edited: bool = False
    dice_to_model: float | None = None
    timing: Timing | None = None

    @property
    def confidence(self) -> float:
        """Of the surest region; 0 if there is none."""
        return max((region.confidence or 0.0 for region in self.finding.regions), default=0.0)


def analyse(picture: Picture, predictor: Predictor, *, delta: str | None = None, threshold: float | None = None) -> Result:
    """Run the model on one picture. A picture that cannot be assessed costs no run: its probabilities are zero.

    Args:
        delta: one of the predictor's names; default: its first.
        threshold: on the scale of the probabilities, calibrated or not; default: the delta's own.
    """
    limit = predictor.threshold_of(delta or predictor.names[0]) if threshold is None else threshold
    assessment = assess(picture.pixels)
    if assessment.assessable:
        probability, timing = predictor.predict(picture.pixels, delta)
    else:
        probability, timing = np.zeros(picture.pixels.shape[:2], np.float32), None
    return Result(picture, probability, find(probability, limit, assessment), assessment, limit, timing=timing)


def utc_now() -> str:
    """The time as exports write it: ``2026-01-31T23:59:59Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
