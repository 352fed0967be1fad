"""Classification backbones from timm, by name, with head and encoder told apart as the selection needs it."""

from __future__ import annotations

import difflib

import torch
from torch import nn

from gps_seg.errors import ConfigError
from gps_seg.models.packages import import_torchvision
from gps_seg.models.sam import MODELS


def build_backbone(name: str, *, classes: int = 100, input_size: int | None = None, seed: int = 0) -> nn.Module:
    """A timm model with random weights from the seed; torch's global random state stays as it was.

    Args:
        name: any name timm knows, such as vit_base_patch16_224.
        classes: outputs of the head.
        input_size: pixels of a side, where the architecture lets it differ from its own.

    Raises:
        ConfigError: timm knows no such name (the nearest are named), or the model cannot take the size.
    """
    import_torchvision()
    import timm

    if name not in timm.list_models():
        nearest = difflib.get_close_matches(name, [*MODELS, *timm.list_models()], n=3)
        raise ConfigError(f"unknown backbone {name!r}" + (f"; did you mean {', '.join(nearest)}?" if nearest else ""))
    size = {} if input_size is None else {"img_size": input_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **size)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"backbone {name}: cannot be built at {input_size} px ({error})") from None
    head = str(model.pretrained_cfg["classifier"])  # type: ignore[index]
    model.head_patterns = (f"{head}.*",)  # type: ignore[assignment]
    model.encoder_patterns = ("*",)  # type: ignore[assignment]
    return model
