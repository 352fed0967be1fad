"""One method of the cost benchmark, ready to step, and what of it can be counted without a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import profiler_legacy
from torch.utils.flop_counter import FlopCounterMode

from gps_seg.config import OPTIONS, Recompute
from gps_seg.core.attach import attach
from gps_seg.core.roles import matches
from gps_seg.core.scores import gradient_scores
from gps_seg.core.selection import Selection
from gps_seg.methods import METHODS
from gps_seg.models.classifiers import build_backbone
from gps_seg.models.sam_zoo import MODELS, build_sam, load_sam
from gps_seg.models.weights import has_weights
from gps_seg.runs.device import autocast, compute_dtype, training_mode
from gps_seg.tasks.classification.losses import features_of, supervised_contrastive

CONTRASTIVE = "contrastive"  # no method: a batch of the contrastive selection pass, so that its price is told in training steps
Shape = Sequence[int]


@dataclass(frozen=True)
class Setting:
    """What is measured: model and image size in pixels, batch, precision, and how gps keeps its frozen weights."""

    model: str
    size: int | None
    batch: int
    precision: str
    device: str
    compiled: bool = False
    frozen_storage: str = "fp32"
    recompute: Recompute = "none"
    encoder: Literal["lean", "stock"] = "lean"
    options: tuple[tuple[str, Any], ...] = ()  # of the method, over its defaults

    def build(self) -> tuple[nn.Module, Tensor]:
        """The model and one batch of noise (B, 3, S, S), on the device; published weights where they are at hand, else random."""
        device = torch.device(self.device)
        model: Any
        if self.model in MODELS:
            load = load_sam if self.pretrained else build_sam
            model = load(self.model, input_size=self.size, encoder=self.encoder)
            model.recompute = self.recompute
            side = model.spec.input_size
        else:
            model = build_backbone(self.model, input_size=self.size)
            side = self.size or model.pretrained_cfg["input_size"][-1]
        image = torch.randn(self.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        return model.to(device), image.to(device)

    @property
    def pretrained(self) -> bool:
        """Whether the weights are the published ones."""
        return self.model in MODELS and has_weights(self.model)


def output_of(model: Any, image: Tensor) -> Tensor:
    """The tensor a loss would see: mask logits of a SAM, class logits of a classifier."""
    out = model(image)
    return out if isinstance(out, Tensor) else out.logits


class Bench:
    """One method on its own copy of the model, ready to step."""

    def __init__(self, method: str, model: nn.Module, image: Tensor, setting: Setting) -> None:
        self.method, self.model, self.image, self.setting = method, model, image, setting
        self.sparse: dict[str, Tensor] = {}
        self.names: list[str] = []
        self.trainable: dict[str, nn.Parameter] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        began = time.perf_counter()
        self._prepare()
        self.selection_s = time.perf_counter() - began if method == "gps" else 0.0
        training_mode(model)
        self.run: Any = torch.compile(model) if setting.compiled else model

    def _prepare(self) -> None:
        if self.method == CONTRASTIVE:
            self.names = list(select_for_cost("gps", self.model, self.image[:2], self.setting).sparse)
            return
        if self.method == "floor":  # nothing trains; the input needs a gradient, so the whole backward of activations runs
            self.model.requires_grad_(False)
            return
        attached = attach(self.model, select_for_cost(self.method, self.model, self.image, self.setting))
        if self.setting.frozen_storage == "compute":
            attached.store_frozen(compute_dtype(self.setting.precision))
        self.sparse, self.trainable = dict(attached.selection.sparse), attached.trainable()
        self.optimizer = torch.optim.AdamW(self.trainable.values(), lr=1e-6, fused=True)
        attached.follow(self.optimizer)

    def forward(self) -> Tensor:
        """A scalar of the model's output, with the graph for a backward pass."""
        if self.method == CONTRASTIVE:
            return self._contrast(self.run, self.image)
        image = self.image.clone().requires_grad_(self.method == "floor")
        with autocast(image.device, self.setting.precision):
            return output_of(self.run, image).float().square().mean()

    def _contrast(self, model: Any, image: Tensor) -> Tensor:
        """The contrastive selection loss of a batch, two views of each image."""
        views = torch.cat([image, image.flip(-1)])
        with autocast(image.device, self.setting.precision):
            features = features_of(model, views)
        return supervised_contrastive(features, torch.arange(len(image), device=image.device).repeat(2))

    def step(self) -> tuple[float, float]:
        """One training step, or one batch of a selection pass; returns (forward, whole) in seconds."""
        wait(self.image.device)
        began = time.perf_counter()
        if self.method == CONTRASTIVE:
            gradient_scores(self.run, self.names, [self.image], self._contrast)
            wait(self.image.device)
            return 0.0, time.perf_counter() - began
        loss = self.forward()
        wait(self.image.device)
        forward = time.perf_counter() - began
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        wait(self.image.device)
        return forward, time.perf_counter() - began

    def flops(self) -> int:
        """Floating-point operations of forward and backward, counted by torch (matrix products and convolutions).

        Counted without torch.compile, whose operations are the same.
        """
        compiled, self.run = self.run, self.model
        counts = {torch.ops.aten.convolution_backward: _convolution_backward}
        with FlopCounterMode(display=False, custom_mapping=counts) as counter:
            self.forward().backward()
        self.run = compiled
        self.model.zero_grad(set_to_none=True)
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def saved_bytes(self) -> int:
        """Bytes that the forward pass leaves allocated for the backward: the allocator's balance of it."""
        if self.image.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            loss = self.forward()
            kept = torch.cuda.memory_allocated() - before
        else:
            with profiler_legacy.profile(profile_memory=True) as events:
                loss = self.forward()
            kept = sum(event.self_cpu_memory_usage for event in events.function_events or ())
        del loss
        return int(kept)

    def profile(self, most: int = 16) -> dict[str, float]:
        """Self seconds of the dearest operations of one step on the CPU, by torch's profiler."""
        with profiler_legacy.profile() as events:  # the newer one writes to the terminal
            self.step()
        seconds = {event.key: event.self_cpu_time_total / 1e6 for event in events.key_averages()}
        return dict(sorted(seconds.items(), key=lambda item: -item[1])[:most])

    def state_bytes(self, *, encoder_only: bool) -> int:
        """Gradients plus optimizer state, after a step."""
        if self.optimizer is None:
            return 0
        chosen = {parameter for name, parameter in self.trainable.items()
                  if not encoder_only or not matches(name, getattr(self.model, "head_patterns", ()))}
        state = sum(value.nbytes for parameter, slots in self.optimizer.state.items() if parameter in chosen
                    for value in slots.values() if isinstance(value, Tensor))
        return state + sum(parameter.nbytes for parameter in chosen)

    def delta_bytes(self) -> int:
        """Size of the delta: fp32 values and int32 indices, dense tensors as they are."""
        indices = sum(4 * len(part) for part in self.sparse.values())
        return indices + sum(parameter.nbytes for parameter in self.trainable.values())


