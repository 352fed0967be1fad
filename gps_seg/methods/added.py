"""What methods add to the encoder: rebuilt from a selection's ``meta``, folded into stock weights, and taken out again."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import nn

from gps_seg.errors import ConfigError
from gps_seg.methods.adapter import ADAPTER
from gps_seg.methods.addition import META, Addition, add
from gps_seg.methods.lora import LORA, SHIRA
from gps_seg.methods.sam_adapter import SAM_ADAPTER
from gps_seg.methods.spt import SPT_ADAPTER, SPT_LORA
from gps_seg.methods.ssf import SSF
from gps_seg.methods.vpt import VPT_DEEP, VPT_SHALLOW

ADDITIONS: dict[str, Addition] = {
    "lora": LORA,
    "shira": SHIRA,
    "adapter": ADAPTER,
    "sam_adapter": SAM_ADAPTER,
    "ssf": SSF,
    "vpt_shallow": VPT_SHALLOW,
    "vpt_deep": VPT_DEEP,
    "spt_lora": SPT_LORA,
    "spt_adapter": SPT_ADAPTER,
}


def add_modules(model: nn.Module, meta: Mapping[str, str]) -> None:
    """Rebuild what a selection's meta says was added; nothing for methods that add nothing."""
    if META in meta:
        numbers = json.loads(meta[META])
        add(model, ADDITIONS[numbers.pop("kind")], numbers)


def remove_modules(model: nn.Module, meta: Mapping[str, str]) -> None:
    """Take out what was added; the stock model remains, to the bit."""
    if META in meta:
        _addition(meta).remove(model)


def can_fold(meta: Mapping[str, str]) -> bool:
    """Whether all that was added, if anything, can be merged into the stock weights."""
    return META not in meta or _addition(meta).fold is not None


def fold_modules(model: nn.Module, meta: Mapping[str, str]) -> None:
    """Merge what was added into the stock weights.

    Raises:
        ConfigError: the method's modules compute something no stock weight can hold.
    """
    if META not in meta:
        return
    addition = _addition(meta)
    if addition.fold is None:
        raise ConfigError(f"method {addition.kind}: its modules cannot be merged into a stock model; keep the run folder and "
                          "use it")
    with torch.no_grad():
        addition.fold(model)


def _addition(meta: Mapping[str, str]) -> Addition:
    return ADDITIONS[json.loads(meta[META])["kind"]]
