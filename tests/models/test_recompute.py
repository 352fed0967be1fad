"""What the encoder's blocks compute again in the backward pass changes no bit on a CPU, keeps what it says, and works no more."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import profiler_legacy
from torch.utils.flop_counter import FlopCounterMode

from gps_seg.config import OPTIONS, Recompute, load_config
from gps_seg.core.attach import attach
from gps_seg.core.scores import gradient_scores
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.device import autocast, training_mode

SIZE = 80  # a grid of 5 x 5 in windows of 2 x 2: the last ones are padded


def images(batch: int, size: int = SIZE) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, image: Tensor, precision: str = "fp32") -> Tensor:
    """Logits, with the gradients of a loss of them left on the parameters."""
    with autocast(image.device, precision):
        logits: Tensor = model(image).logits
    (logits.float() - 1).square().mean().backward()
    return logits.detach()


def trained(
    method: str, recompute: Recompute, image: Tensor, *, name: str = "tiny", precision: str = "fp32", compiled: bool = False
) -> dict[str, Tensor]:
    """Logits and all gradients of a training step."""
    model = build_sam(name, input_size=image.shape[-1]).eval()
    model.recompute = recompute

    def loss(model: nn.Module, image: Tensor) -> Tensor:
        return (model(image).logits - 1).square().mean()

    selection = METHODS[method](model, OPTIONS[method](), lambda names: gradient_scores(model, names, [image], loss), 0)
    attached = attach(model, selection)
    training_mode(model)
    logits = step(torch.compile(model, backend="aot_eager_decomp_partition") if compiled else model, image, precision)
    return {"logits": logits, **{key: value.grad for key, value in attached.trainable().items() if value.grad is not None}}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected) and len(found) > 2
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("recompute", ["cheap", "blocks"])
@pytest.mark.parametrize("method", ["gps", "full", "bitfit", "head", "partial", "lora", "shira", "adapter", "ssf"])
def test_no_bit_of_any_methods_step_changes(method: str, recompute: Recompute) -> None:
    assert_same(trained(method, recompute, images(3)), trained(method, "none", images(3)))


@pytest.mark.parametrize("method", ["gps", "full", "lora"])
@pytest.mark.parametrize("size", [64, 80])
def test_no_bit_changes_under_autocast(method: str, size: int) -> None:
    image = images(1, size)
    assert_same(trained(method, "cheap", image, precision="bf16"), trained(method, "none", image, precision="bf16"))


def test_no_bit_of_the_encoder_changes_in_double_precision() -> None:
    found = []
    for recompute in ("none", "cheap", "blocks"):
        model = build_sam("tiny", input_size=SIZE).double()
        model.recompute = recompute  # type: ignore[assignment]
        image = images(2).double().requires_grad_()
        embedding = model.encode(image)
        embedding.square().sum().backward()
        gradients = [parameter.grad for parameter in model.image_encoder.parameters()]
        found.append([embedding, image.grad, *gradients])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("recompute", ["cheap", "blocks"])
@pytest.mark.parametrize("method", ["gps", "full"])
def test_an_encoder_without_such_blocks_trains_the_same(method: str, recompute: Recompute) -> None:
    image = images(2, 64)
    assert_same(trained(method, recompute, image, name="tiny_lite"), trained(method, "none", image, name="tiny_lite"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("recompute", ["cheap", "blocks"])
def test_a_compiled_step_is_the_same_to_rounding(recompute: Recompute) -> None:
    torch._dynamo.reset()
    found, expected = trained("gps", recompute, images(2), compiled=True), trained("gps", "none", images(2))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_a_compiled_model_predicts_the_same_to_rounding() -> None:
    torch._dynamo.reset()
    model = build_sam("tiny").eval()
    with torch.no_grad():
        found = torch.compile(model, backend="aot_eager")(images(2, 64)).logits
        torch.testing.assert_close(found, model(images(2, 64)).logits, rtol=1e-4, atol=1e-6)


DISTRIBUTED = """
import torch
from gps_seg.runs.device import make_accelerator
from gps_seg.config import GPSConfig
from gps_seg.methods import METHODS
from gps_seg.models.sam_zoo import build_sam
from gps_seg.core.scores import data_free_scores
from gps_seg.core.attach import attach

accelerator, found = make_accelerator(torch.device("cpu"), "fp32"), {}
image = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(accelerator.process_index))
for recompute in ("none", "cheap", "blocks"):
    model = build_sam("tiny", input_size=80).train()
    model.recompute = recompute
    scores = lambda names: data_free_scores(model, list(names), score="magnitude")
    attached = attach(model, METHODS["gps"](model, GPSConfig(), scores, 0))
    wrapped = accelerator.prepare(model)
    accelerator.backward(wrapped(image).logits.square().mean())
    found[recompute] = [value.grad for value in attached.trainable().values() if value.grad is not None]
    assert len(found[recompute]) > 50
for other in ("cheap", "blocks"):
    assert all(torch.equal(a, b) for a, b in zip(found["none"], found[other], strict=True)), other
