"""Head only: the mask decoder or classifier trains, the encoder stays frozen. The baseline GPS must beat."""

from __future__ import annotations

from torch import nn

from gps_seg.config import GPSConfig
from gps_seg.core.roles import matches
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import ConfigError


def head(model: nn.Module, config: GPSConfig, scores: object = None) -> Selection:
    """Train every parameter that the model calls its head. Raises ConfigError if it names none."""
    patterns: tuple[str, ...] = tuple(getattr(model, "head_patterns", ()))
    dense = {name: "head" for name, _ in model.named_parameters() if matches(name, patterns)}
    if not dense:
        raise ConfigError("method head: the model names no head; use gps, bitfit or full")
    return Selection({}, dense, fingerprint(model), {"method": "head"})  # type: ignore[arg-type]
