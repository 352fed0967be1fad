"""Methods that train whole parameters and choose no connections: none, full, head, bitfit and partial.

Running statistics of batch norms stay frozen, as for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from torch import nn

from gps_seg.config import HeadOptions, MethodOptions, PartialOptions
from gps_seg.core.roles import Policy, Role, Treatment, assign, matches
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import ConfigError
from gps_seg.methods.parts import before_last_blocks, encoder_of, head_of

EVERYTHING: dict[Role, Treatment] = dict.fromkeys(get_args(Role), "train")


def none(model: nn.Module, options: MethodOptions, scores: Scores, seed: int) -> Selection:
    """Train nothing: the pretrained model is scored as it is, as the table's row without tuning."""
    return _train(model, (), {"method": "none"})


def full(model: nn.Module, options: MethodOptions, scores: Scores, seed: int) -> Selection:
    """Train every parameter."""
    return _train(model, (name for name, _ in model.named_parameters()), {"method": "full"})


def head(model: nn.Module, options: MethodOptions, scores: Scores, seed: int) -> Selection:
    """Train every parameter that the model calls its head; the baseline that GPS must beat.

    Raises:
        ConfigError: it names none.
    """
    names = [name for name, _ in model.named_parameters() if matches(name, head_of(model))]
    if not names:
        raise ConfigError("method head: the model names no head; use gps, bitfit or full")
    return _train(model, names, {"method": "head"})


def bitfit(model: nn.Module, options: HeadOptions, scores: Scores, seed: int) -> Selection:
    """Train every bias of the encoder, those of norm layers included, and the head unless ``options.head`` freezes it.

    Source: Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199.
    """
    return _train(model, _with_head(model, options, lambda name: name.endswith(".bias")), {"method": "bitfit"})


def partial(model: nn.Module, options: PartialOptions, scores: Scores, seed: int) -> Selection:
    """Train the encoder's last ``options.last_blocks`` blocks, what follows them, and the head.

    Source: the "Partial" baseline of Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119 (there with one block).

    Raises:
        ConfigError: the model names no blocks, or has fewer.
    """
    before = set(before_last_blocks(model, options.last_blocks))
    names = _with_head(model, options, lambda name: name not in before)
    return _train(model, names, {"method": "partial", "last_blocks": str(options.last_blocks)})


def _with_head(model: nn.Module, options: HeadOptions, trains: Callable[[str], bool]) -> list[str]:
    """Names of the encoder's parameters that train, and of the head's unless the options freeze it."""
    return [name for name, _ in model.named_parameters()
            if (options.head == "train" if matches(name, head_of(model)) else matches(name, encoder_of(model)) and trains(name))]


def _train(model: nn.Module, names: Iterable[str], meta: Mapping[str, str]) -> Selection:
    """The named parameters train as a whole, each under its role."""
    plan = assign(model, Policy(EVERYTHING, head=head_of(model)))
    return Selection({}, {name: plan[name].role for name in names}, fingerprint(model), meta)
