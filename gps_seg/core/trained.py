"""What a training loop moves, whether it is one selection bound to a model or several that share values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from gps_seg.core.roles import Role
from gps_seg.core.selection import Selection
from gps_seg.errors import CheckpointError


class Trained(Protocol):
    """See ``attach.Attached`` and ``together.Together``."""

    selection: Selection

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter for the optimizer."""
        ...

    def role_of(self, name: str) -> Role | None:
        """Why a trained parameter trains as a whole; None: its connections are selected."""
        ...

    def gather(self) -> None:
        """Bring the gradients of all backward passes of a step to what the optimizer moves. Call before each of its steps."""
        ...

    def follow(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Write values into the weights after each of the optimizer's steps; returns a function that stops this."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Current values, detached copies on the CPU, keyed like :meth:`trainable`."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set all values and write them back."""
        ...


def copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Current values, detached copies on the CPU, by the same names."""
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def set_values(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Set all values; a state that does not fit changes none.

    Raises:
        CheckpointError: a name is missing, unexpected, or has another shape.
    """
    missing, unexpected = sorted(set(parameters) - set(state)), sorted(set(state) - set(parameters))
    if missing or unexpected:
        raise CheckpointError(f"the delta does not fit: missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, parameter in parameters.items():
        if parameter.shape != state[name].shape:
            raise CheckpointError(f"{name}: expected shape {tuple(parameter.shape)}, got {tuple(state[name].shape)}")
    for name, parameter in parameters.items():
        parameter.copy_(state[name])
