"""Several deltas on one base in memory: switching takes milliseconds and comes back to the base bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import CheckpointError


@dataclass(frozen=True)
class _Entry:
    """Where a delta writes in one parameter (None: everywhere), and what."""

    where: tuple[Tensor, ...] | None
    values: Tensor


class Switchboard:
    """A base model and any number of named deltas, at most one of them active.

    Args:
        model: the plain base, nothing attached; it is changed in place and stays usable at any time.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.base = fingerprint(model)
        self.active: str | None = None
        self._parameters = dict(model.named_parameters())
        self._deltas: dict[str, dict[str, _Entry]] = {}
        self._replaced: dict[str, _Entry] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The deltas in memory."""
        return tuple(self._deltas)

    def add(self, name: str, selection: Selection, state: Mapping[str, Tensor]) -> None:
        """Keep a delta ready, on the model's device.

        Args:
            selection: made on this base.
            state: absolute values by parameter name, as ``Attached.state()`` gives them.

        Raises:
            CheckpointError: the delta is of another base, or does not fit.
        """
        if selection.base != self.base:
            raise CheckpointError(f"delta {name!r} was made on base {selection.base[:16]}..., this is {self.base[:16]}...")
        if set(state) != {*selection.sparse, *selection.dense} or not set(state) <= set(self._parameters):
            raise CheckpointError(f"delta {name!r}: its values and its selection name different parameters")
        self._deltas[name] = {key: self._entry(key, selection.sparse.get(key), value) for key, value in state.items()}

    def _entry(self, key: str, indices: Tensor | None, values: Tensor) -> _Entry:
        parameter = self._parameters[key]
        moved = values.to(parameter.device, parameter.dtype)
        return _Entry(None if indices is None else torch.unravel_index(indices.to(parameter.device), parameter.shape), moved)

    @torch.no_grad()
    def switch(self, name: str | None) -> None:
        """Make a delta the active one; None gives back the base. Raises CheckpointError for an unknown name."""
        if name is not None and name not in self._deltas:
            raise CheckpointError(f"no delta called {name!r} here; there are: {', '.join(self._deltas) or 'none'}")
        for key, entry in self._replaced.items():
            self._write(key, entry)
        self._replaced = {}
        for key, entry in self._deltas.get(name, {}).items() if name is not None else ():
            parameter = self._parameters[key]
            self._replaced[key] = _Entry(entry.where, parameter.clone() if entry.where is None else parameter[entry.where])
            self._write(key, entry)
        self.active = name
        if not self.model.training:
            self.model.eval()  # modules that keep something derived from weights redo it

    def _write(self, key: str, entry: _Entry) -> None:
        parameter = self._parameters[key]
        if entry.where is None:
            parameter.copy_(entry.values)
        else:
            parameter.index_put_(entry.where, entry.values)
