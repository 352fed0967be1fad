"""Where a run computes and in which precision, and how to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.utils.deterministic
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from gps_seg.errors import ConfigError, TrainingError


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA if there is a device (CUDA_VISIBLE_DEVICES chooses it), else the CPU.

    Raises:
        ConfigError: another name, or CUDA without a device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu or cuda, got {device!r}; CUDA_VISIBLE_DEVICES chooses among several")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a CUDA device, torch finds none; use device=cpu or auto")
    return torch.device("cuda" if torch.cuda.is_available() and device != "cpu" else "cpu")


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is bf16 where the hardware multiplies it, else fp32.

    On CPUs without bf16 instructions bf16 is emulated and slower than fp32. Raises TrainingError for fp16 on a CPU, which
    has no loss scaling there.
    """
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"precision: expected auto, fp32, bf16 or fp16, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise TrainingError("train.precision=fp16 needs a CUDA device; on a CPU use bf16, fp32 or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 or fp16; nothing for fp32."""
    dtype = compute_dtype(precision)
    return torch.autocast(device.type, dtype=torch.bfloat16 if dtype == torch.float32 else dtype, enabled=dtype != torch.float32)


def compute_dtype(precision: str) -> torch.dtype:
    """The type of matrix products under a resolved precision: fp32, bf16 or fp16."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def training_mode(model: nn.Module) -> None:
    """Train mode, with batch norms kept at their pretrained statistics: a buffer that moves is a weight that moves."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within the block a CPU gives the same bits every time; CUDA keeps its fast, slightly varying reductions."""
    fills: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), fills.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        fills.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        fills.fill_uninitialized_memory = before[1]


def pictures_at_once(device: torch.device) -> int:
    """How many pictures are answered together where nobody says.

    One on a CPU: more are no faster there, and the last bits of an answer would hang on the pictures beside it. Four on CUDA.
    """
    return 1 if device.type == "cpu" else 4


@dataclass(frozen=True)
class Processes:
    """Processes that share a piece of work; of them this is number ``rank``. ``wait`` returns when all have called it."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None

    @property
    def is_main(self) -> bool:
        """Whether it is this one that speaks, and writes what there is one of."""
        return self.rank == 0


def launched(device: str) -> Processes:
    """Those that ``accelerate launch`` or ``torchrun`` started, each with a GPU of its own where there are some; or this alone.

    They wait for each other for a month, not for torch's half an hour: nothing tells how unevenly fast they are.
    """
    place = resolve_device(device)
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(True)
    state = PartialState(cpu=place.type == "cpu", timeout=timedelta(days=30))
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """An accelerator of this run; a former run's settings in the same process are dropped."""
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(True)  # accelerate keeps one global state and refuses a second precision
    mixed = {"fp32": "no"}.get(precision, precision)
    # SAM's first-mask decoder leaves its other mask heads without a gradient.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)]
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu", kwargs_handlers=handlers)
