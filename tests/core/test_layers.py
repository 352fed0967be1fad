"""The engine: gradients against dense autograd, forwards untouched, frozen weights frozen to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gps_seg.core.attach import attach
from gps_seg.core.layers import SparseConv2d, SparseLinear
from gps_seg.core.products import selected_products
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import CheckpointError, TrainingError

CONVOLUTIONS = {
    "1x1": dict(in_channels=8, out_channels=6, kernel_size=1),
    "3x3": dict(in_channels=4, out_channels=6, kernel_size=3, padding=1),
    "strided": dict(in_channels=4, out_channels=6, kernel_size=3, padding=1, stride=2),
    "dilated": dict(in_channels=4, out_channels=6, kernel_size=3, padding=2, dilation=2),
    "patch": dict(in_channels=3, out_channels=5, kernel_size=4, stride=4),
    "depthwise": dict(in_channels=6, out_channels=6, kernel_size=3, padding=1, groups=6),
    "grouped": dict(in_channels=8, out_channels=4, kernel_size=(3, 2), groups=2, bias=False),
}


def random_indices(weight: Tensor, number: int) -> Tensor:
    return torch.randperm(weight.numel())[:number].sort().values


def select_all(model: nn.Module, number: int) -> Selection:
    """Random entries of every weight; every bias as a whole."""
    sparse = {name: random_indices(p, min(number, p.numel())) for name, p in model.named_parameters() if p.ndim > 1}
    dense = {name: "bias" for name, p in model.named_parameters() if p.ndim == 1}
    return Selection(sparse, dense, fingerprint(model))  # type: ignore[arg-type]


def check_against_dense(layer: nn.Module, x: Tensor, number: int) -> None:
    """Output, input gradient, bias gradient and picked weight gradient equal the stock layer's."""
    reference = copy.deepcopy(layer)
    attached = attach(layer, select_all(layer, number))
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = reference(x1), layer(x2)
    assert torch.equal(y1, y2)
    dy = torch.randn_like(y1)
    y1.backward(dy)
    y2.backward(dy)
    torch.testing.assert_close(x2.grad, x1.grad)
    for name, parameter in attached.trainable().items():
        expected = reference.get_parameter(name).grad
        if name in attached.selection.sparse:
            expected = expected.flatten()[attached.selection.sparse[name]]  # type: ignore[union-attr]
            assert layer.get_parameter(name).grad is None
        torch.testing.assert_close(parameter.grad, expected, check_dtype=False, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [1, 7, 40, 10_000])
def test_a_linear_layer_has_the_dense_gradient_at_the_selected_entries(number: int) -> None:
    torch.manual_seed(number)
    check_against_dense(nn.Linear(30, 11), torch.randn(4, 70, 30), number)


@pytest.mark.parametrize("number", [1, 9, 10_000])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_has_the_dense_gradient_at_the_selected_entries(kind: str, number: int) -> None:
    torch.manual_seed(number)
    layer = nn.Conv2d(**CONVOLUTIONS[kind])  # type: ignore[arg-type]
    check_against_dense(layer, torch.randn(2, layer.in_channels, 9, 8), number)
    assert isinstance(layer, SparseConv2d)


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 5, 2), nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"),
                                   nn.Conv2d(4, 5, 3, padding="same")])
def test_layers_without_a_sparse_form_fall_back_to_picking_from_the_dense_gradient(layer: nn.Module) -> None:
    check_against_dense(copy.deepcopy(layer), torch.randn(2, 4, 6, 6), 8)


