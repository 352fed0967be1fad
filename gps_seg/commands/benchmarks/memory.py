"""Peak memory of a training step, and the time of a hot swap: the parts of the cost benchmark that need their own model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gps_seg.commands.benchmarks.step import Bench, Setting, wait
from gps_seg.config import GPSConfig
from gps_seg.core.scores import data_free_scores
from gps_seg.core.swap import Switchboard
from gps_seg.methods import METHODS

MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"


class Measured(Protocol):
    """A method that can take a step: of training, or a prediction."""

    model: nn.Module
    image: Tensor
    optimizer: Any

    def step(self) -> tuple[float, float]:
        """Take it; seconds of the forward pass and of all."""
        ...


def peak_allocated(bench: Measured) -> int:
    """Most bytes on a CUDA device in a step, this method's model included; 0 elsewhere."""
    if bench.image.device.type != "cuda":
        return 0
    others = torch.cuda.memory_allocated() - _own_bytes(bench)
    torch.cuda.reset_peak_memory_stats()
    bench.step()
    return torch.cuda.max_memory_allocated() - others


def _own_bytes(bench: Measured) -> int:
    """What this method's model, values and optimizer hold: all benches lie on the device side by side."""
    state = [] if bench.optimizer is None else [v for slots in bench.optimizer.state.values() for v in slots.values()]
    tensors = [*bench.model.parameters(), *bench.model.buffers(), *(value for value in state if isinstance(value, Tensor))]
    return sum(storage.nbytes() for storage in {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}.values())


def peak_resident(setting: Setting, method: str, kind: Callable[..., Measured] = Bench) -> int:
    """Peak resident memory of a step in bytes, in a fresh process, above what imports alone take; 0 if unknown.

    The process runs with a low, fixed mmap threshold: glibc otherwise keeps freed tensors of up to 32 MB in its heap, which
    doubled the reading.

    Args:
        kind: makes what takes the step, from method, model, image and setting; a class, which the process can find by name.
    """
    former = os.environ.get(MMAP_THRESHOLD)
    os.environ[MMAP_THRESHOLD] = "131072"
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_resident, setting, method, kind, torch.get_num_threads()).result()
    finally:
        del os.environ[MMAP_THRESHOLD]
        if former is not None:
            os.environ[MMAP_THRESHOLD] = former


def _resident(setting: Setting, method: str, kind: Callable[..., Measured], threads: int) -> int:
    torch.set_num_threads(threads)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0

    def read(field: str) -> int:
        return 1024 * int(status.read_text().split(field + ":")[1].split()[0])

    before = read("VmRSS")
    bench = kind(method, *setting.build(), setting)
    bench.step()
    reset.write_text("5")  # the highest water mark starts again from here
    bench.step()
    return read("VmHWM") - before


def swap_seconds(setting: Setting, repetitions: int = 7) -> float:
    """Median seconds to switch between two gps deltas of random choice on one base in memory."""
    model, _ = setting.build()
    board, parameters = Switchboard(model.eval()), dict(model.named_parameters())
    for seed, name in enumerate("ab"):
        def scores(names: Sequence[str], seed: int = seed) -> dict[str, Tensor]:
            return data_free_scores(model, names, score="random", seed=seed)

        selection = METHODS["gps"](model, GPSConfig(), scores, 0)
        values = {key: parameters[key].detach().flatten()[where] for key, where in selection.sparse.items()}
        board.add(name, selection, {**values, **{key: parameters[key].detach().clone() for key in selection.dense}})
    seconds = []
    for repetition in range(2 * repetitions):
        began = time.perf_counter()
        board.switch("ab"[repetition % 2])
        wait(torch.device(setting.device))
        seconds.append(time.perf_counter() - began)
    return median(seconds)
