"""Partial-k: the encoder's last ``last_blocks`` blocks, what follows them, and the head train as a whole.

Source: the "Partial" baseline of Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119 (there with one block).
"""

from __future__ import annotations

from torch import nn

from gps_seg.config import GPSConfig
from gps_seg.core.roles import assign
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.methods.gps import policy_of


def partial(model: nn.Module, config: GPSConfig, scores: object = None) -> Selection:
    """Train everything from the ``config.last_blocks``-th block from the end on; one block if that is not set.

    Raises:
        ConfigError: the model names no blocks, or has fewer.
    """
    number = config.last_blocks or 1
    roles = dict.fromkeys(("weight", "bias", "norm", "scale", "embedding"), "train")
    plan = assign(model, policy_of(model, GPSConfig.model_validate({**roles, "head": config.head, "last_blocks": number})))
    dense = {name: part.role for name, part in plan.items() if part.treatment == "train"}
    return Selection({}, dense, fingerprint(model), {"method": "partial", "last_blocks": str(number)})
