"""The settings of the method in peft's form, and the selection pass that fills in what they can't know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.peft_types import PeftType
from torch import Tensor, nn

from gps_seg.config import Score
from gps_seg.core.layers import has_sparse_form
from gps_seg.core.roles import Assignment, Role
from gps_seg.core.scores import DATA_FREE, gradient_scores, scores_of_each
from gps_seg.core.selection import Level, Selection
from gps_seg.core.selection import select as select_best
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.peft.register import NAME


@dataclass
class GPSConfig(PeftConfig):
    """Gradient-based parameter selection; see :class:`gps_seg.GPSConfig` for the words.

    Source: Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024, arXiv 2312.10136.

    Attributes:
        k: connections per neuron.
        score: what ranks them; all but magnitude and random need the pass of :func:`select`.
        level: where the best are looked for: neuron, layer or network.
        train_bias: whether the biases of the chosen layers train too. Each adapter has biases of its own.
        target_modules: names, or a regular expression, of linear layers and 2-D convolutions; default: all of them outside of
            ``modules_to_save``.
        exclude_modules: which of them not.
        modules_to_save: modules that train as a whole, such as a head.
        seed: of random scores.
        base_sha256: fingerprint of the base; another base is refused.
        selected: whether the indices exist; they are saved with the values, not with the settings.
        format: of the folder; a delta of gps-seg itself has another one.
        selection: the indices, until they are in the model.
    """

    k: int = 1
    score: str = "gradient"
    level: str = "neuron"
    train_bias: bool = True
    target_modules: Any = None
    exclude_modules: Any = None
    modules_to_save: list[str] | None = None
    seed: int = 0
    base_sha256: str | None = None
    selected: bool = False
    format: Any = "peft"
    selection: Selection | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)
        if self.format != "peft":
            raise CheckpointError("this folder holds a delta of gps-seg itself: load it with GPSModel.from_pretrained, and turn "
                                  "that into a PeftModel with gps_seg.peft.to_peft_model")
        if not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"GPSConfig.k: expected a whole number from 1, got {self.k!r}")

    def to_dict(self) -> dict[str, Any]:
        """What adapter_config.json holds."""
        return {key: value for key, value in replace(self, selection=None).__dict__.items() if key != "selection"}


def targets(model: nn.Module, config: GPSConfig) -> list[str]:
    """Names of the layers that the settings mean, in the model's order.

    Raises:
        ConfigError: there are none, or one of them is neither a linear layer nor a 2-D convolution.
    """
    whole = tuple(config.modules_to_save or ())
    adapted = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
    names = [name for name, module in model.named_modules() if name and not name.startswith(adapted)
             and not _is_inside(name, whole) and _is_meant(name, module, config)]
    wrong = [name for name in names if not _fits(model.get_submodule(name))]
    if wrong:
        kind = type(model.get_submodule(wrong[0])).__name__
        raise ConfigError(f"GPSConfig.target_modules: expected linear layers and 2-D convolutions, {wrong[0]} is a {kind}")
    if not names:
        raise ConfigError("GPSConfig.target_modules: no linear layer or 2-D convolution of the model is meant")
    return names


def _is_meant(name: str, module: nn.Module, config: GPSConfig) -> bool:
    if config.target_modules is not None:
        return bool(check_target_module_exists(config, name))
    wanted = replace(config, target_modules=re.escape(name), selection=None)
    return _fits(module) and bool(check_target_module_exists(wanted, name))


def _fits(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer) or has_sparse_form(module)


def _is_inside(name: str, modules: Sequence[str]) -> bool:
    """Whether a module is, or lies in, one of those that peft finds by the end of their names."""
    parts = name.split(".")
    return any(".".join(parts[:length]).endswith(tuple(modules)) for length in range(1, len(parts) + 1)) if modules else False


def exactly(names: Iterable[str]) -> str:
    """The regular expression of these names and no others; a list would mean names that end like them, too."""
    return "|".join(re.escape(name) for name in names)


def select(
    model: nn.Module, config: GPSConfig, batches: Iterable[Any] = (), loss: Callable[[nn.Module, Any], Tensor] | None = None
) -> GPSConfig:
    """The settings with the connections that they select of a model, for ``peft.get_peft_model``. The model stays as it is.

    Args:
        model: the base, without adapters.
        batches: read once; not needed for the scores magnitude and random.
        loss: (model, batch) -> scalar.

    Raises:
        ConfigError: a gradient score without a loss, an unknown score or level, no layer, or a model with adapters.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ConfigError("gps_seg.peft.select: expected a model without adapters; select first, then add the adapter")
    for name, known in (("score", Score.__args__), ("level", Level.__args__)):  # type: ignore[attr-defined]
        if getattr(config, name) not in known:
            raise ConfigError(f"GPSConfig.{name}: expected one of {', '.join(known)}, got {getattr(config, name)!r}")
    layers = {name: model.get_submodule(name) for name in targets(model, config)}
    weights = {f"{name}.weight": cast(Tensor, layer.weight) for name, layer in layers.items()}
    kinds: dict[str, Score] = dict.fromkeys(weights, cast(Score, config.score))

    def run_pass(names: Sequence[str]) -> dict[str, Tensor]:
        if loss is None:
            raise ConfigError(f"the score {config.score!r} needs batches and a loss: config = gps_seg.peft.select(model, config, "
                              f"batches, loss); {' and '.join(DATA_FREE)} do not")
        return gradient_scores(model, names, batches, loss, score=kinds)

    scores = scores_of_each(model, kinds, run_pass, seed=config.seed)
    plan = {name: Assignment("weight", "select", weight.numel(), len(weight)) for name, weight in weights.items()}
    chosen = select_best(model, plan, scores, k=config.k, level=cast(Level, config.level), meta={"method": "gps"})
    biased = [name for name, layer in layers.items() if config.train_bias and layer.bias is not None]
    biases: dict[str, Role] = {f"{name}.bias": "bias" for name in biased}
    return replace(config, selection=replace(chosen, dense=biases), selected=True, base_sha256=chosen.base,
                   target_modules=exactly(layers))


