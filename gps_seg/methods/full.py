"""Full fine-tuning: every parameter trains. Running statistics of batch norms stay frozen, as for every method here."""

from __future__ import annotations

from torch import nn

from gps_seg.config import GPSConfig
from gps_seg.core.roles import assign
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.methods.gps import policy_of


def full(model: nn.Module, config: GPSConfig, scores: object = None) -> Selection:
    """Train everything; the roles are recorded for the table."""
    plan = assign(model, policy_of(model, GPSConfig()))
    return Selection({}, {name: part.role for name, part in plan.items()}, fingerprint(model), {"method": "full"})
