"""What a training step costs: ``python -m gps_seg.cost --model sam_vit_b --size 512 --batch 1``.

All methods are measured side by side in one process, interleaved, because shared machines swing by a factor of 4 between
runs: compare ratios, not seconds. Beside the time stands what no noise touches, the floating-point operations of a step.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gps_seg.attach import attach
from gps_seg.config import GPSConfig
from gps_seg.engine import autocast, resolve_device, resolve_precision, training_mode
from gps_seg.methods import METHODS
from gps_seg.models.sam import build_sam
from gps_seg.provenance import surroundings
from gps_seg.selection import Selection, fingerprint, gradient_scores


@dataclass
class Row:
    """One method's cost. Times in seconds, minimum over repetitions; ``*_bytes`` in bytes.

    ``saved_bytes`` are the tensors autograd keeps for the backward, weights excluded; ``peak_bytes`` is CUDA's allocator
    (0 on a CPU, where the process is shared); ``state_bytes`` are gradients plus optimizer state; ``ratio`` is the median
    of the paired ratios of step times to the first method's.
    """

    method: str
    step_s: float
    ratio: float
    forward_s: float
    flops: int
    saved_bytes: int
    peak_bytes: int
    state_bytes: int
    delta_bytes: int
    encoder_state_bytes: int
    times: list[float] = field(default_factory=list, repr=False)


class Bench:
    """One method on its own copy of the model, ready to step."""

    def __init__(self, method: str, model: nn.Module, image: Tensor, precision: str) -> None:
        self.method, self.model, self.image, self.precision = method, model, image, precision
        self.attached = None
        if method == "floor":  # nothing trains; the input needs a gradient, so the whole backward of activations runs
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            self.optimizer: torch.optim.Optimizer | None = None
        else:
            self.attached = attach(model, select_for_cost(method, model, image, precision))
            self.optimizer = torch.optim.AdamW(self.attached.trainable().values(), lr=1e-6)
            self.attached.follow(self.optimizer)
        training_mode(model)

    def forward(self) -> Tensor:
        """A scalar of the model's output, with the graph for a backward pass."""
        image = self.image.clone().requires_grad_(self.method == "floor")
        with autocast(image.device, self.precision):
            return self.model(image).logits.float().square().mean()

    def step(self) -> tuple[float, float]:
        """One training step; returns (forward, whole) in seconds."""
        _wait(self.image.device)
        began = time.perf_counter()
        loss = self.forward()
        _wait(self.image.device)
        forward = time.perf_counter() - began
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        _wait(self.image.device)
        return forward, time.perf_counter() - began

    def flops(self) -> int:
        """Floating-point operations of forward and backward, counted by torch (matrix products and convolutions)."""
        with FlopCounterMode(display=False) as counter:
            self.forward().backward()
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def saved_bytes(self) -> int:
        """Bytes autograd keeps, each storage once, parameters excluded."""
        own = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.forward()
        total = sum(kept.values())
        del loss
        return total

    def state_bytes(self, *, encoder_only: bool) -> int:
        """Gradients plus optimizer state, after a step."""
        if self.optimizer is None or self.attached is None:
            return 0
        chosen = {
            parameter for name, parameter in self.attached.trainable().items()
            if not encoder_only or name.startswith("image_encoder.")
        }
        state = sum(value.nbytes for parameter, slots in self.optimizer.state.items() if parameter in chosen
                    for value in slots.values() if isinstance(value, Tensor))
        return state + sum(parameter.nbytes for parameter in chosen)

    def delta_bytes(self) -> int:
        """Size of the delta: fp32 values and int32 indices, dense tensors as they are."""
        if self.attached is None:
            return 0
        indices = sum(4 * len(part) for part in self.attached.selection.sparse.values())
        return indices + sum(parameter.nbytes for parameter in self.attached.trainable().values())


def select_for_cost(method: str, model: nn.Module, image: Tensor, precision: str) -> Selection:
    """A method's real selection, from one gradient pass over the benchmark's image."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        with autocast(batch.device, precision):
            return model(batch).logits.float().square().mean()

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        return gradient_scores(model, names, [image], loss)

    return METHODS[method](model, GPSConfig(), scores)


def measure(
    model: nn.Module, image: Tensor, methods: Sequence[str], *, precision: str, repetitions: int,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Measure every method, interleaved; rows in the order of ``methods``, ratios against the first."""
    benches = [Bench(method, copy.deepcopy(model), image, precision) for method in methods]
    extras = []
    for bench in benches:
        bench.step()  # warm-up, and the optimizer's state
        extras.append((bench.flops(), bench.saved_bytes(), _peak(bench)))
    times: dict[str, list[tuple[float, float]]] = {bench.method: [] for bench in benches}
    for repetition in range(repetitions):
        for bench in benches:
            times[bench.method].append(bench.step())
        say(f"repetition {repetition + 1}/{repetitions}: " + ", ".join(f"{m} {t[-1][1]:.3f} s" for m, t in times.items()))
    first = [whole for _, whole in times[methods[0]]]
    rows = []
    for bench, (flops, saved, peak) in zip(benches, extras, strict=True):
        forward, whole = zip(*times[bench.method], strict=True)
        rows.append(Row(
            bench.method, min(whole), median(a / b for a, b in zip(whole, first, strict=True)), min(forward), flops, saved,
            peak, bench.state_bytes(encoder_only=False), bench.delta_bytes(), bench.state_bytes(encoder_only=True), list(whole),
        ))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"{'method':<8} {'step s':>8} {'ratio':>6} {'forward s':>9} {'GFLOP':>8} {'saved MB':>9} {'peak MB':>9} "
             f"{'state MB':>9} {'delta MB':>9}"]
    for row in rows:
        lines.append(f"{row.method:<8} {row.step_s:>8.3f} {row.ratio:>6.2f} {row.forward_s:>9.3f} {row.flops / 1e9:>8.1f} "
                     f"{row.saved_bytes / 1e6:>9.1f} {row.peak_bytes / 1e6:>9.1f} {row.state_bytes / 1e6:>9.2f} "
                     f"{row.delta_bytes / 1e6:>9.2f}")
    return "\n".join(lines)


def _peak(bench: Bench) -> int:
    if bench.image.device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    bench.step()
    return torch.cuda.max_memory_allocated()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m gps_seg.cost", description="Cost of a training step, method by method.")
    parser.add_argument("--model", default="lite_medsam", help="a known model; random weights cost the same as real ones")
    parser.add_argument("--size", type=int, default=None, help="input size in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--methods", default="full,gps,head,bitfit,floor", help="comma-separated; the first is the reference")
    parser.add_argument("--precision", default="fp32", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    device = resolve_device(given.device)
    precision = resolve_precision(given.precision, device)
    model = build_sam(given.model, input_size=given.size).to(device)
    size = model.spec.input_size
    image = torch.randn(given.batch, 3, size, size, device=device, generator=torch.Generator(device).manual_seed(0))
    print(f"{given.model} at {size} px, batch {given.batch}, {precision}, base {fingerprint(model)[:8]}")
    rows = measure(model, image, given.methods.split(","), precision=precision, repetitions=given.repetitions)
    print(table(rows))
    if given.json:
        document = {"model": given.model, "input_size": size, "batch": given.batch, "rows": [asdict(row) for row in rows],
                    **surroundings(device, precision)}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
