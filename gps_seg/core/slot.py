"""One weight with selected entries, and the small vector that trains in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.core.layers import VALUES, SparseConv2d, SparseLinear, backend_in_use, has_sparse_form
from gps_seg.core.positions import conv_positions, linear_positions


class Slot:
    """Where a weight is, what it was, and its small vector.

    Attributes:
        values: fp32 (n,), the parameter that trains.
        base: (n,), the pretrained values, in the weight's type.
        handle: the hook of a layer without a sparse form, else None.
        original: the whole weight in main memory, while it is stored in a smaller type.
    """

    def __init__(self, layer: nn.Module, attribute: str, indices: Tensor, *, shared: bool = False) -> None:
        self.layer, self.attribute, self.indices = layer, attribute, indices
        self.stock_class = type(layer)
        self.handle: Any = None
        self.original: Tensor | None = None
        weight = self.weight
        self.coordinates = torch.unravel_index(indices.to(weight.device), weight.shape)
        self.base = weight.detach()[self.coordinates].clone()
        self.values = nn.Parameter(self.base.float().clone())
        weight.requires_grad_(False)
        if attribute == "weight" and not shared and has_sparse_form(layer):  # each layer would see its own part alone
            self._become_sparse()
        else:
            self._pick_from_dense()

    @property
    def weight(self) -> nn.Parameter:
        """The layer's weight, frozen."""
        return getattr(self.layer, self.attribute)

    def _become_sparse(self) -> None:
        linear = isinstance(self.layer, nn.Linear)
        locate = linear_positions if linear else conv_positions
        self.layer.selected_positions = locate(self.layer, self.weight.shape, self.indices).to(self.weight.device)
        self.layer.register_parameter(VALUES, self.values)
        self.layer.__class__ = SparseLinear if linear else SparseConv2d

    def _pick_from_dense(self) -> None:
        """For layers without a sparse form: let autograd make the dense gradient, keep the picked entries, free it."""
        self.layer.register_parameter(f"{self.attribute}_{VALUES}", self.values)
        self.weight.requires_grad_(True)

        def pick(weight: Tensor) -> None:
            if weight.grad is not None:
                picked = weight.grad[self._where()].to(self.values.dtype)
                weight.grad = None
                self.values.grad = picked if self.values.grad is None else self.values.grad + picked

        self.handle = self.weight.register_post_accumulate_grad_hook(pick)

    def _where(self) -> tuple[Tensor, ...]:
        if self.coordinates[0].device != self.weight.device:
            self.coordinates = tuple(part.to(self.weight.device) for part in self.coordinates)
        return self.coordinates

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        """Copy values (n,) into the weight."""
        self.weight.index_put_(self._where(), values.to(self.weight.device, self.weight.dtype))

    def store(self, dtype: torch.dtype) -> None:
        """Keep the frozen weight in a smaller type on its device, the original in main memory."""
        weight = self.weight
        if self.handle is None and weight.dtype != dtype and self.original is None:
            self.original = weight.detach().to("cpu", copy=True)
            weight.data = weight.data.to(dtype)

    def unstore(self) -> None:
        """Put the original weight back, base values at the selected places."""
        if self.original is not None:
            self.weight.data = self.original.to(self.weight.device)
            self.original = None

    def backend(self, dtype: torch.dtype) -> str:
        """Which back-end computes the gradient, for activations of this type."""
        return "dense + pick" if self.handle is not None else backend_in_use(self.layer, dtype, self.weight.device.type)  # type: ignore[arg-type]

    def let_go(self) -> None:
        """Make the layer stock again, with the weight it has."""
        if self.handle is not None:
            self.handle.remove()
            del self.layer._parameters[f"{self.attribute}_{VALUES}"]
        else:
            self.layer.__class__ = self.stock_class
            del self.layer._parameters[VALUES]
            del self.layer.selected_positions
