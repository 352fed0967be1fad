"""The batched, promptless SAM against the stock modules and pipelines."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.autograd import profiler_legacy
from torch.nn.attention import SDPBackend, sdpa_kernel

from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files import sha256
from gps_seg.models.attention import use_efficient_attention, use_stock_attention
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam, load_sam, to_stock
from gps_seg.models.weights import PUBLISHED, find_weights, read_state
from gps_seg.packages import import_lite_medsam, import_segment_anything

TINY = ("tiny", "tiny_lite", "tiny_mobile", "tiny_hq", "tiny_sam2")
OF_STOCK_PARTS = ("tiny", "tiny_lite", "tiny_mobile")  # the others: test_backbones.py


def by_hand(model: SamModel, image: Tensor) -> Tensor:
    """The stock modules called one image at a time, as segment-anything's own forward does, without a prompt."""
    rows = []
    for one in image:
        if model.spec.name != "tiny":
            encoder = model.image_encoder
            x = encoder.patch_embed(one[None])  # type: ignore[operator]
            for layer in encoder.layers:  # type: ignore[union-attr]
                x = layer(x)  # type: ignore[operator]
            side = model.spec.input_size // model.spec.stride
            embedding = encoder.neck(x.view(1, side, side, -1).permute(0, 3, 1, 2))  # type: ignore[operator]
        else:
            stock = copy.deepcopy(model.image_encoder)
            use_stock_attention(stock)
            embedding = stock(one[None])
        sparse, dense = model.prompt_encoder(points=None, boxes=None, masks=None)
        masks, _ = model.mask_decoder(
            image_embeddings=embedding, image_pe=model.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense, multimask_output=False,
        )
        rows.append(masks)
    return torch.cat(rows)


@pytest.mark.parametrize("name", OF_STOCK_PARTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_without_a_prompt_a_batch_equals_the_stock_modules_called_by_hand(name: str, batch: int) -> None:
    model = load_sam(name)
    image = torch.randn(batch, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image).logits, by_hand(model, image), rtol=1e-5, atol=1e-5)


def test_with_a_box_or_points_the_logits_equal_the_stock_predictors() -> None:
    package = import_segment_anything()
    model = load_sam("tiny")
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    stock = to_stock(copy.deepcopy(model))
    assert type(stock.image_encoder.blocks[0].attn) is package.modeling.image_encoder.Attention  # type: ignore[union-attr,index]
    predictor = package.SamPredictor(stock)
    predictor.set_image(picture)
    box, points, labels = np.array([5.0, 6, 40, 30]), np.array([[10.0, 12.0], [30.0, 9.0]]), np.array([1, 0])
    image = stock.preprocess(torch.from_numpy(picture).permute(2, 0, 1).float())[None]
    with torch.no_grad():
        _, quality, expected = predictor.predict(box=box, multimask_output=False)
        output = model(image, boxes=torch.tensor(box, dtype=torch.float)[None])
        np.testing.assert_allclose(output.logits[0].numpy(), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(output.quality[0].numpy(), quality, rtol=1e-4, atol=1e-5)
        _, _, expected = predictor.predict(points, labels, multimask_output=False)
        prompt = (torch.tensor(points, dtype=torch.float)[None], torch.tensor(labels)[None])
        np.testing.assert_allclose(model(image, points=prompt).logits[0].numpy(), expected, rtol=1e-4, atol=1e-5)


PROMPTS = {
    "boxes": torch.tensor([[5.0, 6, 40, 30], [0.0, 0, 63, 63]]),
    "point_coords": torch.tensor([[[10.0, 12], [30, 9]], [[50.0, 3], [7, 60]]]),
    "mask_inputs": 9 * torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3)),
}
LABELS = torch.tensor([[1, 0], [-1, 1]])


