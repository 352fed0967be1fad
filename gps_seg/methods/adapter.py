"""Adapters: a bottleneck after the MLP of every block, out = x + up(GELU(down(x))), with the up projection zero at first.

Sources: Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, arXiv 1902.00751; one adapter a block, after
the feed-forward part, as in Pfeiffer et al., AdapterFusion, EACL 2021, arXiv 2005.00247.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.config import AdapterOptions
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError
from gps_seg.methods.addition import Addition, Numbers, add_and_select
from gps_seg.methods.parts import encoder_modules


class Bottleneck(nn.Module):
    """x (..., width) -> x + up(GELU(down(x))); the identity when new."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The residual bottleneck."""
        return x + self.up(F.gelu(self.down(x))).to(x.dtype)


def adapter(model: nn.Module, options: AdapterOptions, scores: Scores, seed: int) -> Selection:
    """Train a bottleneck of ``options.width`` channels after each MLP, and the head.

    Raises:
        ConfigError: no block of the encoder has an ``mlp``.
    """
    return add_and_select(model, ADAPTER, {"width": options.width, "seed": seed}, options.head)


def _apply(module: Any, inputs: Any, output: Tensor) -> Tensor:
    return module.adapter(output)


def _add(model: nn.Module, numbers: Numbers) -> None:
    owners = {name.rsplit(".mlp.", 1)[0] for name, module in encoder_modules(model)
              if ".mlp." in name and isinstance(module, nn.Linear)}
    if not owners:
        raise ConfigError("method adapter: no block of this encoder has an mlp of linear layers to put an adapter after; use "
                          "lora or ssf")
    for owner in sorted(owners):
        mlp: Any = model.get_submodule(owner + ".mlp")
        last = [module for module in mlp.modules() if isinstance(module, nn.Linear)][-1]
        mlp.adapter = Bottleneck(last.out_features, int(numbers["width"]))
        mlp.adapter_hook = [mlp.register_forward_hook(_apply)]


def _remove(model: nn.Module) -> None:
    module: Any
    for module in list(model.modules()):
        if hasattr(module, "adapter_hook"):
            module.adapter_hook[0].remove()
            del module.adapter_hook, module.adapter


ADAPTER = Addition("adapter", _add, _remove, fold=None)
