"""How the trainable set is made. One short file a method; :data:`METHODS` is the whole registry.

A method is a function ``(model, config, scores) -> Selection``. ``scores`` is called with the names of the weights to score
and runs the selection pass; methods that need no gradients never call it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from gps_seg.config import GPSConfig
from gps_seg.methods.bitfit import bitfit
from gps_seg.methods.full import full
from gps_seg.methods.gps import gps
from gps_seg.methods.head import head
from gps_seg.selection import Selection


class Scores(Protocol):
    """Runs the selection pass: weight names -> name to fp32 score in the weight's shape."""

    def __call__(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Score the named weights."""
        ...


METHODS: dict[str, Callable[[nn.Module, GPSConfig, Scores], Selection]] = {
    "gps": gps,
    "full": full,
    "head": head,
    "bitfit": bitfit,
}
