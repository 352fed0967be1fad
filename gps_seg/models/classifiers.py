"""Classifiers by name: timm's, and a SAM's image encoder with a pooled linear head, the pretrained one that needs no download.

Each says what a selection asks of it, see :mod:`gps_seg.methods.parts`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.core.roles import Treatment, matches
from gps_seg.errors import ConfigError
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import MODELS, load_sam
from gps_seg.models.weights import find_weights, is_published, load_strictly, read_state
from gps_seg.packages import import_torchvision

# The released classification rules, first hit wins: substring tests on names; what is left is selected from. ConvNeXt's norms
# in the stem and between stages have "norm" in their released names, and only numbers in timm's.
# Source: FightingFighting/GPS, utils/pruning.py.
_RULES: tuple[tuple[str, Treatment], ...] = (
    ("*norm*", "freeze"),
    ("*pos_embed*", "freeze"),
    ("*cls_token*", "freeze"),
    ("*head*", "train"),
    ("*bias*", "train"),
    ("*gamma*", "train"),
)
OFFICIAL_RULES: dict[str, tuple[tuple[str, Treatment], ...]] = {
    "VisionTransformer": _RULES,
    "SwinTransformer": _RULES,
    "ConvNeXt": (("stem.1.*", "freeze"), ("stages.*.downsample.0.*", "freeze"), *_RULES),
}


def load_backbone(
    name: str, *, classes: int, checkpoint: Path | None = None, input_size: int | None = None, drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """A backbone with a fresh head from the seed: a timm name, or a SAM's image encoder by the SAM's name.

    Args:
        checkpoint: a local file of the same architecture; its classifier is dropped. Without one SAMs and
            tf_efficientnet_lite0 load their published weights, other timm names stay random.

    Raises:
        ConfigError: an unknown name.
        CheckpointError: weights of another architecture, missing or damaged.
    """
    if name in MODELS:
        return load_pooled(name, classes=classes, checkpoint=checkpoint, input_size=input_size, seed=seed)
    model: Any = build_backbone(name, classes=classes, input_size=input_size, drop_path=drop_path, seed=seed)
    _start_head_small(model, seed)
    own = model.state_dict()
    if checkpoint is not None:
        state = read_state(checkpoint)
    elif is_published(name):
        checkpoint = find_weights(name)
        state = dict(zip(own, read_state(checkpoint).values(), strict=True))  # the same tensors in the same order, other names
    else:
        return model
    encoder = {key: value for key, value in state.items() if not matches(key, model.head_patterns)}
    load_strictly(model, {**{key: own[key] for key in own if matches(key, model.head_patterns)}, **encoder}, str(checkpoint))
    return model


def _start_head_small(model: Any, seed: int) -> None:
    """Every family's head begins as a ViT's does, normal with deviation 0.02: EfficientNet's own start gives a loss of 12."""
    head = model.get_classifier()
    if isinstance(head, nn.Linear):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)


def normalisation(model: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of the pixels a backbone expects, in 0..255."""
    if isinstance(model, PooledEncoder):
        return model.sam.spec.mean, model.sam.spec.std
    mean, std = (tuple(255 * value for value in model.pretrained_cfg[key]) for key in ("mean", "std"))
    return mean, std


def stretches(model: Any) -> bool:
    """Whether a backbone wants its pixels stretched before that, see ``data.transforms.normalise``."""
    return isinstance(model, PooledEncoder) and model.sam.spec.stretch


def build_backbone(
    name: str, *, classes: int = 100, input_size: int | None = None, drop_path: float = 0.0, seed: int = 0
) -> nn.Module:
    """A timm model with random weights from the seed; torch's global random state stays as it was.

    Args:
        name: any name timm knows, such as vit_base_patch16_224.
        classes: outputs of the head.
        input_size: pixels of a side, where the architecture lets it differ from its own.

    Raises:
        ConfigError: timm knows no such name; the nearest are named.
    """
    import_torchvision()
    import timm

    if name not in timm.list_models():
        nearest = difflib.get_close_matches(name, [*MODELS, *timm.list_models()], n=3)
        raise ConfigError(f"unknown backbone {name!r}" + (f"; did you mean {', '.join(nearest)}?" if nearest else ""))
    size: dict[str, Any] = {} if input_size is None else {"img_size": input_size}
    if drop_path:
        size["drop_path_rate"] = drop_path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **size)
        except TypeError:  # an architecture that takes any size, such as ConvNeXt
            size.pop("img_size", None)
            model = timm.create_model(name, pretrained=False, num_classes=classes, **size)
    _tell_parts(model)
    model.input_size = input_size or model.pretrained_cfg["input_size"][-1]  # type: ignore[assignment,index]
    return model


def _tell_parts(model: Any) -> None:
    model.head_patterns = (f"{model.pretrained_cfg['classifier']}.*",)
    model.encoder_patterns = ("*",)
    model.encoder_blocks = _blocks(model)
    model.official_rules = OFFICIAL_RULES.get(type(model).__name__, ())


def _blocks(model: Any) -> tuple[str, ...]:
    """Name prefixes of the residual blocks, from the image to the head; none where timm has yet another way to name them.

    ViT keeps them in ``blocks``, EfficientNet in the stages ``blocks.0``, Swin in ``layers.0.blocks``, ConvNeXt in
    ``stages.0.blocks``.
    """
    for whole in ("blocks", "layers", "stages"):
        prefixes = []
        for number, part in enumerate(getattr(model, whole, ())):
            inner, path = (part.blocks, ".blocks") if hasattr(part, "blocks") else (part, "")
            numbers = [f".{inside}" for inside in range(len(inner))] if isinstance(inner, nn.Sequential) else [""]
            prefixes += [f"{whole}.{number}{path}{inside}." for inside in numbers]
        if prefixes:
            return tuple(prefixes)
    return ()


class PooledEncoder(nn.Module):
    """Image encoder of a SAM, mean over the grid, LayerNorm, linear head; answers as timm's models do."""

    head_patterns = ("norm.*", "head.*")
    encoder_patterns = ("sam.image_encoder.*",)

    def __init__(self, sam: SamModel, classes: int) -> None:
        super().__init__()
        self.sam, self.num_classes = sam, classes
        del sam.mask_decoder
        width = sam.features(torch.zeros(1, 3, sam.spec.input_size, sam.spec.input_size)).shape[1]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        self.encoder_blocks = tuple(f"sam.{prefix}" for prefix in sam.encoder_blocks)

    def forward_features(self, image: Tensor) -> Tensor:
        """Image (B, 3, S, S) -> embedding (B, C, g, g)."""
        return self.sam.features(image)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Embedding -> pooled features (B, C), or class logits (B, classes)."""
        pooled = self.norm(features.float().mean((2, 3)))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (B, classes)."""
        return self.forward_head(self.forward_features(image))


def load_pooled(
    name: str, *, classes: int, checkpoint: Path | None = None, input_size: int | None = None, seed: int = 0
) -> PooledEncoder:
    """A pretrained encoder by SAM name with a fresh head from the seed; see :func:`gps_seg.models.sam_zoo.load_sam`."""
    sam = load_sam(name, checkpoint=checkpoint, input_size=input_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return PooledEncoder(sam, classes)
