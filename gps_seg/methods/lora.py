"""LoRA and SHiRA as HF peft implements them, on every linear layer of the encoder.

An encoder without linear layers, such as EfficientNet, gets LoRA on its 1x1 convolutions: linear layers over pixels.

Sources: Hu et al., LoRA, ICLR 2022, arXiv 2106.09685; Bhardwaj et al., Sparse High Rank Adapters, NeurIPS 2024,
arXiv 2406.13175; Hugging Face peft.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gps_seg.config import LoraOptions, ShiraOptions
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.methods.addition import Addition, Numbers, add_and_select
from gps_seg.methods.parts import encoder_modules
from gps_seg.packages import import_torchvision


def lora(model: nn.Module, options: LoraOptions, scores: Scores, seed: int) -> Selection:
    """Low-rank updates of rank ``options.rank`` scaled by alpha / rank, and the head. A new update is zero."""
    return add_and_select(model, LORA, {"rank": options.rank, "alpha": options.alpha, "seed": seed}, options.head)


def shira(model: nn.Module, options: ShiraOptions, scores: Scores, seed: int) -> Selection:
    """A random sparse update of ``options.rank`` x (in + out) entries a layer, and the head. A new update is zero."""
    return add_and_select(model, SHIRA, {"rank": options.rank, "seed": seed}, options.head)


def _add_lora(model: nn.Module, numbers: Numbers) -> None:
    import_torchvision()  # peft imports transformers, which imports it
    import peft

    _inject(model, peft.LoraConfig(r=int(numbers["rank"]), lora_alpha=int(numbers["alpha"]),
                                   target_modules=_targets(model) or _pointwise(model)))


def _add_shira(model: nn.Module, numbers: Numbers) -> None:
    import_torchvision()
    import peft

    torch.sparse.check_sparse_tensor_invariants.disable()  # the default, said aloud: torch warns at each use otherwise
    _inject(model, peft.ShiraConfig(r=int(numbers["rank"]), random_seed=int(numbers["seed"]), target_modules=_targets(model)))


def _targets(model: nn.Module) -> list[str]:
    return [name for name, module in encoder_modules(model) if type(module).forward is nn.Linear.forward]


def _pointwise(model: nn.Module) -> list[str]:
    return [name for name, module in encoder_modules(model)
            if type(module).forward is nn.Conv2d.forward and module.kernel_size == (1, 1) and module.groups == 1]


def _inject(model: nn.Module, config: Any) -> None:
    import peft

    training = model.training
    peft.inject_adapter_in_model(config, model)
    model.train(training)


def _take_out(model: nn.Module, *, merge: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            if merge:
                module.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _remove(model: nn.Module) -> None:
    _take_out(model, merge=False)


def _merge(model: nn.Module) -> None:
    _take_out(model, merge=True)


LORA = Addition("lora", _add_lora, _remove, _merge)
SHIRA = Addition("shira", _add_shira, _remove, _merge)