@pytest.mark.parametrize("number", [2, 30])
def test_gradcheck_in_double_precision(number: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 5).double()
    attach(linear, select_all(linear, number))
    x = torch.randn(3, 12, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(linear, x)
    conv = nn.Conv2d(3, 4, 3, padding=1, stride=2).double()
    attach(conv, select_all(conv, number))
    assert torch.autograd.gradcheck(conv, torch.randn(2, 3, 5, 5, dtype=torch.double, requires_grad=True))


def test_the_first_layer_computes_no_input_gradient_and_still_trains() -> None:
    layer = nn.Linear(6, 4)
    attached = attach(layer, select_all(layer, 5))
    layer(torch.randn(3, 6)).sum().backward()
    assert attached.trainable()["weight"].grad is not None


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_under_autocast_output_equals_the_stock_layers_and_gradients_are_fp32(half: torch.dtype) -> None:
    layer = nn.Linear(64, 32)
    reference = copy.deepcopy(layer)
    attached = attach(layer, select_all(layer, 50))
    x = torch.randn(5, 64)
    with torch.autocast("cpu", half):
        y, expected = layer(x), reference(x)
    assert y.dtype == half and torch.equal(y, expected)
    y.float().square().sum().backward()
    expected.float().square().sum().backward()
    gradient = attached.trainable()["weight"].grad
    assert gradient is not None and gradient.dtype == torch.float32
    dense = reference.weight.grad.flatten()[attached.selection.sparse["weight"]]  # type: ignore[union-attr]
    torch.testing.assert_close(gradient, dense, rtol=0.02, atol=0.05)


def test_only_the_used_input_columns_are_kept_for_the_backward() -> None:
    layer = nn.Linear(100, 50, bias=False)
    indices = torch.arange(50) * 100 + 3  # every neuron picks input 3
    attach(layer, Selection({"weight": indices}, {}, ""))
    kept: list[tuple[int, ...]] = []
    x = torch.randn(20, 100, requires_grad=True)
    note = lambda tensor: kept.append(tuple(tensor.shape)) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    assert (20, 1) in kept and (20, 100) not in kept


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
])
def test_unselected_weights_are_bit_identical_after_any_optimizer(optimizer: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    before = copy.deepcopy(model.state_dict())
    attached = attach(model, select_all(model, 12))
    chosen = optimizer(list(attached.trainable().values()))  # type: ignore[operator]
    attached.follow(chosen)
    for _ in range(5):
        chosen.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().sum().backward()
        chosen.step()
    attached.merge()
    for name, after in model.state_dict().items():
        moved = (after != before[name]).flatten().nonzero().flatten()
        if name in attached.selection.sparse:
            assert set(moved.tolist()) == set(attached.selection.sparse[name].tolist())


def test_optimizer_state_exists_for_the_selected_values_alone() -> None:
    model = nn.Linear(1000, 100, bias=False)
    attached = attach(model, Selection({"weight": torch.arange(100) * 1000}, {}, ""))
    optimizer = torch.optim.AdamW(attached.trainable().values())
    model(torch.randn(2, 1000)).sum().backward()
    optimizer.step()
    held = sum(value.numel() for slots in optimizer.state.values() for value in slots.values() if value.numel() > 1)
    assert held == 200


def test_unmerge_restores_the_base_and_merge_gives_back_the_stock_class() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(1, 2, 3))
    base = fingerprint(model)
    attached = attach(model, select_all(model, 5))
    assert type(model[0]) is SparseLinear
    attached.load({name: value + 1 for name, value in attached.state().items()})
    attached.unmerge()
    assert fingerprint(model) == base
    assert type(model[0]) is nn.Linear and type(model[1]) is nn.Conv2d
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_base_can_be_looked_at_without_losing_the_values() -> None:
    model = nn.Linear(8, 8)
    x, y_base = torch.ones(1, 8), model(torch.ones(1, 8))
    attached = attach(model, select_all(model, 5))
    attached.load({name: value + 1 for name, value in attached.state().items()})
    tuned = model(x)
    with attached.base_restored():
        assert torch.equal(model(x), y_base)
    assert torch.equal(model(x), tuned) and not torch.equal(tuned, y_base)


def test_values_written_between_forward_and_backward_are_caught_not_used() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    attached = attach(model, select_all(model, 3))
    y = model(torch.randn(2, 4)).sum()
    attached.write_back()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_selection_for_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="names 1 parameters the model lacks: other.weight"):
        attach(nn.Linear(2, 2), Selection({"other.weight": torch.tensor([0])}, {}, ""))
    with pytest.raises(CheckpointError, match=r"weight: expected indices in 0\.\.3"):
        attach(nn.Linear(2, 2), Selection({"weight": torch.tensor([4])}, {}, ""))
    with pytest.raises(CheckpointError, match="repeats an index"):
        attach(nn.Linear(2, 2), Selection({"weight": torch.tensor([1, 1])}, {}, ""))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("entries", ["one a row", "three a row", "irregular"])
