"""SPT: a budget of trained parameters where the loss is most sensitive, as modules on some layers, as single entries on others.

The sensitivity of a weight is its squared gradient, summed over the batches of a selection pass: to first order what one step on
this weight alone takes off the loss. The most sensitive ones are taken until what trains has reached the budget. A matrix that
holds many of them gets a module (low-rank: spt_lora; a bottleneck on its output: spt_adapter), a vector that does trains as a
whole, and elsewhere the sensitive entries train by themselves.

Source: He et al., Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, ICCV 2023, arXiv 2303.08566; numbers from the
released code, ziplab/SPT, engine.py and configs/vtab_supervised_spt_*.sh: rank 8, a module from a tenth of its own size in
sensitive entries on, a vector from a fifth. Head and class token train whole; patch embedding and position tables are frozen.
Where we differ: queries, keys and values are one matrix where the model holds them as one; the budget is a part of the encoder
and is never exceeded, where the code takes the nearest of a grid; modules have no dropout and no drop path of their own.
Convolutions, of which a ViT has the patch embedding alone, stay frozen with their biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.config import SptOptions
from gps_seg.core.roles import Role, matches, owners, role_of
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError, TrainingError
from gps_seg.methods.adapter import Bottleneck
from gps_seg.methods.addition import Addition, Numbers, add_and_select
from gps_seg.methods.parts import encoder_of, head_of

CLASS_TOKEN = ("*cls_token",)


class LowRank(nn.Module):
    """x (..., in) -> up(down(x)) (..., out), without biases; zero when new."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        return self.up(self.down(x))


@dataclass(frozen=True)
class Place:
    """A parameter that the budget can be spent on.

    Attributes:
        role: weight, or that of a vector.
        whole: parameters that train where it is tuned as a whole: its module's, or a vector's own.
        least: sensitive entries from which on it is.
    """

    role: Role
    whole: int
    least: float

    def cost(self, sensitive: int) -> int:
        """Parameters that train with so many sensitive entries; never fewer with more of them."""
        return self.whole if sensitive >= self.least else sensitive


def spt_lora(model: nn.Module, options: SptOptions, scores: Scores, seed: int) -> Selection:
    """Low-rank updates of sensitive matrices, sensitive vectors, single sensitive entries, and the head.

    Raises:
        ConfigError: the encoder has no linear layer, or the budget is too small for anything.
        TrainingError: all scores are zero.
    """
    return _spt(model, SPT_LORA, options, scores, seed)


def spt_adapter(model: nn.Module, options: SptOptions, scores: Scores, seed: int) -> Selection:
    """The same with bottlenecks on the outputs of sensitive matrices."""
    return _spt(model, SPT_ADAPTER, options, scores, seed)


def _spt(model: nn.Module, addition: Addition, options: SptOptions, scores: Scores, seed: int) -> Selection:
    places = _places(model, addition.kind, options)
    if not any(place.role == "weight" for place in places.values()):
        raise ConfigError(f"method {addition.kind}: expected an encoder with linear layers to tune, {type(model).__name__} has "
                          "none; use gps, lora, ssf or bitfit")
    found = scores(list(places))
    tokens: dict[str, Role] = {name: "embedding" for name in _encoder(model) if matches(name, CLASS_TOKEN)}
    sensitive = _sensitive(found, places, _budget(model, options.budget, tokens))
    wholes = {name for name, indices in sensitive.items() if len(indices) >= places[name].least}
    layers = sorted(name.removesuffix(".weight") for name in wholes if places[name].role == "weight")
    made = add_and_select(model, addition, {"layers": layers, "rank": options.rank, "seed": seed}, options.head)
    vectors = {name: places[name].role for name in wholes if places[name].role != "weight"}
    sparse = {name: indices for name, indices in sensitive.items() if name not in wholes and len(indices)}
    return replace(made, sparse=sparse, dense={**made.dense, **tokens, **vectors})