def _convolution_backward(
    dy: Shape, x: Shape, weight: Shape, _bias: Any, _stride: Any, _padding: Any, _dilation: Any, transposed: Any,
    _output_padding: Any, _groups: Any, wanted: Sequence[bool], out_shape: Any = None,  # noqa: ARG001 - torch's signature
) -> int:
    """Operations of a convolution's backward: each wanted gradient costs a forward pass.

    torch's own formula forgets the groups in the weight gradient: a depthwise one over C channels counts C times too high.
    """
    places = prod((x if transposed else dy)[2:]) * x[0]
    return 2 * places * prod(weight) * sum(wanted[:2])


def select_for_cost(method: str, model: nn.Module, image: Tensor, setting: Setting) -> Selection:
    """A method's real selection, from one gradient pass over the benchmark's image."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        with autocast(batch.device, setting.precision):
            return output_of(model, batch).float().square().mean()

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        return gradient_scores(model, names, [image], loss)

    return METHODS[method](model, OPTIONS[method](**dict(setting.options)), scores, 0)


def take_turns(
    steps: Mapping[str, Callable[[], tuple[float, float]]], repetitions: int, say: Callable[[str], None]
) -> list[list[tuple[float, float]]]:
    """What each step returns at each repetition; one after another, because a shared machine's speed drifts."""
    times: list[list[tuple[float, float]]] = [[] for _ in steps]
    for repetition in range(repetitions):
        for step, own in zip(steps.values(), times, strict=True):
            own.append(step())
        last = [f"{name} {own[-1][1]:.3f} s" for name, own in zip(steps, times, strict=True)]
        say(f"repetition {repetition + 1}/{repetitions}: {', '.join(last)}")
    return times


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
