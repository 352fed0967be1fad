"""What a model says of itself: which parameters are encoder and head, where its blocks are, which released rules are its own.

All of it is optional, as attributes of the model:

- ``encoder_patterns``, ``head_patterns``: globs of parameter names; without them everything is encoder and nothing is head.
- ``unread_patterns``: globs of what lies in the head and no training loss reads, which a selection leaves frozen.
- ``apart_patterns``: globs of what trains as a whole, whatever the method, under a loss of its own that reaches nothing else.
- ``encoder_blocks``: name prefixes of the encoder's blocks, from the image to the head.
- ``official_rules``: (glob, treatment) pairs, first hit wins, of the released GPS code for this kind of model.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from gps_seg.core.roles import Treatment, matches
from gps_seg.errors import ConfigError


def encoder_of(model: nn.Module) -> tuple[str, ...]:
    """Globs of the encoder's parameters."""
    return tuple(getattr(model, "encoder_patterns", ("*",)))


def head_of(model: nn.Module) -> tuple[str, ...]:
    """Globs of the head's parameters."""
    return tuple(getattr(model, "head_patterns", ()))


def unread_by(model: nn.Module) -> tuple[str, ...]:
    """Globs of the head's parameters that no training loss reads."""
    return tuple(getattr(model, "unread_patterns", ()))


def apart_in(model: nn.Module) -> tuple[str, ...]:
    """Globs of the parameters that train under a loss of their own."""
    return tuple(getattr(model, "apart_patterns", ()))


def encoder_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the encoder that own parameters, by name."""
    for name, module in list(model.named_modules()):
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
        if own and all(matches(parameter, encoder_of(model)) and not matches(parameter, head_of(model)) for parameter in own):
            yield name, module


def before_last_blocks(model: nn.Module, last_blocks: int) -> tuple[str, ...]:
    """Names of everything that comes before the last blocks; autograd keeps nothing of those layers if all of it is frozen.

    Raises:
        ConfigError: the model names no blocks, or has fewer.
    """
    blocks: tuple[str, ...] = tuple(getattr(model, "encoder_blocks", ()))
    if not blocks:
        raise ConfigError(f"selection.last_blocks: it is not known what the blocks of {type(model).__name__} are; leave it out, "
                          "or choose with selection.include")
    if last_blocks > len(blocks):
        raise ConfigError(f"selection.last_blocks: expected 1 to {len(blocks)}, got {last_blocks}")
    names = [name for name, _ in model.named_parameters()]
    start = min(index for index, name in enumerate(names) if name.startswith(blocks[-last_blocks]))
    return tuple(name for name in names[:start] if not matches(name, head_of(model)))


def official_rules(model: nn.Module) -> tuple[tuple[str, Treatment], ...]:
    """What the released code does with each parameter of this kind of model.

    Raises:
        ConfigError: it has no rules for it.
    """
    rules: tuple[tuple[str, Treatment], ...] = tuple(getattr(model, "official_rules", ()))
    if not rules:
        raise ConfigError(f"selection.preset=official: the released code has no rules for {type(model).__name__}; "
                          "use preset=paper")
    return rules
