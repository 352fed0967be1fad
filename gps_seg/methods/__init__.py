"""How the trainable set is made. One short file a method; :data:`METHODS` is the whole registry.

A method is a function ``(model, config, scores) -> Selection``. ``scores`` is called with the names of the weights to score
and runs the selection pass; methods that need no gradients never call it. Methods that add modules (lora, shira, adapter, ssf,
vpt) do so while they choose; see :mod:`gps_seg.methods.added`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from gps_seg.config import GPSConfig
from gps_seg.core.selection import Selection
from gps_seg.methods.adapter import adapter
from gps_seg.methods.bitfit import bitfit
from gps_seg.methods.full import full
from gps_seg.methods.gps import gps
from gps_seg.methods.head import head
from gps_seg.methods.lora import lora, shira
from gps_seg.methods.partial import partial
from gps_seg.methods.ssf import ssf
from gps_seg.methods.vpt import vpt_deep, vpt_shallow


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
    "partial": partial,
    "lora": lora,
    "shira": shira,
    "adapter": adapter,
    "ssf": ssf,
    "vpt_shallow": vpt_shallow,
    "vpt_deep": vpt_deep,
}
