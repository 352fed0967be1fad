"""Methods that add modules to the encoder instead of choosing among its weights. Added, folded in, and taken out again here.

The stock parameters keep their place and stay frozen; what is added is named in the selection's ``meta``, so that a saved run
can be rebuilt on the bare base. Adding changes no output, except for visual prompts, whose tokens take part at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from gps_seg.config import GPSConfig
from gps_seg.core.roles import Role, matches
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import ConfigError

Options = Mapping[str, float]


@dataclass(frozen=True)
class Insert:
    """How one kind of module goes in and out.

    Attributes:
        add: puts modules into the encoder; returns nothing, raises ConfigError where the model has no place for them.
        remove: takes them out again; the model is the stock one, to the bit.
        fold: merges them into stock weights and takes them out; None where that is impossible.
    """

    add: Callable[[nn.Module, Options], None]
    remove: Callable[[nn.Module], None]
    fold: Callable[[nn.Module], None] | None


INSERTS: dict[str, Insert] = {}


def encoder_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the encoder that own parameters, by name; the whole model if it names no encoder."""
    patterns = tuple(getattr(model, "encoder_patterns", ("*",)))
    head = tuple(getattr(model, "head_patterns", ()))
    for name, module in list(model.named_modules()):
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
        if own and all(matches(parameter, patterns) and not matches(parameter, head) for parameter in own):
            yield name, module


def insert_and_select(kind: str, options: Options, model: nn.Module, config: GPSConfig) -> Selection:
    """Add modules and train them all, with the head unless ``config.head`` freezes it."""
    base = fingerprint(model)
    stock = {name for name, _ in model.named_parameters()}
    meta = {"method": kind, "insert": json.dumps({"kind": kind, **options}, sort_keys=True)}
    insert_modules(model, meta)
    head = tuple(getattr(model, "head_patterns", ())) if config.head == "train" else ()
    wanted = _trained_by_nature(model, stock)
    dense: dict[str, Role] = {name: "head" if name in stock else "inserted" for name, _ in model.named_parameters()
             if name in wanted or (matches(name, head))}
    return Selection({}, dense, base, meta)


def _trained_by_nature(model: nn.Module, stock: set[str]) -> set[str]:
    """Added parameters; peft renames wrapped weights to ``base_layer``, which stay frozen."""
    return {name for name, _ in model.named_parameters() if name not in stock and ".base_layer." not in name}


def insert_modules(model: nn.Module, meta: Mapping[str, str]) -> None:
    """Rebuild what a selection's meta says was added; nothing for methods that add nothing."""
    if "insert" not in meta:
        return
    options = json.loads(meta["insert"])
    kind = options.pop("kind")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(options.get("seed", 0)))
        INSERTS[kind].add(model, options)
    place = next(model.parameters()).device
    model.to(place)


def remove_modules(model: nn.Module, meta: Mapping[str, str]) -> None:
    """Take out what was added; the stock model remains, to the bit."""
    if "insert" in meta:
        INSERTS[json.loads(meta["insert"])["kind"]].remove(model)


def fold_modules(model: nn.Module, meta: Mapping[str, str]) -> None:
    """Merge what was added into the stock weights.

    Raises:
        ConfigError: the method's modules compute something no stock weight can hold.
    """
    if "insert" not in meta:
        return
    kind = json.loads(meta["insert"])["kind"]
    fold = INSERTS[kind].fold
    if fold is None:
        raise ConfigError(f"method {kind}: its modules cannot be merged into a stock model; keep the run folder and use it")
    with torch.no_grad():
        fold(model)
