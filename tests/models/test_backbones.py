"""The SAMs beyond Segment Anything's own: pixels, names, sources, and parts against what others compute."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.models.hub import weight_file
from gps_seg.models.names import SAM, to_transformers
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import MODELS, build_sam, load_sam, published_state, stock_state, to_stock, weights_note
from gps_seg.models.weights import HOSTED, PUBLISHED, find_weights, is_published, licence_of
from gps_seg.packages import import_transformers

BOXES = torch.tensor([[5.0, 6, 40, 30], [0.0, 0, 63, 63]])
POINTS = torch.tensor([[[10.0, 12], [30, 9]], [[50.0, 3], [7, 60]]])
LABELS = torch.tensor([[1, 0], [-1, 1]])
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
MASKS = 9 * torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))


def awake(model: Any) -> Any:
    """No parameter is zero or one as when new, so that each has a say."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


# Pixels


def test_medsam_sees_squashed_images_between_their_darkest_and_brightest_value() -> None:
    spec = MODELS["medsam_vit_b"].spec
    assert (spec.input_size, spec.resize, spec.stretch) == (1024, "squash", True)
    image = np.random.default_rng(0).integers(30, 180, (1024, 1024, 3), dtype=np.uint8)
    expected = (image - image.min()) / np.clip(image.max() - image.min(), 1e-8, None)  # MedSAM_Inference.py
    np.testing.assert_allclose(spec.normalise(image).transpose(1, 2, 0), expected, atol=1e-6)
    assert not spec.normalise(np.full((1024, 1024, 3), 77, np.uint8)).any()
    assert spec.normalisation["stretch"] and "stretch" not in MODELS["sam_vit_b"].spec.normalisation


def test_known_weights_under_another_name_are_refused_with_the_right_one() -> None:
    path = find_weights("lite_medsam")
    with pytest.raises(CheckpointError, match="expected weights of mobile_sam, found the published ones of lite_medsam") as one:
        load_sam("mobile_sam", checkpoint=path)
    seen = "images of 256 px (longest_side), minus 0, 0, 0 over 255, 255, 255"
    assert f"which see {seen}; use model.name=lite_medsam" in str(one.value)
    assert load_sam("lite_medsam", checkpoint=path).spec.name == "lite_medsam"


def test_weights_of_unknown_origin_are_said_to_see_what_the_name_says(tmp_path: Path) -> None:
    unknown = tmp_path / "medsam.pth"
    unknown.write_bytes(b"tuned by somebody")
    assert "not known as sam_vit_b's published weights" in weights_note("sam_vit_b", unknown)
    assert "minus 123.675, 116.28, 103.53" in weights_note("sam_vit_b", unknown)
    assert not weights_note("sam_vit_b", None) and not weights_note("tiny", unknown)
    assert not weights_note("lite_medsam", find_weights("lite_medsam"))


# Sources


def test_every_model_but_the_tiny_ones_has_a_source_and_a_licence() -> None:
    for name in MODELS:
        assert is_published(name) != name.startswith("tiny"), name
        assert (licence_of(name) == "Apache-2.0") != name.startswith("tiny")
    assert not set(PUBLISHED) & set(HOSTED)


def test_a_hub_name_without_network_is_one_line() -> None:
    with pytest.raises(CheckpointError, match="cannot load model.safetensors of nobody/no-such-sam from the Hub") as one:
        load_sam("tiny", checkpoint=Path("nobody/no-such-sam"))
    assert "\n" not in str(one.value) and "model.checkpoint=FILE" in str(one.value)


def test_a_folder_without_weights_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected model.safetensors in the folder"):
        weight_file(tmp_path)
    with pytest.raises(CheckpointError, match="expected a weight file at .*folder/none.pth, found none"):
        load_sam("tiny", checkpoint=Path("folder/none.pth"))


# transformers' names


