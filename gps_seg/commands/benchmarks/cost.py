"""What a training step costs, and a prediction: ``gps-seg benchmark cost --model sam_vit_b --size 512 --batch 1 --inference``.

All methods are measured side by side in one process, interleaved, because shared machines swing by a factor of 4 between
runs: compare ratios, not seconds. Beside the time stands what no noise touches, the floating-point operations of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch

from gps_seg.commands.benchmarks.inference import check_predict, measure_predictions, prediction_table
from gps_seg.commands.benchmarks.memory import peak_allocated, peak_resident, swap_seconds
from gps_seg.commands.benchmarks.step import Bench, Setting, take_turns
from gps_seg.commands.benchmarks.variants import Variant, parse_variants
from gps_seg.files import write_json
from gps_seg.metrics.plots.cost import cost_plot
from gps_seg.runs.allocator import keep_freed_memory
from gps_seg.runs.provenance import surroundings


@dataclass
class Row:
    """One method's cost. Times in seconds, ``step_s`` and ``forward_s`` minima over repetitions; ``*_bytes`` in bytes.

    Attributes:
        name: the method and the words behind it, such as gps:cheap.
        encoder: how LiteMedSAM's TinyViT computes, lean or stock.
        recompute: what the blocks of SAM's encoder compute again in the backward.
        compiled: whether torch.compile ran.
        ratio: median of the paired ratios of step times to the first row's.
        flops: of a step, matrix products and convolutions as torch counts them.
        saved_bytes: tensors that autograd keeps for the backward, weights excluded.
        peak_bytes: the most a step held, weights included: CUDA's allocator; on a CPU the resident memory of a fresh process
            above its imports; 0 where neither can be read.
        state_bytes: gradients plus optimizer state; ``encoder_state_bytes`` the encoder's part.
        selection_s: one gradient pass over the batch and the choice.
        profile: self seconds of the dearest operations of one further step.
    """

    name: str
    method: str
    encoder: str
    recompute: str
    compiled: bool
    step_s: float
    ratio: float
    forward_s: float
    flops: int
    saved_bytes: int
    peak_bytes: int
    state_bytes: int
    delta_bytes: int
    encoder_state_bytes: int
    selection_s: float
    times: list[float] = field(default_factory=list, repr=False)
    profile: dict[str, float] = field(default_factory=dict, repr=False)


def measure(
    setting: Setting, methods: Sequence[str], *, repetitions: int, say: Callable[[str], None] = print, resident: bool = True,
) -> list[Row]:
    """Measure every method, interleaved; rows in the order of ``methods``, ratios against the first.

    Args:
        methods: see :func:`gps_seg.commands.benchmarks.variants.parse_variants`, which raises ConfigError.
        resident: on a CPU, measure each method's peak memory in a fresh process of its own.
    """
    variants = parse_variants(methods, setting)
    resident = resident and setting.device == "cpu"
    peaks = [peak_resident(variant.setting, variant.method) if resident else 0 for variant in variants]
    keep_freed_memory()  # as a run does
    benches = [Bench(variant.method, *variant.setting.build(), variant.setting) for variant in variants]
    extras = []
    for bench, peak in zip(benches, peaks, strict=True):
        bench.step()  # warm-up, and the optimizer's state
        extras.append((bench.flops(), bench.saved_bytes(), peak or peak_allocated(bench)))
    times = take_turns({variant.name: bench.step for variant, bench in zip(variants, benches, strict=True)}, repetitions, say)
    first = [whole for _, whole in times[0]]
    return [_row(*parts, first) for parts in zip(variants, benches, extras, times, strict=True)]


def _row(
    variant: Variant, bench: Bench, extras: tuple[int, int, int], times: Sequence[tuple[float, float]], first: Sequence[float]
) -> Row:
    forward, whole = zip(*times, strict=True)
    ratio = median(a / b for a, b in zip(whole, first, strict=True))
    setting = variant.setting
    return Row(
        variant.name, variant.method, setting.encoder, setting.recompute, setting.compiled, min(whole), ratio, min(forward),
        *extras, bench.state_bytes(encoder_only=False), bench.delta_bytes(), bench.state_bytes(encoder_only=True),
        bench.selection_s, list(whole), bench.profile(),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    width = max(8, *(len(row.name) for row in rows))
    lines = [f"{'method':<{width}} {'step s':>8} {'ratio':>6} {'forward s':>9} {'GFLOP':>8} {'saved MB':>9} {'peak MB':>9} "
             f"{'state MB':>9} {'delta MB':>9}"]
    for row in rows:
        lines.append(f"{row.name:<{width}} {row.step_s:>8.3f} {row.ratio:>6.2f} {row.forward_s:>9.3f} {row.flops / 1e9:>8.1f} "
                     f"{row.saved_bytes / 1e6:>9.1f} {row.peak_bytes / 1e6:>9.1f} {row.state_bytes / 1e6:>9.2f} "
                     f"{row.delta_bytes / 1e6:>9.2f}")
    return "\n".join(lines)


def benchmark(
    setting: Setting, methods: Sequence[str], *, repetitions: int, inference: bool = False, json_path: Path | None = None,
    plot_path: Path | None = None,
) -> str:
    """Measure a training step, with ``inference`` a prediction too, and write; returns the tables.

    Raises:
        ConfigError: an unknown method or option, or one that predicts nothing; nothing was measured then.

    Random weights cost the same as real ones, but their gradients spread over more input columns than a trained model's, so
    GPS looks a little dearer with them than it is: published ones are read where they are at hand.
    """
    variants = parse_variants(methods, setting)
    if inference:
        check_predict(variants)
    rows = measure(setting, methods, repetitions=repetitions)
    predictions = measure_predictions(variants, repetitions=repetitions) if inference else []
    how = f"batch {setting.batch}, {setting.precision}{', compiled' if setting.compiled else ''}"
    title = f"{setting.model} at {setting.size or 'its own'} px, {how}"
    document = {"setting": asdict(setting), "pretrained": setting.pretrained, "rows": [asdict(row) for row in rows],
                **({"inference": [asdict(row) for row in predictions]} if inference else {}),
                "swap_s": swap_seconds(setting), **surroundings(torch.device(setting.device), setting.precision)}
    if json_path:
        write_json(json_path, document)
    if plot_path:
        cost_plot(document["rows"], plot_path, title, document.get("inference", ()))
    shown = f"\na prediction, under torch.inference_mode:\n{prediction_table(predictions)}" if inference else ""
    return f"{title}\n{table(rows)}{shown}\nhot swap of a gps delta, encoder and head: {1e3 * document['swap_s']:.1f} ms"