def _encoder(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters()
            if matches(name, encoder_of(model)) and not matches(name, head_of(model))}


def _places(model: nn.Module, kind: str, options: SptOptions) -> dict[str, Place]:
    """Weights and biases of the encoder's linear layers, and its norms."""
    places, owner_of = {}, owners(model)
    for name, parameter in _encoder(model).items():
        owner, _ = owner_of[name]
        role = role_of(owner, parameter)
        is_linear = type(owner).forward is nn.Linear.forward
        if is_linear and role == "weight":
            module = _module_size(parameter, kind, options.rank)
            places[name] = Place(role, module, module / options.matrix_ratio)
        elif parameter.ndim == 1 and (role == "norm" or (is_linear and role == "bias")):
            places[name] = Place(role, parameter.numel(), parameter.numel() / options.vector_ratio)
    return places


def _module_size(weight: Tensor, kind: str, rank: int) -> int:
    out, inputs = weight.shape
    return rank * (inputs + out) if kind == "spt_lora" else 2 * rank * out + rank + out


def _budget(model: nn.Module, part: float, tokens: Mapping[str, Role]) -> int:
    """Parameters beside the class token."""
    sizes = {name: parameter.numel() for name, parameter in _encoder(model).items()}
    return int(part * sum(sizes.values())) - sum(sizes[name] for name in tokens)


def _sensitive(scores: Mapping[str, Tensor], places: Mapping[str, Place], budget: int) -> dict[str, Tensor]:
    """Ascending flat indices (n,) of the most sensitive entries, as many as the budget pays for; equal scores go together.

    Positive fp32 numbers are ordered as their bits are when read as integers, so that 31 halvings find the lowest score.
    """
    top = max(float(score.max()) for score in scores.values())
    if top == 0:
        raise TrainingError("selection: every sensitivity is zero: no batch had a gradient in a linear layer or a norm")

    def cost(bits: int) -> int:
        return sum(place.cost(int((scores[name] >= _number(bits)).sum())) for name, place in places.items())

    low, high = 0, int(torch.tensor(top).view(torch.int32)) + 1  # nothing is as high as this, everything as low as zero
    first = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= budget else (middle, high)
    if high == first:
        raise ConfigError(f"selection.budget: expected a larger part: it pays for {max(0, budget)} parameters beside the class "
                          f"token, the most sensitive ones cost {cost(first - 1)}")
    return {name: (score.flatten() >= _number(high)).nonzero().flatten().cpu() for name, score in scores.items()}


def _number(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def _add_to(layers: Any, make: Any, hook: Any, model: nn.Module) -> None:
    layer: Any
    for layer in map(model.get_submodule, layers):
        layer.spt = make(layer)
        layer.spt_hook = [layer.register_forward_hook(hook)]


def _beside(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    return output + layer.spt(inputs[0]).to(output.dtype)


def _behind(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    return layer.spt(output)


def _add_lora(model: nn.Module, numbers: Numbers) -> None:
    _add_to(numbers["layers"], lambda layer: LowRank(layer, numbers["rank"]), _beside, model)


def _add_adapter(model: nn.Module, numbers: Numbers) -> None:
    _add_to(numbers["layers"], lambda layer: Bottleneck(layer.out_features, numbers["rank"]), _behind, model)


def _remove(model: nn.Module) -> None:
    layer: Any
    for layer in list(model.modules()):
        if hasattr(layer, "spt_hook"):
            layer.spt_hook[0].remove()
            del layer.spt_hook, layer.spt


def _fold(model: nn.Module) -> None:
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "spt_hook"):
            layer.weight.add_(layer.spt.up.weight @ layer.spt.down.weight)
    _remove(model)


SPT_LORA = Addition("spt_lora", _add_lora, _remove, _fold)
SPT_ADAPTER = Addition("spt_adapter", _add_adapter, _remove, fold=None)
