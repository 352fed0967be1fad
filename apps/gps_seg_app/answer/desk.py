"""One picture being worked at: prompts and brush strokes over the model's answer, each step undoable, none recomputed twice.

What is shown is a function of (prompts, threshold, strokes): the model's probabilities under the prompts, cut at the threshold,
then the strokes in order. So the threshold still works after a correction, and undo is to forget the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import ConfigError
from gps_seg.tasks.segmentation.prompts import Click, check_prompts
from gps_seg_app.answer.edits import Edits
from gps_seg_app.answer.regions import Mask, find
from gps_seg_app.answer.result import Result, see
from gps_seg_app.inference.model import Timing
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.limits import AppError

if TYPE_CHECKING:
    from gps_seg_app.inference.predictor import Embedding, Predictor

MOST_STEPS = 100
MOST_POINTS = 50
Place = tuple[float, float]


@dataclass(frozen=True)
class Stroke:
    """A brush stroke: places (x, y) in native pixels, pixel (0, 0) being the square from 0 to 1; radius in pixels."""

    places: tuple[Place, ...]
    radius: float
    add: bool


@dataclass(frozen=True)
class Step:
    """All that a person has said about the picture so far.

    Attributes:
        points: x, y, and 1 (polyp) or 0 (not polyp).
        box: x0, y0, x1, y1.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None
    strokes: tuple[Stroke, ...] = ()

    @property
    def prompted(self) -> bool:
        """Whether the model is asked again."""
        return bool(self.points) or self.box is not None

    @property
    def touched(self) -> bool:
        """Whether anything was said at all."""
        return self.prompted or bool(self.strokes)


