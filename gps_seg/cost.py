"""What a training step costs: ``gps-seg benchmark cost --model sam_vit_b --size 512 --batch 1``.

All methods are measured side by side in one process, interleaved, because shared machines swing by a factor of 4 between
runs: compare ratios, not seconds. Beside the time stands what no noise touches, the floating-point operations of a step.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gps_seg.attach import attach
from gps_seg.checkpoint import write_json
from gps_seg.config import GPSConfig
from gps_seg.engine import autocast, resolve_device, resolve_precision, training_mode
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.models.packages import import_torchvision
from gps_seg.models.sam import SamModel, build_sam
from gps_seg.provenance import surroundings
from gps_seg.selection import Selection, gradient_scores, matches

HEAD = SamModel.head_patterns


@dataclass
class Row:
    """One method's cost. Times in seconds, ``step_s`` and ``forward_s`` minima over repetitions; ``*_bytes`` in bytes.

    ``compiled`` says whether torch.compile ran. ``saved_bytes`` are the tensors autograd keeps for the backward, weights
    excluded; ``peak_bytes`` is CUDA's allocator (0 on a CPU, where the process is shared); ``state_bytes`` are gradients
    plus optimizer state; ``ratio`` is the median of the paired ratios of step times to the first row's; ``selection_s`` is
    one gradient pass over the batch and the choice.
    """

    method: str
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


def _peft_config(method: str, targets: list[str]) -> Any:
    import_torchvision()  # peft imports transformers, which imports it
    import peft

    if method == "lora":
        return peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets)
    return peft.ShiraConfig(r=1, target_modules=targets)


def inject_peft(method: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA (r = 8) or SHiRA (r = 1) of HF peft on every linear layer of the encoder; the decoder trains, as for GPS."""
    import peft

    targets = [name for name, module in model.named_modules() if name.startswith("image_encoder.") and type(module) is nn.Linear]
    peft.inject_adapter_in_model(_peft_config(method, targets), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad if name.startswith("image_encoder.") else matches(name, HEAD))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Bench:
    """One method on its own copy of the model, ready to step."""

    def __init__(self, method: str, model: nn.Module, image: Tensor, precision: str, *, compiled: bool = False) -> None:
        self.method, self.model, self.image, self.precision, self.compiled = method, model, image, precision, compiled
        self.sparse: dict[str, Tensor] = {}
        self.trainable: dict[str, nn.Parameter] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        began = time.perf_counter()
        self._prepare()
        self.selection_s = time.perf_counter() - began if method == "gps" else 0.0
        training_mode(model)
        self.run: Any = torch.compile(model) if compiled else model

    def _prepare(self) -> None:
        if self.method == "floor":  # nothing trains; the input needs a gradient, so the whole backward of activations runs
            self.model.requires_grad_(False)
            return
        if self.method in ("lora", "shira"):
            self.trainable = inject_peft(self.method, self.model)
            self.optimizer = torch.optim.AdamW(self.trainable.values(), lr=1e-6)
            return
        attached = attach(self.model, select_for_cost(self.method, self.model, self.image, self.precision))
        self.sparse, self.trainable = dict(attached.selection.sparse), attached.trainable()
        self.optimizer = torch.optim.AdamW(self.trainable.values(), lr=1e-6)
        attached.follow(self.optimizer)

    def forward(self) -> Tensor:
        """A scalar of the model's output, with the graph for a backward pass."""
        image = self.image.clone().requires_grad_(self.method == "floor")
        with autocast(image.device, self.precision):
            return self.run(image).logits.float().square().mean()

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
            if tensor.is_sparse:  # SHiRA keeps its delta as one
                kept[id(tensor)] = tensor._values().nbytes + tensor._indices().nbytes
                return tensor
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
        if self.optimizer is None:
            return 0
        chosen = {parameter for name, parameter in self.trainable.items()
                  if not encoder_only or name.startswith("image_encoder.")}
        state = sum(value.nbytes for parameter, slots in self.optimizer.state.items() if parameter in chosen
                    for value in slots.values() if isinstance(value, Tensor))
        return state + sum(parameter.nbytes for parameter in chosen)

    def delta_bytes(self) -> int:
        """Size of the delta: fp32 values and int32 indices, dense tensors as they are."""
        indices = sum(4 * len(part) for part in self.sparse.values())
        return indices + sum(parameter.nbytes for parameter in self.trainable.values())


def select_for_cost(method: str, model: nn.Module, image: Tensor, precision: str) -> Selection:
    """A method's real selection, from one gradient pass over the benchmark's image."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        with autocast(batch.device, precision):
            return model(batch).logits.float().square().mean()

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        return gradient_scores(model, names, [image], loss)

    return METHODS[method](model, GPSConfig(), scores)


def measure(
    model: nn.Module, image: Tensor, methods: Sequence[str], *, precision: str, repetitions: int, compiled: bool = False,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Measure every method, interleaved; rows in the order of ``methods``, ratios against the first.

    Raises:
        ConfigError: an unknown method.
    """
    unknown = sorted(set(methods) - {*METHODS, "floor", "lora", "shira"})
    if unknown:
        raise ConfigError(f"--methods: expected some of {', '.join([*METHODS, 'floor', 'lora', 'shira'])}, got {unknown[0]!r}")
    benches = [Bench(method, copy.deepcopy(model), image, precision, compiled=compiled) for method in methods]
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
        ratio = median(a / b for a, b in zip(whole, first, strict=True))
        rows.append(Row(
            bench.method, bench.compiled, min(whole), ratio, min(forward), flops, saved,
            peak, bench.state_bytes(encoder_only=False), bench.delta_bytes(), bench.state_bytes(encoder_only=True),
            bench.selection_s, list(whole),
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


def benchmark(
    model_name: str, *, size: int | None, batch: int, methods: Sequence[str], precision: str, repetitions: int,
    device_name: str = "auto", compiled: bool = False, json_path: Path | None = None,
) -> str:
    """Measure and write; returns the table. Weights are random: they cost the same as real ones, but their gradients
    spread over more input columns than a trained model's, so GPS looks a little dearer than it is."""
    device = resolve_device(device_name)
    resolved = resolve_precision(precision, device)
    model = build_sam(model_name, input_size=size).to(device)
    side = model.spec.input_size
    image = torch.randn(batch, 3, side, side, device=device, generator=torch.Generator(device).manual_seed(0))
    rows = measure(model, image, methods, precision=resolved, repetitions=repetitions, compiled=compiled)
    if json_path:
        write_json(json_path, {"model": model_name, "input_size": side, "batch": batch, "rows": [asdict(row) for row in rows],
                               **surroundings(device, resolved)})
    title = f"{model_name} at {side} px, batch {batch}, {resolved}{', compiled' if compiled else ''}"
    return f"{title}\n{table(rows)}"
