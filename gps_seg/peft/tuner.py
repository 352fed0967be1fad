"""peft's side of the method: which layers get an adapter, with which indices, and what of peft does not fit."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from gps_seg.core.layers import has_sparse_form
from gps_seg.core.scores import DATA_FREE
from gps_seg.core.selection import fingerprint
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.peft.config import GPSConfig, exactly, select, targets
from gps_seg.peft.layer import GPSLayer


class GPSTuner(BaseTuner):
    """What ``peft.get_peft_model`` and ``PeftModel.from_pretrained`` make of a :class:`GPSConfig`."""

    prefix = "gps_"
    tuner_layer_cls = GPSLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _pre_injection_hook(self, model: nn.Module, config: GPSConfig, adapter_name: str) -> None:
        """Know the base, choose connections that need no data, and name the layers.

        Raises:
            CheckpointError: the adapter is of another base.
            ConfigError: a gradient score without its pass; see :func:`gps_seg.peft.select`.
        """
        former = [other.base_sha256 for name, other in self.peft_config.items() if name != adapter_name]
        base = former[0] if former else fingerprint(model)
        if config.base_sha256 not in (None, base):
            known = str(config.base_sha256)[:16]
            raise CheckpointError(f"the adapter {adapter_name!r} is of a base with fingerprint {known}..., this model has "
                                  f"{str(base)[:16]}...: load the weights it was made on")
        if not config.selected and (former or config.score not in DATA_FREE):
            raise ConfigError("nothing is selected yet: config = gps_seg.peft.select(model, config, batches, loss) reads the "
                              "data once, on the model without adapters; only a first adapter with score "
                              f"{' or '.join(DATA_FREE)} does without")
        if not config.selected:
            chosen = select(model, config)
            config.selection, config.selected, config.target_modules = chosen.selection, True, chosen.target_modules
        elif config.target_modules is None:
            config.target_modules = exactly(targets(model, config))
        config.base_sha256 = base

    def _prepare_adapter_config(self, peft_config: GPSConfig, model_config: Any) -> GPSConfig:  # noqa: ARG002 - peft's own
        return peft_config

    def _create_and_replace(
        self, config: GPSConfig, adapter_name: str, target: Any, target_name: str, parent: nn.Module, current_key: str, **_: Any
    ) -> None:
        layer: Any = target if isinstance(target, GPSLayer) else GPSLayer(target)
        if not has_sparse_form(layer.base_layer):
            kind = type(layer.base_layer).__name__
            raise ConfigError(f"GPSConfig.target_modules: expected linear layers and 2-D convolutions, {current_key} is a {kind}")
        empty, chosen = torch.zeros(0, dtype=torch.int64), config.selection
        indices = chosen.sparse.get(f"{current_key}.weight", empty) if chosen else empty
        bias = f"{current_key}.bias" in chosen.dense if chosen else True  # loading drops one that was not saved
        layer.add_adapter(adapter_name, indices, bias=bias)
        layer.set_adapter(self.active_adapters)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def unload(self) -> nn.Module:
        """The base, to the bit; peft's own leaves the active adapter's copies of ``modules_to_save`` in it."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                parent, _, attribute = name.rpartition(".")
                setattr(self.model.get_submodule(parent), attribute, module.original_module)
        return super().unload()

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:  # noqa: ARG002
        """Put one module in another's place. peft's own wants a weight of both, which a whole decoder in ``modules_to_save`` does
        not have (issue #3114).
        """
        setattr(parent, child_name, new_module)
