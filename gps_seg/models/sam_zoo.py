"""The SAMs by name: built from well-kept packages, with published weights loaded strictly, and turned into stock ones again."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.models.architectures import SMALLEST_TINY_VIT, lite_medsam, mobile_sam, tiny_lite, vit_sam, vit_sam_hq
from gps_seg.models.attention import use_efficient_attention, use_stock_attention
from gps_seg.models.hub import weight_file
from gps_seg.models.names import SAM, SAM2, SAM_HQ, Pairs, from_transformers, is_theirs, to_transformers
from gps_seg.models.sam import SamModel
from gps_seg.models.sam2 import Sam2, sam2, to_sam2_model
from gps_seg.models.sam_hq import SamHqModel
from gps_seg.models.spec import SamSpec
from gps_seg.models.weights import HOSTED, find_weights, is_published, load_strictly, published_as, read_state
from gps_seg.packages import import_lite_medsam, import_segment_anything

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _spec(name: str, size: int = 1024, stride: int = 16, **more: Any) -> SamSpec:
    return SamSpec(name, size, size, IMAGENET_MEAN, IMAGENET_STD, stride, **more)


def _zero_to_one(name: str, size: int, stride: int, **more: Any) -> SamSpec:
    return SamSpec(name, size, size, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), stride, **more)


@dataclass(frozen=True)
class _Entry:
    """``names``: how transformers calls the weights, None where it has no such model."""

    spec: SamSpec
    build: Callable[[SamSpec], SamModel]
    names: Pairs | None = SAM


_VIT_B: dict[str, Any] = {"dim": 768, "depth": 12, "heads": 12, "globals_": (2, 5, 8, 11)}
_TINY: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "globals_": (1,), "width": 32}


def _sam2(size: str, **shape: Any) -> dict[str, _Entry]:
    name = f"sam2.1_hiera_{size}"
    return {name: _Entry(_spec(name, resize="squash", step=32), partial(sam2, **shape), SAM2)}


MODELS = {
    "lite_medsam": _Entry(_zero_to_one("lite_medsam", 256, 4), lite_medsam, None),
    "sam_vit_b": _Entry(_spec("sam_vit_b"), partial(vit_sam, **_VIT_B)),
    "sam_vit_l": _Entry(_spec("sam_vit_l"), partial(vit_sam, dim=1024, depth=24, heads=16, globals_=(5, 11, 17, 23))),
    "sam_vit_h": _Entry(_spec("sam_vit_h"), partial(vit_sam, dim=1280, depth=32, heads=16, globals_=(7, 15, 23, 31))),
    # Source of the pixels: bowang-lab/MedSAM, MedSAM_Inference.py, but for its cubic resizing, which is bilinear here.
    "medsam_vit_b": _Entry(_zero_to_one("medsam_vit_b", 1024, 16, resize="squash", stretch=True), partial(vit_sam, **_VIT_B)),
    "mobile_sam": _Entry(_spec("mobile_sam"), mobile_sam, None),
    "sam_hq_vit_b": _Entry(_spec("sam_hq_vit_b"), partial(vit_sam_hq, **_VIT_B), SAM_HQ),
    # Source of the shapes: huggingface/transformers, models/sam2/convert_sam2_to_hf.py.
    **_sam2("tiny", width=96, blocks=(1, 2, 7, 2), globals_=(5, 7, 9)),
    **_sam2("small", width=96, blocks=(1, 2, 11, 2), globals_=(7, 10, 13)),
    **_sam2("base_plus", width=112, blocks=(2, 3, 16, 3), globals_=(12, 16, 20), heads=2, background=14),
    **_sam2("large", width=144, blocks=(2, 6, 36, 4), globals_=(23, 33, 43), heads=2, windows=(8, 4, 16, 8)),
    "tiny": _Entry(_spec("tiny", 64), partial(vit_sam, **_TINY)),
    "tiny_lite": _Entry(_zero_to_one("tiny_lite", 64, 4), tiny_lite, None),
    "tiny_mobile": _Entry(_spec("tiny_mobile", 64), partial(mobile_sam, width=32, **SMALLEST_TINY_VIT), None),
    "tiny_hq": _Entry(_spec("tiny_hq", 64), partial(vit_sam_hq, **_TINY), SAM_HQ),
    "tiny_sam2": _Entry(_spec("tiny_sam2", 64, resize="squash", step=32),
                        partial(sam2, width=8, blocks=(1, 1, 2, 1), globals_=(3,), out=32), SAM2),
}


def load_sam(
    name: str,
    *,
    checkpoint: Path | None = None,
    input_size: int | None = None,
    resize: Literal["longest_side", "squash"] | None = None,
    attention: Literal["efficient", "stock"] = "efficient",
    encoder: Literal["lean", "stock"] = "lean",
) -> SamModel:
    """A pretrained SAM in eval mode. The ``tiny`` models are random, from a fixed seed.

    Args:
        name: a key of MODELS.
        checkpoint: weights with the stock names or transformers', see :func:`gps_seg.models.hub.weight_file`; default: the
            published ones.
        input_size: pixels of the long side; default: the model's own (LiteMedSAM 256, SAM 1024).
        resize: default: the model's own rule.
        attention: how SAM's ViT attends, with the same result: "efficient" never writes the attention map.
        encoder: how LiteMedSAM's TinyViT computes, with the same result; see :mod:`gps_seg.models.tiny_vit`.

    Raises:
        ConfigError: unknown name or size.
        CheckpointError: weights are missing, damaged, do not fit, or are known as another model's.
    """
    path = None
    if checkpoint is not None:
        path = weight_file(checkpoint)
        check_origin(name, path)
    model = build_sam(name, input_size=input_size, resize=resize, attention=attention, encoder=encoder)
    if path is None and is_published(name):
        path = find_weights(name)
    if path is not None:
        load_strictly(model, stock_state(name, read_state(path), str(path)), str(path))
    return model.eval()


def check_origin(name: str, path: Path) -> None:
    """Raises CheckpointError: the file is known to hold the published weights of another model than the named one."""
    known = published_as(path) if path.is_file() else None
    if known in MODELS and known != name:
        raise CheckpointError(f"{path}: expected weights of {name}, found the published ones of {known}, which see images "
                              f"{_seen(MODELS[known].spec)}; use model.name={known}")


def _seen(spec: SamSpec) -> str:
    mean, std = (", ".join(f"{value:g}" for value in part) for part in (spec.mean, spec.std))
    stretched = " after stretching to 0..255" if spec.stretch else ""
    return f"of {spec.native_size} px ({spec.resize}), minus {mean} over {std}{stretched}"


def weights_note(name: str, checkpoint: Path | None) -> str:
    """What to say of weights whose origin, and so whose pixels, nobody knows; empty for known ones."""
    if checkpoint is None or not is_published(name) or (name in HOSTED and checkpoint.as_posix() == HOSTED[name].repository):
        return ""
    if published_as(weight_file(checkpoint)) == name:
        return ""
    return (f"{checkpoint} is not known as {name}'s published weights: it will see images as they do, "
            f"{_seen(MODELS[name].spec)}; weights tuned on other pixels need the name of their own model, such as medsam_vit_b "
            "for MedSAM's")


def stock_state(name: str, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state dict under the stock names, whether it has them or transformers'. Raises CheckpointError: its parts disagree."""
    names = MODELS[name].names
    return from_transformers(state, names, source) if names is not None and is_theirs(state) else state


