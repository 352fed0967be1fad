"""What the cost benchmark measures side by side: methods, each with settings of its own, such as ``gps:cheap``.

A method's own options go with it as well: ``vpt_deep:tokens=50``, ``gps:k=15``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gps_seg.commands.benchmarks.step import CONTRASTIVE, Setting
from gps_seg.config import NOTHING, OPTIONS
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.models.sam_zoo import MODELS
from gps_seg.settings import check_settings, parse_overrides

# What may follow a method, after a colon: the field of Setting that it changes. A word means one thing.
WORDS = {"none": "recompute", "cheap": "recompute", "blocks": "recompute", "lean": "encoder", "stock": "encoder"}


@dataclass(frozen=True)
class Variant:
    """A method under a setting; ``name`` is what the user wrote, ``method[:word][:option=value]``, as often as wanted."""

    name: str
    method: str
    setting: Setting


def parse_variants(names: Sequence[str], setting: Setting) -> list[Variant]:
    """Each name with the setting that its words make of the common one.

    Raises:
        ConfigError: an unknown method or word, one given twice, or ``contrastive`` on a SAM.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"--methods: expected each once, got {', '.join(names)}")
    variants = [_parse(name, setting) for name in names]
    kinds = [(variant.method, variant.setting) for variant in variants]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"--methods: expected different ones, got the same twice under two names in {', '.join(names)}")
    return variants


def _parse(name: str, setting: Setting) -> Variant:
    method, *behind = name.split(":")
    words = [part for part in behind if "=" not in part]
    known = ["floor", CONTRASTIVE, *(one for one in METHODS if one != NOTHING)]  # which takes no step
    if method not in known:
        raise ConfigError(f"--methods: expected some of {', '.join(known)}, got {method!r}")
    if method == CONTRASTIVE and setting.model in MODELS:
        raise ConfigError(f"--methods: {CONTRASTIVE} is a selection of classifiers; {setting.model} is none")
    if unknown := [word for word in words if word not in WORDS]:
        raise ConfigError(f"--methods: expected {', '.join(WORDS)} after a method's colon, got {unknown[0]!r} in {name!r}")
    fields = [WORDS[word] for word in words]
    if len(set(fields)) < len(fields):
        twice = next(field for field in fields if fields.count(field) > 1)
        raise ConfigError(f"--methods: expected one {twice} a method, got {name!r}")
    if words and setting.model not in MODELS:
        raise ConfigError(f"--methods: {words[0]} is a setting of SAMs; {setting.model} is none")
    changes: dict[str, Any] = dict(zip(fields, words, strict=True))
    if given := [part for part in behind if "=" in part]:
        changes["options"] = _options(name, method, given)
    return Variant(name, method, replace(setting, **changes))


def _options(name: str, method: str, given: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """The options behind a method's name. Raises ConfigError: not one of the method's, or a value that does not fit."""
    values = parse_overrides(given)
    if method not in OPTIONS:
        raise ConfigError(f"--methods: {method} has no options, got {name!r}")
    check_settings(OPTIONS[method], values, f"--methods: {name}")
    return tuple(sorted(values.items()))
