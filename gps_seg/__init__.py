"""gps-seg: fine-tune SAM for medical segmentation by gradient-based parameter selection.

Public names are loaded when first used, so that ``import gps_seg`` costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "GPSConfig": "gps_seg.config",
    "RunConfig": "gps_seg.config",
    "load_config": "gps_seg.config",
    "GPSModel": "gps_seg.runs.gps_model",
    "get_gps_model": "gps_seg.runs.gps_model",
    "load_sam": "gps_seg.models.sam_zoo",
    "load_run": "gps_seg.runs.load",
    "train": "gps_seg.commands.train",
    "evaluate_run": "gps_seg.commands.evaluate",
    "score_folders": "gps_seg.commands.score",
    "GpsSegError": "gps_seg.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gps_seg' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
