"""What a prediction costs, method by method: the other half of the paper's Fig. 4.

A prediction runs under ``torch.inference_mode`` with the model in eval mode. What a method changed is merged into stock weights
first, where it can be; the modules of the others stay, and are paid for at every image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gps_seg.commands.benchmarks.memory import peak_allocated, peak_resident
from gps_seg.commands.benchmarks.step import CONTRASTIVE, Setting, output_of, take_turns, wait
from gps_seg.commands.benchmarks.variants import Variant
from gps_seg.config import OPTIONS
from gps_seg.core.attach import attach
from gps_seg.core.scores import data_free_scores
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.methods.added import can_fold, fold_modules
from gps_seg.runs.device import autocast


@dataclass
class PredictionRow:
    """One method's prediction of a batch.

    Attributes:
        name: as in the training rows; floor is the stock model.
        merged: whether it is a stock model again.
        predict_s: seconds, minimum over repetitions; ``ratio``: median of the paired ratios to the first row's.
        flops: matrix products and convolutions, as torch counts them.
        peak_bytes: the most that a prediction held, weights included; see the training rows.
        parameters: of the model that predicts.
    """

    name: str
    method: str
    merged: bool
    predict_s: float
    ratio: float
    flops: int
    peak_bytes: int
    parameters: int
    times: list[float] = field(default_factory=list, repr=False)


class Prediction:
    """One method on its own copy of the model, ready to predict."""

    def __init__(self, method: str, model: nn.Module, image: Tensor, setting: Setting) -> None:
        self.model, self.image, self.setting, self.optimizer = model, image, setting, None
        self.merged = method == "floor" or self._change(method)
        model.eval().requires_grad_(False)  # torch's counter of operations stumbles over a parameter that is an output
        self.run: Any = torch.compile(model) if setting.compiled else model

    def _change(self, method: str) -> bool:
        """Attach the method and merge it, if that can be; which connections it chooses costs nothing here, so chance chooses."""
        def scores(names: Sequence[str]) -> dict[str, Tensor]:
            return data_free_scores(self.model, names, score="random")

        attached = attach(self.model, METHODS[method](self.model, OPTIONS[method](**dict(self.setting.options)), scores, 0))
        if not can_fold(attached.selection.meta):
            return False
        attached.merge()
        fold_modules(self.model, attached.selection.meta)
        return True

    def step(self) -> tuple[float, float]:
        """Predict the batch; returns (0, seconds), since there is nothing but a forward pass."""
        wait(self.image.device)
        began = time.perf_counter()
        with torch.inference_mode(), autocast(self.image.device, self.setting.precision):
            output_of(self.run, self.image)
        wait(self.image.device)
        return 0.0, time.perf_counter() - began

    def flops(self) -> int:
        """Operations of a prediction, counted without torch.compile, whose operations are the same."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output_of(self.model, self.image)
        return counter.get_total_flops()


def check_predict(variants: Sequence[Variant]) -> None:
    """Raises ConfigError: ``contrastive`` is among them, which predicts nothing."""
    if any(variant.method == CONTRASTIVE for variant in variants):
        raise ConfigError(f"--inference: {CONTRASTIVE} is a selection pass and predicts nothing; leave it out of --methods")


def measure_predictions(
    variants: Sequence[Variant], *, repetitions: int, say: Callable[[str], None] = print, resident: bool = True
) -> list[PredictionRow]:
    """Measure every method's prediction, interleaved; rows in order, ratios against the first.

    Args:
        resident: on a CPU, measure each method's peak memory in a fresh process of its own.
    """
    resident = resident and variants[0].setting.device == "cpu"
    peaks = [peak_resident(variant.setting, variant.method, Prediction) if resident else 0 for variant in variants]
    benches = [Prediction(variant.method, *variant.setting.build(), variant.setting) for variant in variants]
    for bench in benches:
        bench.step()  # warm-up
    peaks = [peak or peak_allocated(bench) for peak, bench in zip(peaks, benches, strict=True)]
    turns = take_turns({variant.name: bench.step for variant, bench in zip(variants, benches, strict=True)}, repetitions, say)
    times = [[whole for _, whole in own] for own in turns]
    return [_row(*parts, times[0]) for parts in zip(variants, benches, peaks, times, strict=True)]


def _row(variant: Variant, bench: Prediction, peak: int, times: Sequence[float], first: Sequence[float]) -> PredictionRow:
    ratio = median(a / b for a, b in zip(times, first, strict=True))
    size = sum(parameter.numel() for parameter in bench.model.parameters())
    return PredictionRow(variant.name, variant.method, bench.merged, min(times), ratio, bench.flops(), peak, size, list(times))


def prediction_table(rows: Sequence[PredictionRow]) -> str:
    """The rows as text."""
    width = max(8, *(len(row.name) for row in rows))
    lines = [f"{'method':<{width}} {'predict s':>9} {'ratio':>6} {'GFLOP':>8} {'peak MB':>9} {'merged':>7}"]
    lines += [f"{row.name:<{width}} {row.predict_s:>9.3f} {row.ratio:>6.2f} {row.flops / 1e9:>8.1f} {row.peak_bytes / 1e6:>9.1f} "
              f"{'yes' if row.merged else 'no':>7}" for row in rows]
    return "\n".join(lines)
