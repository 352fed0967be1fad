"""One answered picture: everything that an export may say about it, and nothing that names a person or a file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.quality import Assessment, assess
from gps_seg_app.answer.regions import Finding, find
from gps_seg_app.inference.model import Model, Timing
from gps_seg_app.intake.pictures import Picture


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


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model makes of a picture, before it is cut at any threshold.

    Attributes:
        probability: float32 (H, W) in 0..1; zero if the picture cannot be assessed.
        timing: of the model's run; None if there was none.
    """

    assessment: Assessment
    probability: NDArray[np.float32]
    timing: Timing | None


def see(pixels: NDArray[np.uint8], model: Model, name: str, *, keep: bool = True) -> Seen:
    """Look at one picture, uint8 RGB (H, W, 3), with one of the model's deltas. What cannot be assessed costs no run.

    Args:
        keep: False for the frames of a clip, which nobody comes back to.
    """
    assessment = assess(pixels)
    if not assessment.assessable:
        return Seen(assessment, np.zeros(pixels.shape[:2], np.float32), None)
    return Seen(assessment, *model.predict(pixels, name, keep=keep))


def analyse(picture: Picture, model: Model, *, delta: str | None = None, threshold: float | None = None) -> Result:
    """Answer one picture.

    Args:
        delta: one of the model's names; default: its first.
        threshold: on the scale of the probabilities, calibrated or not; default: the delta's own.
    """
    name = delta or model.names[0]
    limit = model.threshold_of(name) if threshold is None else threshold
    seen = see(picture.pixels, model, name)
    finding = find(seen.probability, limit, seen.assessment)
    return Result(picture, seen.probability, finding, seen.assessment, limit, timing=seen.timing)


def utc_now() -> str:
    """The time as exports write it: ``2026-01-31T23:59:59Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
