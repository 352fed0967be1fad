"""gps-seg: fine-tune SAM for medical segmentation by gradient-based parameter selection.

Public names are loaded when first used, so that ``import gps_seg`` costs nothing; type checkers see each with its own type.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "GPSConfig": "gps_seg.config",
    "GPSModel": "gps_seg.runs.gps_model",
    "GpsSegError": "gps_seg.errors",
    "Prediction": "gps_seg.runs.predictor",
    "Predictor": "gps_seg.runs.predictor",
    "RunConfig": "gps_seg.config",
    "evaluate_run": "gps_seg.commands.evaluate",
    "get_gps_model": "gps_seg.runs.gps_model",
    "load_config": "gps_seg.config",
    "load_run": "gps_seg.runs.load",
    "load_sam": "gps_seg.models.sam_zoo",
    "score_folders": "gps_seg.commands.score",
    "train": "gps_seg.commands.train",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from gps_seg.commands.evaluate import evaluate_run as evaluate_run
    from gps_seg.commands.score import score_folders as score_folders
    from gps_seg.commands.train import train as train
    from gps_seg.config import GPSConfig as GPSConfig
    from gps_seg.config import RunConfig as RunConfig
    from gps_seg.config import load_config as load_config
    from gps_seg.errors import GpsSegError as GpsSegError
    from gps_seg.models.sam_zoo import load_sam as load_sam
    from gps_seg.runs.gps_model import GPSModel as GPSModel
    from gps_seg.runs.gps_model import get_gps_model as get_gps_model
    from gps_seg.runs.load import load_run as load_run
    from gps_seg.runs.predictor import Prediction as Prediction
    from gps_seg.runs.predictor import Predictor as Predictor
else:

    def __getattr__(name: str) -> object:
        """A public name, from its home. Raises AttributeError for any other."""
        if name not in _HOMES:
            raise AttributeError(f"module 'gps_seg' has no attribute {name!r}; it has {', '.join(__all__)}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return __all__
