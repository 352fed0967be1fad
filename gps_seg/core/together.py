"""Several attached models that share values: one set for their common part, which all carry, and each its own rest.

Each model keeps weights of its own and computes as if it were alone. What the optimizer moves are the common values, once for
all, and every model's own ones; a common value's gradient is the sum of the models'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.core.attach import Attached
from gps_seg.core.roles import Role
from gps_seg.core.selection import Selection
from gps_seg.core.trained import copies, set_values
from gps_seg.errors import CheckpointError

COMMON = "common"  # before the names of common values; no part may be called so


@dataclass(frozen=True)
class Divided:
    """A parameter of one model whose values, or some of them, are common.

    Attributes:
        parameter: what the model's own backward pass reaches.
        common: flat (n,), moved by the optimizer, the same object for all models; ``at_common``: their places in ``parameter``.
        own: the rest of the values, flat; None where there is none; ``at_own``: their places.
    """

    parameter: nn.Parameter
    common: nn.Parameter
    own: nn.Parameter | None
    at_common: Tensor
    at_own: Tensor

    def gather(self) -> None:
        """Move the gradient to the two parts, adding to what the common one has of other models."""
        if self.parameter.grad is None:
            return
        gradient, self.parameter.grad = self.parameter.grad.flatten(), None
        _add(self.common, gradient[self.at_common])
        if self.own is not None:
            _add(self.own, gradient[self.at_own])

    def values(self) -> Tensor:
        """The two parts' values as the parameter holds them."""
        found = torch.empty_like(self.parameter).flatten()
        found[self.at_common] = self.common.detach()
        if self.own is not None:
            found[self.at_own] = self.own.detach()
        return found.view_as(self.parameter)


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


class Together:
    """Models that learn their common values together. Keeps three laws:

    - after each step the common values are the same bytes in every model;
    - outside the common part and a model's own rest each weight stays the base's, bit for bit;
    - where nothing is common, each model learns what it would learn alone.

    Args:
        parts: by name, each attached to a model of its own; a selection holds all of ``common`` and the model's own rest.
        common: connections and whole parameters with one value for all.

    Raises:
        CheckpointError: a part lacks some of ``common``, or begins with other values there: it has another base.
    """

    def __init__(self, parts: Mapping[str, Attached], common: Selection) -> None:
        self.parts, self.selection = dict(parts), common
        self._common: dict[str, nn.Parameter] = {}
        self._own: dict[str, nn.Parameter] = {}
        self._divided: dict[str, dict[str, Divided]] = {name: {} for name in parts}
        self._checked = False
        for name, part in parts.items():
            self._divide(name, part)

    def _divide(self, owner: str, part: Attached) -> None:
        trained = part.trainable()
        if missing := sorted({*self.selection.sparse, *self.selection.dense} - set(trained)):
            raise CheckpointError(f"{owner}: expected a selection that holds the common part, it lacks {', '.join(missing[:3])}")
        for name, parameter in trained.items():
            where = self._where(owner, name, part)
            if where is None:
                self._own[f"{owner}/{name}"] = parameter
                continue
            values = parameter.detach().flatten()
            common = self._common.setdefault(name, nn.Parameter(values[where].clone()))
            if not torch.equal(common.detach(), values[where]):
                raise CheckpointError(f"{owner}: {name} begins with other values than in the other models: expected one base")
            own = None if bool(where.all()) else nn.Parameter(values[~where].clone())
            self._divided[owner][name] = Divided(parameter, common, own, *(found.nonzero()[:, 0] for found in (where, ~where)))
            if own is not None:
                self._own[f"{owner}/{name}"] = own

    def _where(self, owner: str, name: str, part: Attached) -> Tensor | None:
        """Which of a parameter's values are common, bool (n,) on its device; None: none of them."""
        parameter = part.trainable()[name]
        if name in self.selection.dense:
            return torch.ones(parameter.numel(), dtype=torch.bool, device=parameter.device)
        if name not in self.selection.sparse:
            return None
        where = torch.isin(part.selection.sparse[name], self.selection.sparse[name], assume_unique=True)
        if int(where.sum()) < len(self.selection.sparse[name]):
            raise CheckpointError(f"{owner}: expected a selection that holds the common part, it lacks some of {name}")
        return where.to(parameter.device)

    def trainable(self) -> dict[str, nn.Parameter]:
        """``common/NAME`` and ``PART/NAME`` -> parameter for the optimizer."""
        return {**{f"{COMMON}/{name}": parameter for name, parameter in self._common.items()}, **self._own}

    def role_of(self, name: str) -> Role | None:
        """Why a trained parameter trains as a whole; None: its connections are selected."""
        owner, _, parameter = name.partition("/")
        return self.selection.dense.get(parameter) if owner == COMMON else self.parts[owner].role_of(parameter)

    def gather(self) -> None:
        """Bring every model's gradients to the common and to its own values. Call after the backward passes of a step."""
        for name, part in self.parts.items():
            if not self._checked:
                part.check_gradients()
            for divided in self._divided[name].values():
                divided.gather()
        self._checked = True

    def write_back(self) -> None:
        """Copy the values into all models."""
        for name, part in self.parts.items():
            part.load({key: value.detach() for key, value in part.trainable().items()}
                      | {key: divided.values() for key, divided in self._divided[name].items()})

    def follow(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Write back by itself after each of the optimizer's steps; returns a function that stops this."""
        def after_step(*_: Any) -> None:
            self.write_back()

        return optimizer.register_step_post_hook(after_step).remove

    def state(self) -> dict[str, Tensor]:
        """Current values, detached copies on the CPU, keyed like :meth:`trainable`."""
        return copies(self.trainable())

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set all values and write them into all models.

        Raises:
            CheckpointError: a name is missing, unexpected, or has another shape.
        """
        set_values(self.trainable(), state)
        self.write_back()