def tiny_parts(kind: str) -> dict[str, Any]:
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
              "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 128, "num_pos_feats": 16}
    decoder = {"hidden_size": 32, "mlp_dim": 256, "iou_head_hidden_dim": 32, "layer_norm_eps": 1e-5}
    return {"vision_config": vision, "mask_decoder_config": decoder | ({"vit_dim": 32} if kind == "SamHQ" else {}),
            "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16}}


def tiny_transformers(kind: str) -> Any:
    transformers = import_transformers()
    torch.manual_seed(0)
    return awake(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**tiny_parts(kind))))


@pytest.mark.parametrize(("kind", "name"), [("Sam", "tiny"), ("SamHQ", "tiny_hq")])
def test_a_folder_of_transformers_answers_as_transformers_does_and_goes_back(kind: str, name: str, tmp_path: Path) -> None:
    """But for the masks of its SamHQModel, which upscales the embedding from before the decoder's transformer (5.23)."""
    theirs = tiny_transformers(kind)
    theirs.save_pretrained(tmp_path)
    ours = load_sam(name, checkpoint=tmp_path)
    with torch.no_grad():
        expected = theirs(pixel_values=IMAGE, input_boxes=BOXES[:, None], multimask_output=False)
        found = ours(IMAGE, boxes=BOXES)
    if kind == "Sam":
        torch.testing.assert_close(found.logits, expected.pred_masks[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.quality, expected.iou_scores[:, 0], rtol=1e-4, atol=1e-4)
    pairs = MODELS[name].names
    assert pairs is not None
    back = to_transformers(ours.state_dict(), pairs)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(back) == set(saved) and all(torch.equal(back[key], saved[key]) for key in saved)


def test_two_codes_of_places_that_differ_are_refused() -> None:
    state = to_transformers(build_sam("tiny").state_dict(), SAM)
    state["prompt_encoder.shared_embedding.positional_embedding"] = torch.zeros(2, 16)
    with pytest.raises(CheckpointError, match="file: .* differ, expected one code of places"):
        stock_state("tiny", state, "file")


def test_weights_of_another_architecture_in_transformers_names_are_refused(tmp_path: Path) -> None:
    tiny_transformers("SamHQ").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model: .*unexpected"):
        load_sam("tiny", checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model: .*missing"):
        load_sam("tiny_sam2", checkpoint=tmp_path)


# HQ-SAM


def by_hand(model: SamModel, image: Tensor, box: Tensor) -> Tensor:
    """SysCV/sam-hq's order of things with the modules called as modules, for one image."""
    early: list[Tensor] = []
    blocks: Any = model.image_encoder.blocks
    listening = blocks[1].register_forward_hook(lambda _module, _inputs, output: early.append(output))
    embedding = model.encode(image)[:, :32]
    listening.remove()
    decoder: Any = model.mask_decoder
    sparse, dense = model.prompt_encoder(points=None, boxes=box, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight])[None]
    tokens, source = decoder.transformer(embedding + dense, model.prompt_encoder.get_dense_pe(), torch.cat([own, sparse], 1))
    upscaled = decoder.output_upscaling(source.transpose(1, 2).view(1, 32, 4, 4))
    fine = decoder.embedding_maskfeature(upscaled) + decoder.embedding_encoder(embedding)
    fine = fine + decoder.compress_vit_feat(early[0].permute(0, 3, 1, 2))
    plain = (decoder.output_hypernetworks_mlps[0](tokens[:, 1])[:, None] @ upscaled.flatten(2)).view(1, 1, 16, 16)
    return plain + (decoder.hf_mlp(tokens[:, 5])[:, None] @ fine.flatten(2)).view(1, 1, 16, 16)


def test_hq_sam_adds_the_fine_mask_as_the_published_code_does() -> None:
    model = awake(build_sam("tiny_hq"))
    with torch.no_grad():
        found = model(IMAGE, boxes=BOXES).logits
        expected = torch.cat([by_hand(model, IMAGE[row : row + 1], BOXES[row : row + 1]) for row in range(2)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="tiny_hq: no stock module here"):
        to_stock(model)


# SAM 2


KINDS = {"input_boxes": BOXES[:, None], "input_points": POINTS[:, None], "input_masks": MASKS}


@pytest.mark.parametrize("kinds", [kinds for number in range(4) for kinds in combinations(KINDS, number)], ids="+".join)
def test_sam2_answers_to_every_combination_of_prompts_as_transformers_does(kinds: tuple[str, ...]) -> None:
    model = awake(build_sam("tiny_sam2"))
    prompts: dict[str, Any] = {kind: KINDS[kind] for kind in kinds}
    boxes, masks = (KINDS[kind] if kind in kinds else None for kind in ("input_boxes", "input_masks"))
    points = (POINTS, LABELS) if "input_points" in kinds else None
    with torch.no_grad():
        found = model.decode(model.encode(IMAGE), None if boxes is None else boxes[:, 0], points, masks)
        stock: Any = to_stock(model)
        fit_to_64_pixels(stock)
        if points is not None:
            prompts["input_labels"] = LABELS[:, None]
        expected = stock(pixel_values=IMAGE, multimask_output=False, **prompts)
    torch.testing.assert_close(found.logits, expected.pred_masks[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.quality, expected.iou_scores[:, 0], rtol=1e-4, atol=1e-5)


def fit_to_64_pixels(stock: Any) -> None:
    stock.backbone_feature_sizes = [[16, 16], [8, 8], [4, 4]]
    stock.mask_decoder.dynamic_multimask_via_stability = False


def test_a_sam2_folder_is_read_with_or_without_the_parts_for_video_and_goes_back(tmp_path: Path) -> None:
    model = awake(build_sam("tiny_sam2"))
    import_transformers().Sam2Model(model.config).save_pretrained(tmp_path)  # random: other weights
    state = load_file(tmp_path / "model.safetensors")
    video = {"memory_attention.layers.0.weight": torch.zeros(1), "no_object_pointer": torch.zeros(1)}
    save_file(state | video, tmp_path / "video.safetensors")
    for path in (tmp_path, tmp_path / "video.safetensors"):
        found = load_sam("tiny_sam2", checkpoint=path)
        back = published_state("tiny_sam2", found.state_dict())
        assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 31.4), ("small", 38.5), ("base_plus", 73.3), ("large", 216.9)])
