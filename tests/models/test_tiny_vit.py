"""The lean TinyViT against the packaged one: same outputs, same gradients of everything that may train."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gps_seg.config import OPTIONS
from gps_seg.core.attach import attach
from gps_seg.core.scores import data_free_scores
from gps_seg.methods import METHODS
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam
from gps_seg.models.tiny_vit import strips, windows
from gps_seg.runs.device import training_mode

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def awake(model: SamModel, seed: int = 0) -> SamModel:
    """Random statistics and gains: a new TinyViT's last batch norms are zero, which would hide half of every block."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(autouse=True)
def small_strips() -> Iterator[None]:
    """Strips of a few rows, so that even tiny images have several and their edges matter."""
    before = strips.STRIP_BYTES, windows.CHUNK_BYTES
    strips.STRIP_BYTES, windows.CHUNK_BYTES = 1 << 14, 1 << 14
    yield
    strips.STRIP_BYTES, windows.CHUNK_BYTES = before


def results(model: SamModel, image: Tensor, *, lean: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Embedding and gradients, of the image and of all that trains, by name."""
    model.lean = lean
    model.zero_grad()
    image = image.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        embedding = model.encode(image)
    wave = torch.linspace(0, 9, embedding.numel(), dtype=embedding.dtype).sin().view(embedding.shape)
    (embedding * wave).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert image.grad is not None
    return {"embedding": embedding.detach(), "image": image.grad, **gradients}


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm().clamp_min(1e-30))


def compare(model: SamModel, size: int, batch: int, dtype: torch.dtype) -> set[str]:
    """Asserts that both ways agree; returns the names of what had a gradient."""
    training_mode(model)
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    image = image.double() if dtype == torch.float64 else image
    stock, lean = (results(model, image, lean=lean, dtype=dtype) for lean in (False, True))
    assert lean.keys() == stock.keys()
    exact = results(model, image, lean=False, dtype=torch.float32) if dtype == torch.bfloat16 else stock
    for name, expected in exact.items():
        if float(expected.norm()) < 1e-6 * float(exact["image"].norm()):
            continue  # a key's bias moves no softmax: rounding alone
        if dtype == torch.bfloat16:  # both round; ours may be no further from the truth
            assert distance(lean[name], expected) < 0.02 + 1.5 * distance(stock[name], expected), name
        else:
            limit = 1e-5 if (name, dtype) == ("embedding", torch.float32) else TOLERANCE[dtype]
            assert distance(lean[name], expected) < limit, name
    return set(lean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "batch"), [(64, 1), (64, 3), (88, 2), (36, 1)])
def test_outputs_and_all_dense_gradients_equal_the_packaged_encoder(size: int, batch: int, dtype: torch.dtype) -> None:
    model = awake(build_sam("tiny_lite", input_size=size))
    names = compare(model.double() if dtype == torch.float64 else model, size, batch, dtype)
    assert {"image_encoder.layers.0.blocks.0.conv2.bn.weight", "image_encoder.layers.1.blocks.0.attn.attention_biases"} < names


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_mobile_sams_outputs_and_gradients_equal_the_packaged_encoder(dtype: torch.dtype) -> None:
    model = awake(build_sam("tiny_mobile", input_size=96))
    names = compare(model.double() if dtype == torch.float64 else model, 96, 2, dtype)
    assert "image_encoder.patch_embed.seq.0.c.weight" in names


def test_the_default_model_at_an_odd_size_equals_the_packaged_encoder() -> None:
    model = awake(build_sam("lite_medsam", input_size=52))
    compare(model.double(), 52, 1, torch.float64)


@pytest.mark.parametrize("method", ["gps", "bitfit", "partial", "head", "full", "lora", "shira", "adapter", "ssf"])
def test_every_methods_gradients_equal_those_through_the_packaged_encoder(method: str) -> None:
    model = awake(build_sam("tiny_lite"))
    options = OPTIONS[method](**({"last_blocks": 2} if method == "partial" else {}))
    selection = METHODS[method](model, options, lambda names: data_free_scores(model, names, score="random"), 0)
    attach(model, selection)
    model.double()
    compare(model, 64, 2, torch.float64)


def test_gains_that_train_beside_selected_weights_have_the_packaged_gradients() -> None:
    model = awake(build_sam("tiny_lite"))
    options = OPTIONS["gps"](norm="train", scale="train", embedding="train")
    attach(model, METHODS["gps"](model, options, lambda names: data_free_scores(model, names, score="random"), 0))
    names = compare(model.double(), 64, 2, torch.float64)
    assert {"image_encoder.patch_embed.seq.0.bn.weight", "image_encoder.layers.1.blocks.0.local_conv.bn.weight"} < names


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("backend", ["auto", "gather", "dense"])
def test_selected_gradients_agree_whatever_back_end_is_asked_for(k: int, backend: str) -> None:
    model = awake(build_sam("tiny_lite"))
    selection = METHODS["gps"](model, OPTIONS["gps"](k=k), lambda names: data_free_scores(model, names, score="random"), 0)
    attach(model, selection, backend=backend)
    model.double()
    names = compare(model, 64, 2, torch.float64)
    assert "image_encoder.layers.0.blocks.0.conv2.c.selected_values" in names
    assert strips.fits(model.get_submodule("image_encoder.layers.0.blocks.0")) is (backend == "auto")


@pytest.mark.parametrize("lines", [1, 2, 5, 64])
def test_the_strips_height_changes_no_gradient(lines: int) -> None:
    model = awake(build_sam("tiny_lite")).double()
    block = model.eval().image_encoder.layers[0].downsample
    x = torch.rand(2, 17, 23, 8, dtype=torch.float64, requires_grad=True)  # odd both ways, stride 2
    strips.STRIP_BYTES = lines * 2 * 23 * 16 * 8
    lean = strips.chain(x, block, residual=False)
    stock = block(x.permute(0, 3, 1, 2)).view(lean.shape)
    assert distance(lean, stock) < 1e-12
    wave = torch.linspace(0, 9, lean.numel(), dtype=torch.float64).sin().view(lean.shape)
    ours, theirs = (torch.autograd.grad((y * wave).sum(), x)[0] for y in (lean, stock))
    assert distance(ours, theirs) < 1e-12


def test_a_hooked_layer_is_called_as_the_module_it_is() -> None:
    model = awake(build_sam("tiny_lite")).eval()
    image = torch.rand(1, 3, 64, 64)
    seen: list[str] = []
    for name in ("patch_embed.seq.0.c", "layers.0.blocks.0.conv2.c", "layers.1.blocks.0.mlp.fc1", "layers.2.blocks.0", "neck.1"):
        model.image_encoder.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))  # type: ignore[misc]
    with torch.no_grad():
        hooked = model.encode(image)
    assert len(seen) == 5
    model.lean = False
    with torch.no_grad():
        assert distance(hooked, model.encode(image)) < 1e-5


@pytest.mark.parametrize("place", ["layers.1.blocks.0.local_conv", "layers.1.blocks.0.drop_path", "layers.1.blocks.0.attn.qkv",
                                   "layers.2.blocks.0.attn.norm", "layers.1.blocks.0.attn", "neck"])
def test_a_hook_hears_as_often_and_changes_as_much_as_in_the_packaged_walk(place: str) -> None:
    model = awake(build_sam("tiny_lite", input_size=96)).eval()
    image, calls = torch.rand(1, 3, 96, 96), [0]

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        calls[0] += 1
        return 1.5 * output

    model.image_encoder.get_submodule(place).register_forward_hook(hook)
    answers, heard = [], []
    for model.lean in (True, False):
        calls[0] = 0
        with torch.no_grad():
            answers.append(model.encode(image))
        heard.append(calls[0])
    assert heard[0] == heard[1] > 0
    assert distance(*answers) < 1e-5


class Louder(nn.Module):
    """What somebody may put around a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("place", ["layers.1.blocks.0", "layers.1.blocks.0.attn", "layers.1.blocks.0.local_conv",
                                   "layers.1.blocks.0.mlp.fc1", "layers.0.blocks.0.conv1", "neck", "patch_embed"])
@pytest.mark.parametrize("patched", [False, True])
def test_what_somebody_replaced_is_called(place: str, patched: bool) -> None:
    model = awake(build_sam("tiny_lite")).eval()
    parent, _, name = place.rpartition(".")
    holder, inner = model.image_encoder.get_submodule(parent), model.image_encoder.get_submodule(place)
    if patched:
        former = inner.forward
        inner.forward = lambda x: 1.5 * former(x)  # type: ignore[method-assign]
    else:
        setattr(holder, name, Louder(inner))
    image, answers = torch.rand(1, 3, 64, 64), []
    for model.lean in (True, False):
        with torch.no_grad():
            answers.append(model.encode(image))
    assert distance(*answers) < 1e-5


def test_batch_norms_that_train_are_left_to_the_packaged_blocks() -> None:
    model = awake(build_sam("tiny_lite")).train()
    before = model.get_buffer("image_encoder.layers.0.blocks.0.conv1.bn.running_mean").clone()
    model.encode(torch.rand(2, 3, 64, 64))
    assert not torch.equal(before, model.get_buffer("image_encoder.layers.0.blocks.0.conv1.bn.running_mean"))


def test_a_model_that_answered_in_inference_mode_can_train() -> None:
    model = awake(build_sam("tiny_lite"))
    training_mode(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("attention_biases" not in name)
    with torch.inference_mode():
        model.encode(torch.rand(1, 3, 64, 64))
    model.encode(torch.rand(1, 3, 64, 64)).sum().backward()


def test_position_biases_follow_their_table() -> None:
    model = awake(build_sam("tiny_lite")).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.encode(image)
        for name, parameter in model.named_parameters():
            if "attention_biases" in name:
                parameter.add_(1 + torch.arange(parameter.numel()).view(parameter.shape) % 3)
        lean = model.encode(image)
        model.lean = False
        model.train().eval()  # the packaged attention keeps its biases until the mode changes
        assert distance(lean, model.encode(image)) < 1e-5


@pytest.mark.parametrize("how", ["fused", "data"])
def test_position_biases_follow_a_table_whose_version_does_not_change(how: str) -> None:
    """Fused optimizers, and whoever writes through .data, move a parameter without raising its version."""
    model = awake(build_sam("tiny_lite")).eval()
    image = torch.rand(1, 3, 64, 64)
    tables = [parameter for name, parameter in model.named_parameters() if "attention_biases" in name]
    with torch.no_grad():
        before = model.encode(image)
    for table in tables:
        table.grad = torch.arange(float(table.numel())).view(table.shape) % 3
    if how == "fused":
        torch.optim.SGD(tables, lr=1.0, fused=True).step()
    for table in tables if how == "data" else []:
        table.data.add_(torch.arange(float(table.numel())).view(table.shape) % 3)
    with torch.no_grad():
        lean = model.encode(image)
        model.lean = False
        model.train().eval()
        assert distance(lean, model.encode(image)) < 1e-5 < distance(lean, before)


def test_the_lean_path_keeps_a_fraction_of_the_activations() -> None:
    model = awake(build_sam("lite_medsam", input_size=128))
    kept = {}
    for lean in (False, True):
        model.lean, total = lean, [0]
        seen: set[int] = set()

        def pack(tensor: Tensor, total: list[int] = total, seen: set[int] = seen) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen and not isinstance(tensor, nn.Parameter):
                seen.add(storage.data_ptr())
                total[0] += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            embedding = training_run(model)
        kept[lean] = total[0]
        del embedding
    assert kept[True] < 0.35 * kept[False]


def training_run(model: SamModel) -> Tensor:
    """An embedding with its graph, everything training, batch norms frozen."""
    training_mode(model)
    return model.encode(torch.rand(1, 3, 128, 128))
