"""Every back-end gives the same gradient; the rule is visible and can be overruled."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from gps_seg.core.attach import attach
from gps_seg.core.layers import SparseLinear
from gps_seg.core.products import choose, choose_taps, fastest, selected_products
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import ConfigError

LAYERS = {
    "linear": (lambda: nn.Linear(20, 12), (3, 50, 20)),
    "1x1": (lambda: nn.Conv2d(8, 6, 1), (2, 8, 7, 5)),
    "patch": (lambda: nn.Conv2d(3, 6, 4, stride=4), (2, 3, 12, 16)),
    "3x3": (lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2), (2, 6, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6), (2, 6, 9, 8)),
}
CPU_BACKENDS = ("product", "gather", "dense")


def one_per_neuron(model: nn.Module) -> Selection:
    sparse = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            width = weight[0].numel()
            sparse[name] = torch.arange(len(weight)) * width + torch.randint(0, width, (len(weight),))
    dense = {name: "bias" for name, weight in model.named_parameters() if weight.ndim == 1}
    return Selection(sparse, dense, fingerprint(model))  # type: ignore[arg-type]


def gradients(layer: nn.Module, selection: Selection, x: Tensor, backend: str) -> dict[str, Tensor]:
    layer, x = copy.deepcopy(layer), x.clone().requires_grad_()
    attached = attach(layer, selection, backend=backend)
    y = layer(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=x.dtype).view_as(y))
    assert x.grad is not None
    return {"x": x.grad, **{name: value.grad for name, value in attached.trainable().items() if value.grad is not None}}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_back_end_gives_the_same_gradients(kind: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape)
    selection = one_per_neuron(layer)
    expected = gradients(layer, selection, x, "dense")
    for backend in ("auto", "product", "gather"):
        for name, value in gradients(layer, selection, x, backend).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=f"{backend} {name}")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_gradcheck_in_double_precision_for_each_back_end(kind: str, backend: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().double()
    attach(layer, one_per_neuron(layer), backend=backend)
    small = [min(side, 3) if place == 0 else side for place, side in enumerate(shape)]
    x = torch.randn(small, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x).square().mean(), x)


def test_the_rule_gathers_few_entries_from_many_columns_and_multiplies_otherwise() -> None:
    assert choose(used=700, out=768, entries=768, dtype=torch.float32, device="cpu") == "gather"
    assert choose(used=30, out=768, entries=768, dtype=torch.float32, device="cpu") == "product"
    assert choose(used=700, out=768, entries=768 * 100, dtype=torch.float32, device="cpu") == "product"
    assert choose(used=700, out=768, entries=768, dtype=torch.bfloat16, device="cuda") == "product"
    assert choose_taps(used=200, area=9, out=256, entries=256, dtype=torch.float32, device="cpu") == "gather"
    assert choose_taps(used=10, area=9, out=256, entries=256, dtype=torch.float32, device="cpu") == "product"


def test_the_choice_is_shown_and_can_be_overruled() -> None:
    model = nn.Sequential(nn.Linear(200, 100, bias=False), nn.Flatten())
    spread = Selection({"0.weight": torch.arange(100) * 202}, {}, "")
    attached = attach(model, spread)
    assert attached.backends() == {"0.weight": "gather"}
    attached.set_backend("dense")
    assert attached.backends() == {"0.weight": "dense"}
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        model(torch.randn(5, 200))
    assert (5, 200) in kept  # dense keeps the whole input, as every other method does
    with pytest.raises(ConfigError, match="expected one of auto, product, gather, triton, dense, got 'fast'"):
        attached.set_backend("fast")
    table = attach(nn.Embedding(9, 4), Selection({"weight": torch.tensor([3])}, {}, ""))
    assert table.backends() == {"weight": "dense + pick"}


def test_the_fastest_back_end_can_be_measured_on_the_spot() -> None:
    dy, x = torch.randn(64, 8), torch.randn(64, 4096)
    assert fastest(torch.arange(8), torch.arange(8), dy, x) == "gather"  # 8 columns of 4096 against a product with all
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64), nn.Conv2d(1, 4, 3))
    attached = attach(model, one_per_neuron(model))
    chosen = attached.measure_backends(tokens=32)
    assert set(chosen) == {"0.weight", "1.weight", "2.weight"} and set(chosen.values()) <= {"product", "gather", "triton"}
    assert model[0].selected_positions.backend == chosen["0.weight"]  # type: ignore[union-attr]


def test_asking_for_the_kernel_without_a_gpu_is_one_line() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter is on")
    with pytest.raises(ConfigError, match="back-end triton: (the package triton is not installed|it needs a GPU)"):
        selected_products(torch.arange(2), torch.arange(2), torch.randn(3, 2), torch.randn(3, 2), "triton")


KERNEL = """
import torch
from torch import nn
from gps_seg.core.products import selected_products
torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    for per_row, tokens in ((1, 1300), (3, 3), (2, 512)):
        dy, x = torch.randn(tokens, 600, dtype=dtype), torch.randn(tokens, 50, dtype=dtype)
        rows = torch.arange(600).repeat_interleave(per_row)[:-1]
        columns = torch.randint(0, 50, (len(rows),))
        expected = (dy.double()[:, rows] * x.double()[:, columns]).sum(0)
        got = selected_products(rows, columns, dy, x, "triton")
        assert got.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)
        assert torch.equal(got, selected_products(rows, columns, dy, x, "triton"))