def test_the_sam2s_have_the_parameters_of_transformers_image_models(name: str, millions: float) -> None:
    with torch.device("meta"):  # shapes alone
        model = build_sam(f"sam2.1_hiera_{name}")
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_sam2_takes_sizes_in_steps_of_32_pixels() -> None:
    with pytest.raises(ConfigError, match="expected a multiple of 32, got 80"):
        build_sam("tiny_sam2", input_size=80)


# MobileSAM


def test_mobile_sam_keeps_the_published_files_classifier_as_what_nothing_trains() -> None:
    model = build_sam("mobile_sam")
    state = model.state_dict()
    assert state["image_encoder.head.weight"].shape == (1000, 320) and state["image_encoder.norm_head.bias"].shape == (320,)
    assert not any("head" in name for name, _ in model.image_encoder.named_parameters())
    assert state["image_encoder.patch_embed.seq.0.c.weight"].shape == (32, 3, 3, 3)
    stock = to_stock(model)
    assert type(stock).__name__ == "Sam" and list(stock.state_dict()) == list(state)


def test_what_a_classifier_pools_is_the_last_layer_alone() -> None:
    for name in ("tiny", "tiny_hq", "tiny_sam2", "tiny_mobile"):
        model: nn.Module = build_sam(name).eval()
        features, embedding = model.features(IMAGE), model.encode(IMAGE)  # type: ignore[operator]
        assert features.shape == (2, 32, 4, 4)
        assert torch.equal(features, embedding[:, :32])