torch.distributed.destroy_process_group()
"""


def test_two_processes_find_the_same_gradients(tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text(DISTRIBUTED)
    script = str(tmp_path / "distributed.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


# What is kept, in units of tokens x width


def with_blocks(model: SamModel, kind: str, count: int) -> SamModel:
    """The model with this many like blocks: windowed or global."""
    block = model.image_encoder.blocks[0 if kind == "windowed" else 1]  # type: ignore[index]
    model.image_encoder.blocks = nn.ModuleList([copy.deepcopy(block) for _ in range(count)])
    return model


def kept_bytes(method: str, recompute: Recompute, kind: str, count: int, image: Tensor, precision: str) -> int:
    """What a forward pass of the encoder leaves allocated."""
    model = with_blocks(build_sam("tiny", input_size=image.shape[-1]), kind, count)
    model.recompute = recompute
    selection = METHODS[method](model, OPTIONS[method](), lambda names: {n: model.get_parameter(n).detach() for n in names}, 0)
    attach(model, selection)
    training_mode(model)
    with autocast(image.device, precision), profiler_legacy.profile(profile_memory=True) as events:
        embedding = model.encode(image)
    kept = sum(event.self_cpu_memory_usage for event in events.function_events or ())
    del embedding
    return kept


@pytest.mark.parametrize("kind", ["windowed", "global"])
@pytest.mark.parametrize("method", ["gps", "full", "bitfit", "lora", "adapter", "ssf"])
@pytest.mark.parametrize(("recompute", "most"), [("cheap", 2), ("blocks", 1)])
def test_a_block_keeps_its_input_and_attentions_output_or_its_input_alone(
    method: str, kind: str, recompute: Recompute, most: int
) -> None:
    image = images(8, 256)
    unit = 8 * 16 * 16 * 32 * 4
    kept = [kept_bytes(method, recompute, kind, count, image, "fp32") for count in (1, 2)]
    assert 0.9 * most < (kept[1] - kept[0]) / unit < most + 0.2  # the rest are sums of attention's weights


@pytest.mark.parametrize("method", ["gps", "full"])
def test_under_autocast_only_the_blocks_input_is_kept_in_full_precision(method: str) -> None:
    kept = [kept_bytes(method, "cheap", "global", count, images(8, 256), "bf16") for count in (1, 2)]
    assert (kept[1] - kept[0]) / (8 * 16 * 16 * 32 * 2) < 2 + 1 + 0.5


# What is computed again


def operations(method: str, recompute: Recompute, kind: str) -> int:
    model = with_blocks(build_sam("tiny", input_size=256), kind, 1)
    model.recompute = recompute
    selection = METHODS[method](model, OPTIONS[method](), lambda names: {n: model.get_parameter(n).detach() for n in names}, 0)
    attach(model, selection)
    training_mode(model)
    with FlopCounterMode(display=False) as counter:
        step(model, images(2, 256))
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["windowed", "global"])
@pytest.mark.parametrize("method", ["gps", "full", "bitfit"])
def test_all_but_attention_and_the_mlps_last_layer_multiplies_again(method: str, kind: str) -> None:
    tokens, width = 2 * 16 * 16, 32
    before, behind, first = 3 * width, width, 4 * width
    layers = 2 * tokens * width * (before + behind + first)
    assert operations(method, "cheap", kind) - operations(method, "none", kind) == layers


@pytest.mark.parametrize("recompute", ["cheap", "blocks"])
def test_the_selection_pass_recomputes_too(recompute: Recompute) -> None:
    kept = {}
    for how in ("none", recompute):
        model = build_sam("tiny", input_size=256).eval()
        model.recompute = how  # type: ignore[assignment]
        with profiler_legacy.profile(profile_memory=True) as events:
            embedding = model.encode(images(4, 256))
        kept[how] = sum(event.self_cpu_memory_usage for event in events.function_events or ())
        del embedding
    assert kept[recompute] < 0.7 * kept["none"]


def test_where_nothing_trains_nothing_is_kept() -> None:
    model = build_sam("tiny", input_size=SIZE).requires_grad_(False)
    model.recompute = "cheap"
    assert not model(images(1)).logits.requires_grad
    with torch.no_grad():
        assert not model.requires_grad_(True)(images(1)).logits.requires_grad


def test_cheap_needs_the_efficient_attention() -> None:
    with pytest.raises(ConfigError, match="train.recompute=cheap needs model.attention=efficient"):
        load_config(None, ["train.recompute=cheap", "model.attention=stock"])
    model = build_sam("tiny", attention="stock")
    model.recompute = "cheap"
    with pytest.raises(ConfigError, match="cheap needs model.attention=efficient"):
        model(images(1, 64))


@pytest.mark.parametrize("place", ["blocks.0", "blocks.1.attn"])
def test_a_block_that_somebody_listens_to_answers_the_same_with_cheap(place: str) -> None:
    answers = []
    for recompute in ("none", "cheap"):
        model = build_sam("tiny", input_size=SIZE).eval()
        model.recompute = recompute  # type: ignore[assignment]
        model.image_encoder.get_submodule(place).register_forward_hook(lambda _module, _inputs, output: 1.5 * output)
        answers.append(step(model, images(1)))
    assert torch.equal(*answers)
