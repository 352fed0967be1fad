"""BitFit: every bias of the encoder, those of norm layers included, and the head.

Source: Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199.
"""

from __future__ import annotations

from torch import nn

from gps_seg.config import GPSConfig
from gps_seg.core.roles import Policy, assign
from gps_seg.core.selection import Selection, fingerprint


def bitfit(model: nn.Module, config: GPSConfig, scores: object = None) -> Selection:
    """Train all parameters named ``bias`` in the encoder, and the head unless ``config.head`` freezes it."""
    policy = Policy(
        roles={"weight": "freeze", "bias": "train", "norm": "freeze", "scale": "freeze", "embedding": "freeze"},
        include=tuple(getattr(model, "encoder_patterns", ("*",))),
        overrides=tuple((pattern.rstrip("*") + "*.bias", "train") for pattern in getattr(model, "encoder_patterns", ("*",))),
        head=tuple(getattr(model, "head_patterns", ())),
        head_treatment=config.head,
    )
    plan = assign(model, policy)
    dense = {name: assignment.role for name, assignment in plan.items() if assignment.treatment == "train"}
    return Selection({}, dense, fingerprint(model), {"method": "bitfit"})