def randomise_positions(model: SamModel, seed: int) -> None:
    """Draw the prompt encoder's code of places and its embedding of no mask anew; torch's random state stays as it was.

    Source: FightingFighting/GPS, SAM/models/sam.py, whose names for the two are not the checkpoint's: a non-strict load leaves
    them random, and unseeded.
    """
    if isinstance(model, Sam2):
        raise ConfigError(f"model.positions=random: it repeats a slip of the released code, which knows no {model.spec.name}")
    draw = torch.Generator().manual_seed(seed)
    places = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    no_mask = model.prompt_encoder.no_mask_embed.weight
    with torch.no_grad():
        for tensor in (places, no_mask):
            tensor.copy_(torch.randn(tensor.shape, generator=draw))


def build_sam(
    name: str, *, input_size: int | None = None, resize: Literal["longest_side", "squash"] | None = None,
    attention: Literal["efficient", "stock"] = "efficient", encoder: Literal["lean", "stock"] = "lean", seed: int = 0,
) -> SamModel:
    """A SAM with random weights from the seed; leaves torch's global random state as it was. See :func:`load_sam`."""
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=1)
        raise ConfigError(f"model.name: unknown model {name!r}; " + (f"did you mean {nearest[0]!r}? " if nearest else "")
                          + f"known: {', '.join(MODELS)}")
    entry = MODELS[name]
    spec = replace(entry.spec, input_size=input_size or entry.spec.input_size, resize=resize or entry.spec.resize)
    spec.check_size()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = entry.build(spec)
    if attention == "efficient":
        use_efficient_attention(model.image_encoder)
    model.lean = encoder == "lean"
    return model


def to_stock(model: SamModel) -> nn.Module:
    """The stock module around the same parts, at the model's native size: ``segment_anything``'s Sam, MedSAMLite or Sam2Model.

    Use after merging; the parts are shared, and the model keeps working only through the returned module.

    Raises:
        ConfigError: an HQ-SAM, whose own package is not among the requirements.
    """
    if isinstance(model, SamHqModel):
        raise ConfigError(f"{model.spec.name}: no stock module here reads its parts; its state dict has the published names")
    use_stock_attention(model.image_encoder)
    model.set_input_size(model.spec.native_size)
    if isinstance(model, Sam2):
        return to_sam2_model(model)
    if MODELS[model.spec.name].build is lite_medsam:
        stock: nn.Module = import_lite_medsam().build_lite_medsam()
        stock.load_state_dict(model.state_dict(), strict=True)
        return stock.eval()
    sam = import_segment_anything().modeling.Sam
    return sam(model.image_encoder, model.prompt_encoder, model.mask_decoder, list(model.spec.mean), list(model.spec.std)).eval()


def published_state(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of the files that the model was published in: transformers' for SAM 2, else unchanged."""
    return to_transformers(state, SAM2) if name in MODELS and MODELS[name].names is SAM2 else state
