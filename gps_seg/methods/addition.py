"""A kind of module that a method adds to the encoder instead of choosing among its weights.

The stock parameters keep their place and stay frozen; what is added is named in the selection's ``meta``, so that a saved run
can be rebuilt on the bare base. Adding changes no output, except for prompts (vpt, sam_adapter), which take part at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gps_seg.core.roles import Role, matches
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.methods.parts import head_of

META = "insert"  # the key in a selection's meta, and in every run saved since
Numbers = Mapping[str, Any]  # what rebuilds the modules: sizes, the seed, and of SPT the names of layers


@dataclass(frozen=True)
class Addition:
    """How one kind of module goes in and out.

    Attributes:
        kind: name of the method.
        add: puts modules into the encoder; returns nothing, raises ConfigError where the model has no place for them.
        remove: takes them out again; the model is the stock one, to the bit.
        fold: merges them into stock weights and takes them out; None where that is impossible.
    """

    kind: str
    add: Callable[[nn.Module, Numbers], None]
    remove: Callable[[nn.Module], None]
    fold: Callable[[nn.Module], None] | None


def add_and_select(model: nn.Module, addition: Addition, numbers: Numbers, head: str) -> Selection:
    """Add modules and train them all, with the head unless it is "freeze"."""
    base = fingerprint(model)
    stock = {name for name, _ in model.named_parameters()}
    add(model, addition, numbers)
    dense: dict[str, Role] = {}
    for name, _ in model.named_parameters():
        if name not in stock and ".base_layer." not in name:  # as peft calls the wrapped weights, which stay frozen
            dense[name] = "inserted"
        elif head == "train" and matches(name, head_of(model)):
            dense[name] = "head"
    meta = {"method": addition.kind, META: json.dumps({"kind": addition.kind, **numbers}, sort_keys=True)}
    return Selection({}, dense, base, meta)


def add(model: nn.Module, addition: Addition, numbers: Numbers) -> None:
    """Add modules whose first values come from the seed among the numbers; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numbers.get("seed", 0)))
        addition.add(model, numbers)
    model.to(next(model.parameters()).device)
