"""From :class:`gps_seg.GPSModel` to a model of peft and back, values to the bit. Each saves and loads in its own form."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from gps_seg.core.attach import attach
from gps_seg.core.roles import Role
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import ConfigError
from gps_seg.methods.addition import META
from gps_seg.peft.config import config_for
from gps_seg.peft.layer import GPSLayer
from gps_seg.peft.tuner import GPSTuner
from gps_seg.runs.gps_model import GPSModel


def to_peft_model(model: GPSModel, adapter_name: str = "default") -> Any:
    """The same base and values as a ``peft.PeftModel``; the GPSModel lets go of the base.

    Raises:
        ConfigError: of a method that adds modules, or a selection that peft has no words for; see :func:`config_for`.
    """
    selection, state = model.attached.selection, model.attached.state()
    if META in selection.meta:
        raise ConfigError("gps_seg.peft.to_peft_model: the model has added modules; only selected connections are converted")
    base = model.attached.unmerge()
    tuned = get_peft_model(base, config_for(base, selection), adapter_name)
    own = _values(tuned.base_model.model, adapter_name)
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return tuned


def to_gps_model(model: PeftModel, adapter_name: str = "default") -> GPSModel:
    """An adapter of a ``peft.PeftModel`` as a GPSModel on the same base; the PeftModel lets go of it and of its other adapters.

    Raises:
        ConfigError: the model is not one of this method, or has no such adapter.
    """
    tuner: Any = model.base_model
    if not isinstance(tuner, GPSTuner) or adapter_name not in model.peft_config:
        raise ConfigError(f"gps_seg.peft.to_gps_model: expected a PeftModel with an adapter {adapter_name!r} of GPS")
    values = {name: value.detach().cpu().clone() for name, value in _values(tuner.model, adapter_name).items()}
    layers = {name: module for name, module in tuner.model.named_modules() if isinstance(module, GPSLayer)}
    sparse = {f"{name}.weight": layer.gps_indices[adapter_name].cpu().long() for name, layer in layers.items()
              if adapter_name in layer.gps_indices and len(layer.gps_indices[adapter_name])}
    dense: dict[str, Role] = {name: "bias" if name.rpartition(".")[0] in layers else "head" for name in set(values) - set(sparse)}
    base: nn.Module = tuner.unload()
    attached = attach(base, Selection(sparse, dense, fingerprint(base), {"method": "gps"}))
    attached.load(values)
    return GPSModel(base, attached)


def _values(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """Everything that an adapter trains, under the names of the stock model."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, GPSLayer) and adapter_name in module.gps_indices:
            if len(module.gps_indices[adapter_name]):
                found[f"{name}.weight"] = module.gps_values[adapter_name]
            if adapter_name in module.gps_bias:
                found[f"{name}.bias"] = module.gps_bias[adapter_name]
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            whole = module.modules_to_save[adapter_name]
            found |= {f"{name}.{parameter}": value for parameter, value in whole.named_parameters()}
    return found
