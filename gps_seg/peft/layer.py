"""A linear layer or 2-D convolution with adapters, each a few absolute values of its weight and a bias of its own.

The values of the active adapters lie in the base layer's weight, in place; what was there is held and comes back, to the bit,
when they are switched off, exchanged or unmerged. The backward is the core's: no dense weight gradient is made. A forward pass
with a gradient does not call the base layer, so hooks belong on the adapted layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from gps_seg.core.layers import compute_dtype, conv2d, linear
from gps_seg.core.positions import Positions, conv_positions, linear_positions
from gps_seg.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Held:
    """What the base layer had where adapters now are: ``coordinates`` of the weight, the values there, and the bias."""

    names: tuple[str, ...]
    coordinates: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor | None


class GPSLayer(nn.Module, BaseTunerLayer):
    """See this module. ``gps_values`` fp32 (n,), ``gps_indices`` int32 (n,) flat and ascending, ``gps_bias`` fp32 (out,)."""

    adapter_layer_names = ("gps_values", "gps_bias")
    other_param_names = ("gps_indices",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.gps_values, self.gps_bias = nn.ParameterDict(), nn.ParameterDict()
        self.gps_indices = BufferDict(persistent=True)
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self._held: Held | None = None
        self._known: dict[tuple[str, ...], Positions] = {}

    def add_adapter(self, name: str, indices: Tensor, *, bias: bool) -> None:
        """A new adapter with the base's values at flat indices (n,) of the weight, and its bias if wanted."""
        self.restore()
        base: Any = self.base_layer
        self.gps_indices[name] = indices.to(base.weight.device, torch.int32)
        self.gps_values[name] = nn.Parameter(base.weight.detach().flatten()[self.gps_indices[name].long()].float())
        if bias and base.bias is not None:
            self.gps_bias[name] = nn.Parameter(base.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The base layer's result with the active adapters' values."""
        base: Any = self.base_layer
        names = self._wanted()
        self._hold(names)
        values = [self.gps_values[name] for name in names]
        biases = [self.gps_bias[name] for name in names if name in self.gps_bias]
        trains = any(parameter.requires_grad for parameter in (*values, *biases))
        if self.merged or not torch.is_grad_enabled() or not trains:
            return base(x)
        bias, where = (biases or [base.bias])[0], self._positions(names)
        selected, dtype = torch.cat(values) if len(values) > 1 else values[0], compute_dtype(x)
        if isinstance(base, nn.Linear):
            return linear(x.to(dtype), base.weight, bias, selected, where)
        geometry = (base.stride, base.padding, base.dilation, base.groups)
        images = x if x.ndim == 4 else x[None]
        y = conv2d(images.to(dtype), base.weight, bias, selected, where, geometry)
        return y if x.ndim == 4 else y[0]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: FBT001, FBT002 - peft's own
        """Leave the adapters' values in the base layer until :meth:`unmerge`. Raises CheckpointError: a value is not finite."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) or [] if name in self.gps_indices]
        for name in names if safe_merge else ():
            if not torch.isfinite(self.gps_values[name]).all():
                raise CheckpointError(f"adapter {name}: a value is not finite; it cannot be merged")
        if names:
            self._hold((*self.merged_adapters, *names))
            self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Bring back the base layer, to the bit."""
        self.merged_adapters.clear()
        self.restore()

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None  # noqa: FBT001 - peft's own
    ) -> nn.Module:
        """The base layer, with the adapters' values or as it was."""
        if merge:
            self.merge(safe_merge, adapter_names)
        else:
            self.unmerge()
        return self.base_layer

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter."""
        self.restore()
        super().delete_adapter(adapter_name)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:  # noqa: ARG002 - peft's own
        """No: a few entries have no low rank."""
        return False

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what the base layer had, if adapters are in it."""
        held, base = self._held, self.base_layer
        self._held, self._known = None, {}
        if held is not None:
            _write(base, held.coordinates, held.weight, held.bias)

    def _wanted(self) -> tuple[str, ...]:
        """The adapters that an answer now is of."""
        active: Any = self.active_adapters
        names = [] if self.disable_adapters else self.merged_adapters or active
        return tuple(name for name in names if name in self.gps_indices)

    @torch.no_grad()
    def _hold(self, names: tuple[str, ...]) -> None:
        """Put the adapters' present values into the base layer, and back what others left there."""
        base: Any = self.base_layer
        if self._held is not None and self._held.names != names:
            self.restore()
        if not names:
            return
        if self._held is None:
            where = torch.unravel_index(self._together(names), base.weight.shape)
            biased = any(name in self.gps_bias for name in names)
            self._held = Held(names, where, base.weight[where].clone(), base.bias.clone() if biased else None)
        values = torch.cat([self.gps_values[name] for name in names])
        biases = [self.gps_bias[name] for name in names if name in self.gps_bias]
        _write(base, self._held.coordinates, values, biases[0] if biases else None)

    def _together(self, names: tuple[str, ...]) -> Tensor:
        """All indices (n,), int64. Raises ConfigError: two adapters disagree about a scalar."""
        indices = torch.cat([self.gps_indices[name] for name in names]).long()
        if len(indices.unique()) < len(indices) or sum(name in self.gps_bias for name in names) > 1:
            raise ConfigError(f"the adapters {', '.join(names)} change the same scalars of a layer: use one at a time")
        return indices

    def _positions(self, names: tuple[str, ...]) -> Positions:
        base: Any = self.base_layer
        if names not in self._known:
            locate = linear_positions if isinstance(base, nn.Linear) else conv_positions
            self._known[names] = locate(base, base.weight.shape, self._together(names))
        return self._known[names].to(base.weight.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for indices of any number: settings do not say how many there are."""
        self.restore()
        base: Any = self.base_layer
        for name in list(self.gps_indices.keys()):
            indices = state_dict.get(f"{prefix}gps_indices.{name}")
            if indices is None:
                continue
            trains = self.gps_values[name].requires_grad
            self.gps_indices[name] = torch.empty(indices.shape, dtype=torch.int32, device=base.weight.device)
            self.gps_values[name] = nn.Parameter(torch.empty(indices.shape, device=base.weight.device), requires_grad=trains)
            if name in self.gps_bias and f"{prefix}gps_bias.{name}" not in state_dict:
                del self.gps_bias[name]
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _write(base: Any, coordinates: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> None:
    """Through ``data``: a pass that kept the weight for its backward sees the values it was made with."""
    place = base.weight.device
    base.weight.data.index_put_(tuple(part.to(place) for part in coordinates), weight.to(place, base.weight.dtype))
    if bias is not None:
        base.bias.data.copy_(bias)