def config_for(model: nn.Module, selection: Selection) -> GPSConfig:
    """The settings under which peft trains what a selection of gps-seg trains.

    Biases of linear layers and convolutions become the adapter's own; whatever else trains becomes part of ``modules_to_save``,
    as the module that holds it.

    Raises:
        ConfigError: a parameter trains whose module holds selected layers too, or has a name that others end with.
    """
    layers = {name.rpartition(".")[0] for name in selection.sparse}
    saved: set[str] = set()
    for name in selection.dense:
        owner, _, attribute = name.rpartition(".")
        alone = attribute == "bias" and f"{owner}.weight" not in selection.dense and has_sparse_form(model.get_submodule(owner))
        (layers if alone else saved).add(owner)
    names = [name for name, _ in model.named_modules()]
    for owner in saved:
        if any(name == owner or name.startswith(f"{owner}.") or not owner for name in layers):
            raise ConfigError(f"{owner or 'the model'}: peft can train it only as a whole, but connections inside are selected")
        if [name for name in names if name.endswith(owner)] != [owner]:
            raise ConfigError(f"{owner}: other modules' names end like this, and peft would train them too")
    wrong = [name for name in selection.sparse if not name.endswith(".weight")
             or not has_sparse_form(model.get_submodule(name.removesuffix(".weight")))]
    if wrong:
        raise ConfigError(f"{wrong[0]}: only linear layers and 2-D convolutions have selected connections in peft")
    ordered = [name for name in names if name in layers]
    return GPSConfig(target_modules=exactly(ordered), modules_to_save=sorted(saved) or None, selection=selection, selected=True,
                     base_sha256=selection.base)
