"""Who a parameter is: a role from the type of the module that owns it, and a treatment from the role and the patterns.

Source: Zhang et al., GPS, CVPR 2024, arXiv 2312.10136. Where we differ from the released code: roles come from module types
instead of name substrings, so a layer called ``norm_head`` is still a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from gps_seg.errors import ConfigError

Role = Literal["weight", "bias", "norm", "scale", "embedding", "head", "inserted"]
Treatment = Literal["select", "train", "freeze"]

WEIGHT_OWNERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.MultiheadAttention)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Policy:
    """How roles become treatments. Patterns are globs over parameter names; ``*`` crosses dots.

    Order of decision: ``overrides`` (first hit wins), ``head`` patterns, ``exclude``, not in ``include``, role. In a head that is
    selected from, what has no rows trains as a whole.
    """

    roles: Mapping[Role, Treatment]
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    overrides: Sequence[tuple[str, Treatment]] = ()
    head: Sequence[str] = ()
    head_treatment: Treatment = "train"


@dataclass(frozen=True)
class Assignment:
    """One parameter's place in the plan. ``neurons`` is the number of output rows or channels (0 without rows)."""

    role: Role
    treatment: Treatment
    numel: int
    neurons: int


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a parameter name fits any glob pattern."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def owners(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Parameter name -> (owning module, attribute). A shared parameter appears once, under its first name."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, _ in model.named_parameters():
        module_name, _, attribute = name.rpartition(".")
        found[name] = (model.get_submodule(module_name), attribute)
    return found


def role_of(owner: nn.Module, parameter: Tensor) -> Role:
    """The role of a parameter, from the type of the module that owns it.

    Norm layers are torch's and every class whose name contains "Norm" (SAM and timm define their own). A parameter that
    sits directly on some other module is a ``scale`` if one-dimensional (LayerScale's gamma), else an ``embedding``
    (class token, absolute or relative position table).
    """
    if "Norm" in type(owner).__name__:
        return "norm"
    if isinstance(owner, WEIGHT_OWNERS):
        return "weight" if parameter.ndim >= 2 else "bias"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    return "scale" if parameter.ndim <= 1 else "embedding"


def assign(model: nn.Module, policy: Policy) -> dict[str, Assignment]:
    """Give every parameter of the model exactly one role and one treatment.

    Raises:
        ConfigError: ``select`` was asked for a tensor without rows.
    """
    plan: dict[str, Assignment] = {}
    parameters = dict(model.named_parameters())
    for name, (owner, _) in owners(model).items():
        parameter = parameters[name]
        role = role_of(owner, parameter)
        is_head = matches(name, policy.head)
        treatment = _treatment(name, role, policy)
        neurons = neuron_rows(owner, parameter).shape[0] if role == "weight" else 0
        if treatment == "select" and role != "weight":
            raise ConfigError(f"{name}: a {role} has no rows to select from; use train or freeze")
        plan[name] = Assignment("head" if is_head else role, treatment, parameter.numel(), neurons)
    return plan


def _treatment(name: str, role: Role, policy: Policy) -> Treatment:
    for pattern, treatment in policy.overrides:
        if fnmatchcase(name, pattern):
            return treatment
    if matches(name, policy.head):
        return "train" if policy.head_treatment == "select" and role != "weight" else policy.head_treatment
    if matches(name, policy.exclude) or not matches(name, policy.include):
        return "freeze"
    return policy.roles[role]


def neuron_rows(owner: nn.Module, tensor: Tensor) -> Tensor:
    """View (or copy) of a weight-shaped tensor as (neurons, connections)."""
    if isinstance(owner, TRANSPOSED):  # weight is (in, out / groups, *kernel)
        return tensor.movedim(1, 0).flatten(1)
    return tensor.flatten(1)
