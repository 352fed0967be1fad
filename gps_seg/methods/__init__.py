"""How the trainable set is made. One short file a method or family; :data:`METHODS` is the whole registry.

A method is a function ``(model, options, scores, seed) -> Selection``: ``options`` is its own page of :mod:`gps_seg.config`,
``scores`` runs the selection pass over the weights it is asked for, ``seed`` is the run's. Methods that need no gradients never
call ``scores``. Methods that add modules (lora, shira, adapter, sam_adapter, ssf, vpt, spt) do so while they choose; see
:mod:`gps_seg.methods.added`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.methods.adapter import adapter
from gps_seg.methods.dense import bitfit, full, head, none, partial
from gps_seg.methods.gps import gps
from gps_seg.methods.lora import lora, shira
from gps_seg.methods.sam_adapter import sam_adapter
from gps_seg.methods.spt import spt_adapter, spt_lora
from gps_seg.methods.ssf import ssf
from gps_seg.methods.vpt import vpt_deep, vpt_shallow

__all__ = ["METHODS", "Method", "Scores"]

Method = Callable[[nn.Module, Any, Scores, int], Selection]  # Any: the options are of a page of their own for each method

METHODS: dict[str, Method] = {
    "gps": gps,
    "full": full,
    "head": head,
    "bitfit": bitfit,
    "partial": partial,
    "lora": lora,
    "shira": shira,
    "adapter": adapter,
    "sam_adapter": sam_adapter,
    "ssf": ssf,
    "vpt_shallow": vpt_shallow,
    "vpt_deep": vpt_deep,
    "spt_lora": spt_lora,
    "spt_adapter": spt_adapter,
    "none": none,
}