def test_every_back_end_gives_the_same_sums(dtype: torch.dtype, entries: str) -> None:
    torch.manual_seed(0)
    dy, x = torch.randn(700, 40, dtype=dtype), torch.randn(700, 50, dtype=dtype)
    rows = {"one a row": torch.arange(40), "three a row": torch.arange(40).repeat_interleave(3),
            "irregular": torch.randint(0, 40, (90,)).sort().values}[entries]
    columns = torch.randint(0, 50, (len(rows),))
    expected = (dy.double()[:, rows] * x.double()[:, columns]).sum(0)
    gathered, product = (selected_products(rows, columns, dy, x, name) for name in ("gather", "product"))
    rough = dtype == torch.bfloat16
    torch.testing.assert_close(gathered.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product.double(), expected, rtol=1e-2 if rough else 1e-4, atol=0.5 if rough else 1e-4)
    assert gathered.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def compiled_step(model: nn.Module, compiled: object, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = compiled(x).square().mean()  # type: ignore[operator]
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_compiling_breaks_no_graph_recompiles_nothing_and_trains_alike() -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 10))

    torch._dynamo.reset()
    losses = []
    for compile_it in (False, True):
        model = net()
        torch.manual_seed(1)
        attached = attach(model, select_all(model, 20))
        optimizer = torch.optim.AdamW(attached.trainable().values(), lr=1e-2)
        attached.follow(optimizer)
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compile_it else model
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        if compile_it:
            compiled_step(model, run, optimizer, x)
            with torch._dynamo.config.patch(error_on_recompile=True):
                rest = [compiled_step(model, run, optimizer, x) for _ in range(4)]
            losses.append(rest)
        else:
            losses.append([compiled_step(model, run, optimizer, x) for _ in range(5)][1:])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    layer = nn.Linear(6, 4)
    attach(layer, select_all(layer, 5))
    x = torch.randn(3, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|differentiate twice"):
        gradient.square().sum().backward()


def test_one_image_without_a_batch_goes_through_a_convolution() -> None:
    layer = nn.Conv2d(4, 5, 3, padding=1)
    reference = copy.deepcopy(layer)
    attached = attach(layer, select_all(layer, 9))
    x = torch.randn(4, 6, 6)
    layer(x).square().sum().backward()
    reference(x).square().sum().backward()
    expected = reference.weight.grad.flatten()[attached.selection.sparse["weight"]]  # type: ignore[union-attr]
    torch.testing.assert_close(attached.trainable()["weight"].grad, expected)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_a_weight_that_two_layers_share_gets_both_parts_of_its_gradient() -> None:
    torch.manual_seed(0)
    model = Tied()
    reference = copy.deepcopy(model)
    attached = attach(model, Selection({"first.weight": torch.arange(12)}, {}, fingerprint(model)))
    x = torch.randn(7, 5)
    model(x).square().sum().backward()
    reference(x).square().sum().backward()
    torch.testing.assert_close(attached.trainable()["first.weight"].grad, reference.first.weight.grad.flatten()[:12])  # type: ignore[union-attr]


def test_a_selected_weight_that_never_gets_a_gradient_is_an_error_after_the_first_step() -> None:
    model = nn.MultiheadAttention(8, 2)
    attached = attach(model, Selection({"out_proj.weight": torch.arange(4)}, {"in_proj_bias": "bias"}, ""))
    optimizer = torch.optim.SGD(attached.trainable().values(), lr=0.1)
    attached.follow(optimizer)
    model(*[torch.randn(3, 1, 8)] * 3)[0].square().sum().backward()
    with pytest.raises(TrainingError, match="1 selected weights got no gradient.*out_proj.weight; leave them out"):
        optimizer.step()


def test_the_output_of_a_linear_layer_may_be_changed_in_place() -> None:
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))  # Swin V2's position network does this
    check_against_dense(stock, torch.randn(2, 3, 6), 2)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_kept_channels_stay_in_the_memory_format_of_the_input(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 4, 3, padding=1)
    selection = Selection({"weight": torch.tensor([0, 300, 301])}, {}, fingerprint(layer))  # channels 0 and 1 of 16
    attach(layer, selection)
    kept: list[Tensor] = []
    x = torch.randn(2, 16, 5, 5).to(memory_format=layout).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    (channels,) = [t for t in kept if t.ndim == 4 and t.shape[2:] == (5, 5)]
    assert channels.shape[1] < 16 and channels.is_contiguous(memory_format=layout)
