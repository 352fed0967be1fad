"""Against flicker: probabilities smoothed over time, and regions that must last before they appear or go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Probability = NDArray[np.float32]
THUMBNAIL = (32, 32)
CUT = 30.0  # mean difference of two frames' thumbnails, in grey levels, above which they are of different scenes


class Smoother:
    """Exponential smoothing of probability maps: S = S + w (P - S), with w = 1 - exp(-dt / constant).

    The weight follows the time between frames, so that stride and variable frame rates do not change what is shown. It
    begins anew at a scene cut: what was seen before says nothing there.

    Args:
        constant: seconds; 0 switches smoothing off.
    """

    def __init__(self, constant: float) -> None:
        self.constant = constant
        self._state: Probability | None = None
        self._seconds, self._thumbnail = 0.0, np.zeros(THUMBNAIL, np.float32)

    def update(self, probability: Probability, pixels: NDArray[np.uint8], seconds: float) -> tuple[Probability, bool]:
        """Take in one frame: its probability (H, W), its pixels (H, W, 3), its time. Returns the smoothed map and whether it is
        the first of a scene."""
        thumbnail = _thumbnail(pixels)
        change = float(np.abs(thumbnail - self._thumbnail).mean())
        fresh = self._state is None or self._state.shape != probability.shape or change > CUT
        if self._state is None or fresh or self.constant <= 0:
            self._state = probability.copy()
        else:
            weight = 1 - math.exp(-max(0.0, seconds - self._seconds) / self.constant)
            step = probability - self._state
            step *= np.float32(weight)
            step += self._state
            self._state = step
        self._seconds, self._thumbnail = seconds, thumbnail
        return self._state, fresh

    def forget(self) -> None:
        """Begin anew with the next frame."""
        self._state = None


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(cv2.resize(pixels, THUMBNAIL, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return grey.astype(np.float32)


@dataclass
class Presence:
    """Whether a finding is shown: on after ``frames`` in a row above the threshold, off after as many below the lower one.

    Two thresholds (hysteresis) and a number of frames each hold back a value that wavers about one threshold.
    """

    frames: int
    on: bool = False
    _streak: int = 0

    def update(self, *, above: bool, above_lower: bool) -> bool:
        """Take in one frame: whether there is a region at the threshold, and at the lower one."""
        contrary = not above_lower if self.on else above
        self._streak = self._streak + 1 if contrary else 0
        if self._streak >= self.frames:
            self.on, self._streak = not self.on, 0
        return self.on

    def forget(self) -> None:
        """Off, as before the first frame."""
        self.on, self._streak = False, 0


def switches(states: list[bool]) -> int:
    """How often a finding appears or goes from one frame to the next: the measure of flicker."""
    return sum(one != other for one, other in pairwise(states))
