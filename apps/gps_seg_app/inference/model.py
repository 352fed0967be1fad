"""What is asked of a model that answers pictures, and what it tells of its time; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Timing:
    """Milliseconds before the model (resizing), in it, and after it (to native size)."""

    pre_ms: float
    model_ms: float
    post_ms: float

    @property
    def total_ms(self) -> float:
        """All three."""
        return self.pre_ms + self.model_ms + self.post_ms


class Model(Protocol):
    """What a picture or a frame needs of :class:`predictor.Predictor`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The deltas, the default first."""

    def threshold_of(self, name: str) -> float:
        """A delta's operating point."""

    def predict(
        self, pixels: NDArray[np.uint8], name: str | None = None, *, keep: bool = True
    ) -> tuple[NDArray[np.float32], Timing | None]:
        """Probability (H, W) of a picture (H, W, 3), and its timing; ``keep`` as for the predictor."""
