"""Back-ends for the one product the sparse layers need: g[e] = sum over tokens n of dY[n, rows[e]] * X[n, columns[e]].

``product``  a matrix product on the used input columns alone, then a pick. Tensor cores, no kernel of ours.
``gather``   multiply gathered columns, a chunk of tokens at a time; least work where entries are few and columns many.
``triton``   the same in one CUDA kernel, fp32 sums in a fixed order, no atomics (:mod:`gps_seg.core.kernels`).
``dense``    the whole weight gradient, then a pick; what every other sparse method does, kept as the reference.
``auto``     the measured rule below, decided by shapes, type and device alone, so it never changes during a run.

All agree to fp32 rounding for fp32 activations. For bf16 and fp16 ones gather and triton sum in fp32, while product and dense
round each sum once to that type, as autocast's own weight gradient does (tests/core/test_products.py).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from gps_seg.errors import ConfigError

BACKENDS = ("auto", "product", "gather", "triton", "dense")
# Rows worked on at once, so that a gathered chunk stays in the processor's cache (measured 4x faster than one piece).
CHUNK = 256
# Keeping only the used input columns pays when it drops at least a tenth of them.
KEEP_COLUMNS_BELOW = 0.9
# A matrix product on u used columns costs u x out multiply-adds a token, gathering costs one step an entry. This is the
# measured price of such a step in multiply-adds, on a 2-core AVX-512 CPU (25 ps a multiply-add in fp32, 12 in bf16, 1.1 ns a
# step); entries that are not row-regular must gather dY too, which triples it.
GATHER_PRICE = {torch.float32: 40, torch.float64: 40, torch.bfloat16: 90, torch.float16: 90}
IRREGULAR = 3
# The same for a kernel position of a convolution in NCHW (2.7 ns a step against 11 ps a multiply-add in fp32, 1.7 against 5 in
# bf16). In channels-last memory a channel is strided and the product always won.
TAP_PRICE = {torch.float32: 250, torch.float64: 250, torch.bfloat16: 340, torch.float16: 340}


def check_backend(name: str) -> str:
    """The name, if it is one of :data:`BACKENDS`. Raises ConfigError otherwise."""
    if name not in BACKENDS:
        raise ConfigError(f"back-end: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def choose(used: int, out: int, entries: int, dtype: torch.dtype, device: str) -> str:
    """The measured rule for linear layers and for patches: ``product`` or ``gather``.

    On CUDA always ``product``: with a fifth of the columns in use it reads less memory than a gather kernel and runs on
    tensor cores (from the roofline; the kernel has not been timed on a GPU here, train.backend=measure does it on yours).

    Args:
        used: input columns that any entry reads; out: output rows; entries: selected entries.
        dtype: type of the activations; device: ``cpu``, ``cuda``, ...
    """
    price = GATHER_PRICE.get(dtype, 40) * (1 if entries % out == 0 else IRREGULAR)
    return "product" if device != "cpu" or used * out < price * entries else "gather"


def choose_taps(used: int, area: int, out: int, entries: int, dtype: torch.dtype, device: str) -> str:
    """The measured rule for convolutions with overlapping windows, in NCHW: ``product`` or ``gather``."""
    return "product" if device != "cpu" or used * area * out < TAP_PRICE.get(dtype, 250) * entries else "gather"


def selected_products(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor, backend: str = "auto") -> Tensor:
    """g[e] = sum over n of dy[n, rows[e]] * x[n, columns[e]], fp32 (e,), or fp64 for fp64.

    Args:
        rows, columns: int64 (e,), in ascending order of rows.
        dy: (n, out); x: (n, u), the used input columns only.
        backend: one of :data:`BACKENDS`.
    """
    exact = torch.promote_types(dy.dtype, torch.float32)
    if backend == "auto":
        if torch.compiler.is_compiling():  # the compiler fuses this into one pass without the large intermediate
            return (dy[:, rows].to(exact) * x[:, columns].to(exact)).sum(0)
        backend = choose(x.shape[1], dy.shape[1], len(rows), dy.dtype, dy.device.type)
    if backend == "gather":
        return _gather(rows, columns, dy, x)
    if backend == "triton":
        from gps_seg.core.kernels import gather_reduce

        return gather_reduce(rows, columns, dy, x)
    return (x.T @ dy)[columns, rows].to(exact)


def _gather(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """The same by gathering, a chunk of tokens at a time. Sums are products with a row of ones: 3x faster than sum(0)."""
    exact = torch.promote_types(dy.dtype, torch.float32)
    out, entries = dy.shape[1], len(rows)
    per_row = entries // out
    regular = entries == per_row * out and torch.equal(rows, torch.arange(out, device=rows.device).repeat_interleave(per_row))
    parts = columns.view(out, per_row).unbind(1) if regular else (columns,)
    sums = [torch.zeros(1, len(part), dtype=exact, device=dy.device) for part in parts]
    gathered = torch.empty(CHUNK, len(parts[0]), dtype=exact, device=dy.device)
    ones = torch.ones(1, CHUNK, dtype=exact, device=dy.device)
    for start in range(0, len(dy), CHUNK):
        right = x[start : start + CHUNK].to(exact)
        left = dy[start : start + CHUNK] if regular else dy[start : start + CHUNK].index_select(1, rows)
        chunk = gathered[: len(right)]
        for part, total in zip(parts, sums, strict=True):
            torch.index_select(right, 1, part, out=chunk)
            total.addmm_(ones[:, : len(right)], chunk.mul_(left))
    return torch.stack([total[0] for total in sums], 1).flatten()


def fastest(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor, repetitions: int = 5) -> str:
    """The quickest back-end that runs on this device, measured here and now: minimum of a few runs after a warm-up.

    Args:
        rows, columns, dy, x: as for :func:`selected_products`.
    """
    from gps_seg.core.kernels import why_not

    def seconds(name: str) -> float:
        best = float("inf")
        for repetition in range(repetitions + 1):
            _wait(dy.device)
            began = time.perf_counter()
            selected_products(rows, columns, dy, x, name)
            _wait(dy.device)
            if repetition:
                best = min(best, time.perf_counter() - began)
        return best

    return min(("product", "gather") if why_not(dy.device) else ("product", "gather", "triton"), key=seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