@pytest.mark.parametrize("kinds", [kinds for number in range(4) for kinds in combinations(PROMPTS, number)], ids="+".join)
def test_every_combination_of_box_points_and_mask_equals_the_stock_sam(kinds: tuple[str, ...]) -> None:
    """Also where an image has fewer points than another, padded with the label -1."""
    model = load_sam("tiny")
    stock = to_stock(copy.deepcopy(model))
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    records = []
    for row in range(2):
        record = {"image": picture[row], "original_size": (64, 64), **{kind: PROMPTS[kind][row : row + 1] for kind in kinds}}
        records.append(record | ({"point_labels": LABELS[row : row + 1]} if "point_coords" in kinds else {}))
    expected = stock(records, multimask_output=False)
    boxes, masks = (PROMPTS[kind] if kind in kinds else None for kind in ("boxes", "mask_inputs"))
    points = (PROMPTS["point_coords"], LABELS) if "point_coords" in kinds else None
    with torch.no_grad():
        found = model.decode(model.encode(stock.preprocess(picture)), boxes, points, masks)  # type: ignore[operator]
    torch.testing.assert_close(found.logits, torch.cat([one["low_res_logits"] for one in expected]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.quality, torch.cat([one["iou_predictions"] for one in expected]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_prompts_under_bf16_stay_where_they_are(name: str) -> None:
    model = load_sam(name)
    image, points = torch.randn(2, 3, 64, 64), (PROMPTS["point_coords"], LABELS)
    with torch.no_grad():
        embedding = model.encode(image)
        before = model.decode(embedding, PROMPTS["boxes"], points).logits
        exact = model.decode(embedding, PROMPTS["boxes"], points, before).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.decode(embedding.bfloat16(), PROMPTS["boxes"], points, before.bfloat16()).logits
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("name", TINY)
def test_each_image_of_a_batch_gets_its_own_box(name: str) -> None:
    model = load_sam(name)
    image, boxes = torch.randn(2, 3, 64, 64), torch.tensor([[0.0, 0, 20, 20], [30.0, 30, 60, 50]])
    with torch.no_grad():
        together = model(image, boxes=boxes).logits
        alone = torch.cat([model(image[i : i + 1], boxes=boxes[i : i + 1]).logits for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_the_first_layer(name: str) -> None:
    model = load_sam(name)
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    first = next(module for module in model.image_encoder.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.weight.grad is not None and first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TINY)
def test_another_input_size_changes_no_parameter_and_gives_a_mask_of_that_size(name: str) -> None:
    stock, larger = build_sam(name), build_sam(name, input_size=96)
    assert {n: p.shape for n, p in stock.named_parameters()} == {n: p.shape for n, p in larger.named_parameters()}
    side = 4 * 96 // larger.spec.stride
    assert larger.eval()(torch.randn(1, 3, 96, 96)).logits.shape == (1, 1, side, side)
    with pytest.raises(ConfigError, match="expected images of 96 x 96 pixels, got 64 x 64"):
        larger(torch.randn(1, 3, 64, 64))


def test_wrong_names_and_sizes_are_explained() -> None:
    with pytest.raises(ConfigError, match="unknown model 'sam_vit_bb'; did you mean 'sam_vit_b'"):
        load_sam("sam_vit_bb")
    with pytest.raises(ConfigError, match="expected a multiple of 16, got 72"):
        load_sam("tiny", input_size=72)


def test_a_random_model_repeats_and_leaves_torchs_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = build_sam("tiny"), build_sam("tiny")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_weights_that_do_not_fit_are_refused_with_both_lists(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in build_sam("tiny").state_dict().items()}
    state["surplus"] = state.pop("mask_decoder.iou_token.weight")
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: mask_decoder.iou_token.weight; 1 unexpected: surplus"):
        load_sam("tiny", checkpoint=tmp_path / "wrong.safetensors")
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    del state["surplus"]
    save_file(state, tmp_path / "shape.safetensors")
    with pytest.raises(CheckpointError, match="1 of another shape: mask_decoder.iou_token.weight"):
        load_sam("tiny", checkpoint=tmp_path / "shape.safetensors")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weight_files_are_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot read it") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_in_it_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot read it"):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a weight file at .*none.pth, found none"):
        load_sam("tiny", checkpoint=tmp_path / "none.pth")


def test_every_published_weight_has_a_source_and_a_checksum() -> None:
    for weights in PUBLISHED.values():
        assert weights.url.startswith(("https://", "package:")) and len(weights.sha256) == 64 and weights.size > 10**7


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("size", [(14, 14), (9, 12), (20, 20)])
def test_efficient_attention_equals_the_stock_module_forward_and_backward(
    dtype: torch.dtype, tolerance: float, size: tuple[int, int]
) -> None:
    """Also where the relative position tables have to be resized."""
    torch.manual_seed(0)
    attention = import_segment_anything().modeling.image_encoder.Attention
    stock = attention(48, num_heads=3, use_rel_pos=True, input_size=(14, 14)).to(dtype)
    torch.nn.init.normal_(stock.rel_pos_h), torch.nn.init.normal_(stock.rel_pos_w)
    ours = copy.deepcopy(stock)
    use_efficient_attention(torch.nn.ModuleList([ours]))
    x = torch.randn(2, *size, 48, dtype=dtype)
    results = []
    for module in (stock, ours):
        image = x.clone().requires_grad_()
        y = module(image)
        y.square().sum().backward()
        results.append([y, image.grad, *(parameter.grad for parameter in module.parameters())])
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() <= tolerance * max(1, expected.abs().max())


def test_efficient_attention_keeps_far_less_for_the_backward() -> None:
    kept = {}
    for attention in ("stock", "efficient"):
        model = build_sam("tiny", input_size=512, attention=attention)  # type: ignore[arg-type]
        with profiler_legacy.profile(profile_memory=True) as events:  # what the forward pass leaves allocated
            embedding = model.encode(torch.randn(1, 3, 512, 512))
        kept[attention] = sum(event.self_cpu_memory_usage for event in events.function_events or ())
        del embedding
    assert 0 < kept["efficient"] < 0.6 * kept["stock"], kept


@pytest.mark.slow
def test_the_real_lite_medsam_equals_its_package_with_a_box_and_survives_the_way_to_stock_and_back() -> None:
    assert sha256(find_weights("lite_medsam")) == PUBLISHED["lite_medsam"].sha256
    model = load_sam("lite_medsam")
    packaged = import_lite_medsam().build_lite_medsam()
    packaged.load_state_dict(read_state(find_weights("lite_medsam")), strict=True)
    packaged.eval()
    image, box = torch.rand(2, 3, 256, 256), torch.tensor([[40.0, 50, 200, 180], [10.0, 10, 90, 99]])
    with torch.no_grad():
        expected = torch.cat([packaged(image[i : i + 1], box[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(model(image, boxes=box).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(to_stock(model)(image[:1], box[:1]), expected[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dim", "heads", "side"), [(48, 2, 6), (16, 2, 4)])
def test_attention_is_right_where_the_map_has_the_shape_of_the_widened_inputs(dim: int, heads: int, side: int) -> None:
    """side * side = dim / heads + 2 * side, and the math back-end keeps the map of weights."""
    stock_attention = import_segment_anything().modeling.image_encoder.Attention
    torch.manual_seed(0)
    stock = stock_attention(dim, heads, use_rel_pos=True, input_size=(side, side)).double()
    for table in (stock.rel_pos_h, stock.rel_pos_w):
        torch.nn.init.normal_(table)
    assert side * side == dim // heads + 2 * side
    ours = copy.deepcopy(stock)
    use_efficient_attention(torch.nn.ModuleList([ours]))
    x = torch.randn(2, side, side, dim, dtype=torch.double)
    with sdpa_kernel(SDPBackend.MATH):
        ours(x).square().sum().backward()
    stock(x).square().sum().backward()
    torch.testing.assert_close(ours.qkv.weight.grad, stock.qkv.weight.grad)