class Desk:
    """A picture, the model's answer, and the steps of its correction. Not thread-safe: one session, one lock.

    Args:
        name: which of the predictor's models answers.
        threshold: probability above which a pixel belongs to a region.
    """

    def __init__(self, picture: Picture, predictor: Predictor, name: str, threshold: float) -> None:
        self.picture, self.predictor, self.name, self.threshold = picture, predictor, name, threshold
        seen = see(picture.pixels, predictor, name)  # what cannot be assessed costs a run only if a person insists by a prompt
        self.assessment, self.first = seen.assessment, seen.probability
        self.timing: Timing | None = seen.timing
        self.spread: NDArray[np.float32] | None = None
        self._embedding: Embedding | None = None
        self._steps, self._at = [Step()], 0
        self._ask()

    @property
    def step(self) -> Step:
        """Where the correction stands."""
        return self._steps[self._at]

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to go back to."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether a step was undone."""
        return self._at < len(self._steps) - 1

    def point(self, x: float, y: float, *, add: bool) -> None:
        """Say that the place (x, y) is polyp, or is not. Raises AppError: outside, too many, or a pixel said to be both."""
        self._check([(x, y)])
        if len(self.step.points) >= MOST_POINTS:
            raise AppError(f"At most {MOST_POINTS} points can be set: undo some, or paint with the brush.")
        points = (*self.step.points, (x, y, int(add)))
        try:  # there the first pixel's centre is at 0, here at 0.5
            check_prompts(self.picture.pixels.shape[:2], clicks=[Click(px - 0.5, py - 0.5, label) for px, py, label in points])
        except ConfigError as error:
            raise AppError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        self._to(replace(self.step, points=points))

    def box(self, first: Place, second: Place) -> None:
        """Say where to look: a box by two opposite corners. Raises AppError for a corner outside or a box under 2 pixels."""
        self._check([first, second])
        (x0, x1), (y0, y1) = sorted((first[0], second[0])), sorted((first[1], second[1]))
        if min(x1 - x0, y1 - y0) < 2:
            raise AppError("Expected a box of at least 2 pixels a side: set two opposite corners.")
        self._to(replace(self.step, box=(x0, y0, x1, y1)))

    def stroke(self, places: Sequence[Place], radius: float, *, add: bool) -> None:
        """Paint or erase along a line. Raises AppError for no place, or a radius that is not positive."""
        stroke = Stroke(tuple(places), radius, add)
        mask = _painted(self.finding.mask, (stroke,))
        self._to(replace(self.step, strokes=(*self.step.strokes, stroke)), mask=mask)

    def undo(self) -> None:
        """One step back, if there is one."""
        self._go(max(0, self._at - 1))

    def redo(self) -> None:
        """One step forward again, if one was undone."""
        self._go(min(len(self._steps) - 1, self._at + 1))

    def reset(self) -> None:
        """Back to the model's own answer; can itself be undone."""
        if self.step.touched:
            self._to(Step())

    def set_threshold(self, threshold: float) -> None:
        """Cut the same probabilities elsewhere; the model does not run."""
        if threshold != self.threshold:
            self.threshold = threshold
            self._cut()

    def rest(self) -> Desk:
        """The desk itself, holding no more than its steps need: the picture's embedding is made anew if it is asked for."""
        self._embedding = None
        return self

    def disagree(self) -> NDArray[np.float32]:
        """Where the model contradicts itself under flips and scales, (H, W) in 0..0.5; computed once."""
        if self.spread is None:
            self.spread = self.predictor.disagreement(self.picture.pixels, self.name)
        return self.spread

    def result(self) -> Result:
        """Everything an export says about the picture as it stands."""
        edited, dice = False, None
        if self.step.touched:
            edits = Edits.start(find(self.first, self.threshold, self.assessment).mask).replace(self.finding.mask)
            edited, dice = edits.edited, edits.dice if edits.edited else None
        return Result(self.picture, self.first, self.finding, self.assessment, self.threshold, edited=edited,
                      dice_to_model=dice, timing=self.timing)

    def _check(self, places: Sequence[Place]) -> None:
        height, width = self.picture.pixels.shape[:2]
        if not all(0 <= x < width and 0 <= y < height for x, y in places):
            raise AppError(f"Expected places within the picture, x from 0 to {width - 1} and y from 0 to {height - 1}.")

    def _to(self, step: Step, mask: Mask | None = None) -> None:
        before = self.step
        self._steps = [*self._steps[: self._at + 1], step][-MOST_STEPS - 1 :]
        self._at = len(self._steps) - 1
        self._follow(before, mask)

    def _go(self, at: int) -> None:
        before, self._at = self.step, at
        self._follow(before, None)

    def _follow(self, before: Step, mask: Mask | None) -> None:
        if (before.points, before.box) != (self.step.points, self.step.box):
            self._ask()
        else:
            self._cut(mask)

    def _ask(self) -> None:
        """The probabilities under the prompts of this step; the picture's embedding is kept, so this is the decoder alone."""
        if not self.step.prompted:
            self.probability = self.first
        else:
            if self._embedding is None:
                self._embedding = self.predictor.embed(self.picture.pixels, self.name)
            self.probability = self.predictor.probability(self._embedding, self.step.points, self.step.box)
        self._cut()

    def _cut(self, mask: Mask | None = None) -> None:
        """Regions of the model's answer, under prompts or not; or of a painted mask (``mask`` if it is known already)."""
        moved: dict[str, Any] = {"own": self.first, "prompted": True} if self.step.prompted else {}
        found = find(self.probability, self.threshold, self.assessment, **moved)
        insisted = self.step.prompted and not self.assessment.assessable
        if self.step.strokes or insisted:
            if mask is None:
                mask = _painted(self.probability > self.threshold if insisted else found.mask, self.step.strokes)
            found = find(self.probability, self.threshold, self.assessment, mask, **moved)
        self.finding = found


def _painted(mask: Mask, strokes: Sequence[Stroke]) -> Mask:
    """The mask after the strokes. The brush counts from the centre of the first pixel, the page from its corner."""
    edits = Edits.start(mask)
    for stroke in strokes:
        edits = edits.stroke([(x - 0.5, y - 0.5) for x, y in stroke.places], stroke.radius, add=stroke.add)
    return edits.mask
