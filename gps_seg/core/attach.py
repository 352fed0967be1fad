"""Binding a selection to a model, in place.

Each touched weight stays where it is, frozen; a small fp32 vector ``selected_values`` beside it is the parameter. After each
optimizer step :meth:`Attached.write_back` copies the values into the weight, so merging is nothing more than letting go.
Unselected weights are never an argument of any optimizer: no weight decay, momentum or rounding can reach them.

Source for compact values: Zhang et al., NeuroAda, EMNLP 2025, arXiv 2510.18940; we store absolute values instead of
differences, so that merge, unmerge and swap are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.core.layers import SparseLinear
from gps_seg.core.products import check_backend, fastest
from gps_seg.core.roles import Role
from gps_seg.core.selection import Selection, counts
from gps_seg.core.slot import Slot
from gps_seg.core.trained import copies, set_values
from gps_seg.errors import CheckpointError, TrainingError


class Attached:
    """A selection bound to a model. One owner of everything that trains.

    The model's other parameters have ``requires_grad`` False until :meth:`merge` or :meth:`unmerge`, which give each its
    former setting back.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.model, self.selection = model, selection
        parameters = dict(model.named_parameters())
        missing = sorted({*selection.sparse, *selection.dense} - set(parameters))
        if missing:
            raise CheckpointError(f"the selection names {len(missing)} parameters the model lacks: {', '.join(missing[:5])}")
        self._required = {name: parameter.requires_grad for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in selection.dense)
        # In the model's order, whatever the selection's: a resumed run must sum gradient norms in the same order.
        self._dense = {name: parameter for name, parameter in parameters.items() if name in selection.dense}
        self._dense_base = {name: parameter.detach().cpu().clone() for name, parameter in self._dense.items()}
        self._slots: dict[str, Slot] = {}
        self._checked = False
        owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
        for name in parameters:
            if name not in selection.sparse:
                continue
            indices = selection.sparse[name]
            _check_indices(name, parameters[name], indices)
            layer, _, attribute = name.rpartition(".")
            shared = owners[id(parameters[name])] > 1
            self._slots[name] = Slot(model.get_submodule(layer), attribute, indices, shared=shared)
        self._stock_parameters = parameters
        # A weight whose dense gradient is only picked from must not be reduced between processes; torch has no public
        # name for this.
        model._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
            name for name, slot in self._slots.items() if slot.handle is not None
        ]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter for the optimizer: fp32 vectors under their weight's name, dense tensors under their own."""
        return {**{name: slot.values for name, slot in self._slots.items()}, **self._dense}

    def counts(self, head: Sequence[str] = ()) -> dict[str, int]:
        """Trainable scalars by role, over the stock parameters; see :func:`gps_seg.core.selection.counts`."""
        return counts(self.selection, self._stock_parameters, head)

    def role_of(self, name: str) -> Role | None:
        """Why a trained parameter trains as a whole; None: its connections are selected."""
        return self.selection.dense.get(name)

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Keep the weights that are selected from in ``dtype`` on their device, and the originals in main memory.

        Under autocast to the same type nothing changes, to the bit: autocast rounds the weights at every use anyway. The
        trained values stay fp32; :meth:`merge` and :meth:`unmerge` put the originals back first.
        """
        for slot in self._slots.values():
            slot.store(dtype)

    def set_backend(self, name: str) -> None:
        """Compute every selected gradient with one back-end of :mod:`gps_seg.core.products`; ``auto`` is the measured rule.

        Raises:
            ConfigError: no such back-end.
        """
        for slot in self._slots.values():
            if slot.handle is None:
                slot.layer.selected_positions.backend = check_backend(name)  # type: ignore[union-attr]

    def measure_backends(self, dtype: torch.dtype = torch.float32, tokens: int = 2048) -> dict[str, str]:
        """Time the back-ends of every linear layer on this device and keep each layer's fastest; returns the choice by weight.

        Layers of one shape are measured once. Another run may choose otherwise where two are alike, so runs that must repeat
        to the bit keep ``auto``.
        """
        known: dict[tuple[int, ...], str] = {}
        for slot in self._slots.values():
            if not isinstance(slot.layer, SparseLinear):
                continue
            where, out = slot.layer.selected_positions, slot.layer.out_features
            shape = (len(where.used), out, len(where.rows))
            if shape not in known:
                dy = torch.randn(tokens, out, dtype=dtype, device=where.rows.device)
                x = torch.randn(tokens, shape[0], dtype=dtype, device=where.rows.device)
                known[shape] = fastest(where.rows, where.columns, dy, x)
            where.backend = known[shape]
        return self.backends(dtype)

    def backends(self, dtype: torch.dtype = torch.float32) -> dict[str, str]:
        """Weight name -> the back-end that computes its selected gradient, for activations of this type."""
        return {name: slot.backend(dtype) for name, slot in self._slots.items()}

    def gather(self) -> None:
        """Nothing to do: a backward pass leaves each gradient with the parameter that the optimizer moves."""

    def write_back(self) -> None:
        """Copy the values into the weights. Call after every optimizer step, never between a forward and its backward."""
        for slot in self._slots.values():
            slot.write(slot.values.detach())

    def follow(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Write back by itself after each of the optimizer's steps; returns a function that stops this."""
        def after_step(*_: Any) -> None:
            if not self._checked:
                self.check_gradients()
            self.write_back()

        return optimizer.register_step_post_hook(after_step).remove

    def check_gradients(self) -> None:
        """After the first step every selected weight must have had a gradient; one that has not would never train.

        Raises:
            TrainingError: the model reads some weights without calling their layer.
        """
        silent = [name for name, slot in self._slots.items() if slot.values.grad is None]
        if silent:
            raise TrainingError(f"{len(silent)} selected weights got no gradient, as the model uses them without calling their "
                                f"layer: {', '.join(silent[:3])}; leave them out with selection.overrides")
        self._checked = True

    def state(self) -> dict[str, Tensor]:
        """Current values, detached copies on the CPU, keyed like :meth:`trainable`."""
        return copies(self.trainable())

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set all values and write them back.

        Raises:
            CheckpointError: a name is missing, unexpected, or has another shape.
        """
        set_values(self.trainable(), state)
        self.write_back()
        self._refresh()

    @contextmanager
    def base_restored(self) -> Iterator[None]:
        """Within the block the model is the base, bit for bit; afterwards the trained values are back."""
        state = self.state()
        self._restore_base()
        try:
            yield
        finally:
            self.load(state)

    def merge(self) -> nn.Module:
        """Let go of the model: trained values stay in its weights; names, classes and flags are the stock ones."""
        for slot in self._slots.values():
            slot.unstore()
        self.write_back()
        self._let_go()
        return self.model

    def unmerge(self) -> nn.Module:
        """Let go of the model and restore the pretrained values bit for bit."""
        for slot in self._slots.values():
            slot.unstore()
        self._restore_base()
        self._let_go()
        return self.model

    @torch.no_grad()
    def _restore_base(self) -> None:
        for slot in self._slots.values():
            slot.write(slot.base)
        for name, parameter in self._dense.items():
            parameter.copy_(self._dense_base[name])
        self._refresh()

    def _refresh(self) -> None:
        """Let modules that keep something derived from weights while in eval mode (TinyViT's attention biases) redo it."""
        if not self.model.training:
            self.model.eval()

    def _let_go(self) -> None:
        for slot in self._slots.values():
            slot.let_go()
        for name, parameter in self._stock_parameters.items():
            parameter.requires_grad_(self._required[name])
            parameter.grad = None
        self._slots = {}


def _check_indices(name: str, weight: Tensor, indices: Tensor) -> None:
    if len(indices) == 0 or int(indices.min()) < 0 or int(indices.max()) >= weight.numel():
        raise CheckpointError(f"{name}: expected indices in 0..{weight.numel() - 1}; the selection is for another model")
    if len(torch.unique(indices)) != len(indices):
        raise CheckpointError(f"{name}: the selection repeats an index; select again")


def attach(model: nn.Module, selection: Selection, *, backend: str = "auto") -> Attached:
    """Bind a selection to a model in place; outputs do not change.

    Args:
        backend: how selected gradients are computed, see :mod:`gps_seg.core.products`.

    Raises:
        CheckpointError: the selection names parameters or indices that the model does not have.
        ConfigError: no such back-end.
    """
    check_backend(backend)
    attached = Attached(model, selection)
    attached.set_backend(backend)
    return attached
