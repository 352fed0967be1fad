"""The Python interface, in Hugging Face PEFT's vocabulary.

Example:
    >>> model = get_gps_model(sam, GPSConfig(k=1), dataloader=batches, loss_fn=loss)
    >>> model.print_trainable_parameters()
    >>> optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-3)
    >>> model.follow(optimizer)          # values are written into the weights after each step
    >>> ...
    >>> model.save_pretrained("delta")
    >>> merged = GPSModel.from_pretrained(load_sam("lite_medsam"), "delta").merge_and_unload()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gps_seg.config import GPSConfig
from gps_seg.core.attach import Attached, attach
from gps_seg.core.scores import gradient_scores, scores_of_each
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.methods.added import add_modules, fold_modules, remove_modules
from gps_seg.methods.gps import score_kinds
from gps_seg.runs.delta import load_delta, save_delta
from gps_seg.runs.ready import run_folder


class GPSModel(nn.Module):
    """A base model with a selection attached. Calling it calls the base."""

    def __init__(self, base_model: nn.Module, attached: Attached, config: GPSConfig | None = None) -> None:
        super().__init__()
        self.base_model, self.attached, self.config = base_model, attached, config

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The base model's forward, unchanged."""
        return self.base_model(*inputs, **named)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What to hand to an optimizer."""
        return list(self.attached.trainable().values())

    def follow(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Write values into the weights after each optimizer step; returns a function that stops it."""
        return self.attached.follow(optimizer)

    def print_trainable_parameters(self) -> None:
        """Print PEFT's line, counted over stock parameters, the selected scalars included."""
        sizes = self.attached.counts()
        trainable, total = sizes["trainable"], sizes["parameters"]
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within the block the model is the pretrained base, bit for bit."""
        with self.attached.base_restored():
            yield

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        selection = self.config.model_dump(mode="json") if self.config else None
        spec = getattr(self.base_model, "spec", None)
        model = {"name": spec.name, "input_size": spec.input_size, "resize": spec.resize} if spec else {}
        save_delta(Path(folder), self.attached, {"method": "gps", "selection": selection, "model": model, "threshold": 0.5,
                                                 "base_model_name_or_path": model.get("name")})

    @classmethod
    def from_pretrained(cls, base_model: nn.Module, folder: str | Path) -> GPSModel:
        """Attach a saved delta, or a ready model by its name. Raises CheckpointError: none, or of another base."""
        return cls(base_model, load_delta(run_folder(folder), base_model, add_modules))

    def merge_and_unload(self) -> nn.Module:
        """The base model with trained values in its weights, stock in every other respect."""
        model = self.attached.merge()
        fold_modules(model, self.attached.selection.meta)
        return model

    def unload(self) -> nn.Module:
        """The base model as it was before, bit for bit."""
        model = self.attached.unmerge()
        remove_modules(model, self.attached.selection.meta)
        return model


def get_gps_model(
    model: nn.Module,
    config: GPSConfig | None = None,
    dataloader: Iterable[Any] | None = None,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    seed: int = 0,
) -> GPSModel:
    """Select parameters and attach them, in place.

    Args:
        model: any module with linear or convolution layers; ``encoder_patterns`` and ``head_patterns`` on it, if present,
            say what is encoder and head, else everything is encoder.
        config: what trains; default: the paper's preset with k = 1.
        dataloader: the selection pass reads it once; not needed for the scores magnitude and random.
        loss_fn: (model, batch) -> scalar.

    Raises:
        ConfigError: a gradient score without dataloader and loss_fn.
    """
    config = config or GPSConfig()

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        kinds = score_kinds(model, config, names)

        def run_pass(scored: Sequence[str]) -> dict[str, Tensor]:
            if dataloader is None or loss_fn is None:
                raise ConfigError(f"the score {kinds[scored[0]]!r} needs dataloader and loss_fn; magnitude and random do not")
            return gradient_scores(model, scored, dataloader, loss_fn, score=kinds)

        return scores_of_each(model, kinds, run_pass, seed=seed)

    return GPSModel(model, attach(model, METHODS["gps"](model, config, scores, seed)), config)