from gps_seg.core.attach import attach
from gps_seg.core.selection import Selection
layer = nn.Linear(9, 5).double()
attach(layer, Selection({"weight": torch.arange(5) * 10 % 45}, {"bias": "bias"}, ""), backend="triton")
assert torch.autograd.gradcheck(layer, torch.randn(7, 9, dtype=torch.double, requires_grad=True))
torch.library.opcheck(torch.ops.gps_seg.gather_reduce.default,
                      (torch.arange(5), torch.arange(5), torch.randn(4, 5), torch.randn(4, 6)))
print("kernel agrees")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install -e '.[kernel]'")
def test_the_triton_kernel_agrees_with_exact_sums_and_repeats_to_the_bit() -> None:
    """In a process of its own: the interpreter must be switched on before triton is imported."""
    done = subprocess.run([sys.executable, "-c", KERNEL], env={**os.environ, "TRITON_INTERPRET": "1"},
                          capture_output=True, text=True)
    assert "kernel agrees" in done.stdout, done.stderr[-2000:]


def tune(model: nn.Module, selection: Selection, storage: torch.dtype | None) -> tuple[dict[str, Tensor], nn.Module]:
    """Three AdamW steps under bf16 autocast."""
    attached = attach(model, selection)
    if storage:
        attached.store_frozen(storage)
    optimizer = torch.optim.AdamW(attached.trainable().values(), lr=0.05)
    attached.follow(optimizer)
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return attached.state(), attached.merge()


def test_frozen_weights_in_bf16_train_to_the_same_bits_and_merge_into_the_fp32_base() -> None:
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))
    selection = one_per_neuron(stock)
    plain, merged = tune(copy.deepcopy(stock), selection, None)
    stored, merged_stored = tune(copy.deepcopy(stock), selection, torch.bfloat16)
    assert all(torch.equal(plain[name], stored[name]) and stored[name].dtype == torch.float32 for name in plain)
    assert all(torch.equal(a, b) for a, b in zip(merged.state_dict().values(), merged_stored.state_dict().values(), strict=True))
    small = copy.deepcopy(stock)
    attached = attach(small, selection)
    attached.store_frozen(torch.bfloat16)
    assert isinstance(small[0], SparseLinear) and small[0].weight.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(small(torch.ones(2, 16)), stock(torch.ones(2, 16)))
    attached.unmerge()
    assert fingerprint(small) == fingerprint(stock)
