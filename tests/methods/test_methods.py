"""What each method makes trainable on which model: counts, released rules, patterns, last blocks, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gps_seg.config import OPTIONS, GPSConfig, HeadOptions, PartialOptions, parse_config
from gps_seg.core.attach import attach
from gps_seg.core.roles import assign, matches
from gps_seg.core.scores import Scores, data_free_scores, scores_of_each
from gps_seg.core.selection import counts, fingerprint
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.methods.added import ADDITIONS, add_modules
from gps_seg.methods.dense import bitfit, partial
from gps_seg.methods.gps import gps, policy_of, score_kinds
from gps_seg.methods.parts import head_of
from gps_seg.methods.sam_adapter import high_frequencies
from gps_seg.methods.sam_adapter import sam_adapter as sam_adapter_of
from gps_seg.models.classifiers import build_backbone, load_backbone
from gps_seg.models.sam_zoo import build_sam

# name: number of blocks, prefix of the last
BACKBONES = {"vit_tiny_patch16_224": (12, "blocks.11."), "swin_tiny_patch4_window7_224": (12, "layers.3.blocks.1."),
             "convnext_atto": (12, "stages.3.blocks.1."), "tf_efficientnet_lite0": (16, "blocks.6.0.")}


def magnitude(model: nn.Module) -> Scores:
    return lambda names: data_free_scores(model, list(names), score="magnitude")


def unasked(names: Sequence[str]) -> dict[str, Tensor]:
    raise AssertionError("this method reads no gradients")


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(name, classes=5)


def test_sam_vit_b_counts_are_the_published_ones() -> None:
    """Released rules: 84,224 selected, 84,224 biases (512 of them in the neck's norms), 4,227,044 with the decoder."""
    model = build_sam("sam_vit_b")
    official = counts(gps(model, GPSConfig(preset="official"), magnitude(model), 0), model)
    assert official["selected"] == 84_224
    assert official["bias"] + official["norm"] == 84_224 and official["norm"] == 512
    assert official["trainable"] == 4_227_044
    paper = counts(gps(model, GPSConfig(), magnitude(model), 0), model)
    assert (paper["selected"], paper["bias"], paper["head"]) == (84_224, 83_712, 4_058_340)
    assert set(paper) == {"selected", "bias", "head", "trainable", "parameters"}  # no norm, no embedding


def test_a_head_that_is_selected_from_trains_its_best_connections_and_all_that_has_no_rows() -> None:
    """LiteMedSAM at k = 1: 65,856 of 9.8 million, 27,008 of them in the decoder, one connection for each of its neurons."""
    model = build_sam("lite_medsam")
    plan = assign(model, policy_of(model, GPSConfig(head="select")))
    head = {name: part for name, part in plan.items() if matches(name, head_of(model))}
    assert {part.role for part in head.values()} == {"head"}
    unread = ("output_hypernetworks_mlps.1", "output_hypernetworks_mlps.2", "output_hypernetworks_mlps.3", "iou_prediction_head")
    for name, part in head.items():
        frozen = name.removeprefix("mask_decoder.").startswith(unread)
        rows = name.endswith(".weight") and not any(word in name for word in ("norm", "iou_token", "mask_tokens", "upscaling.1"))
        assert part.treatment == ("freeze" if frozen else "select" if rows else "train"), name
    connections = sum(part.neurons for part in head.values() if part.treatment == "select")
    whole = sum(part.numel for part in head.values() if part.treatment == "train")
    assert connections + whole == 27_008


def test_the_head_has_its_own_k_and_score() -> None:
    model = build_sam("tiny")
    options = GPSConfig(head="select", k=1, head_k=3, score="magnitude", head_score="random")
    selection = gps(model, options, lambda names: scores_of_each(model, score_kinds(model, options, names), unasked, seed=5), 0)
    weight = dict(model.named_parameters())["image_encoder.blocks.0.attn.qkv.weight"]
    best = weight.abs().argmax(1) + torch.arange(len(weight)) * weight.shape[1]
    assert torch.equal(selection.sparse["image_encoder.blocks.0.attn.qkv.weight"], best)
    name = "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    rows = selection.sparse[name] // dict(model.named_parameters())[name].shape[1]
    assert torch.equal(rows.bincount(), torch.full((int(rows.max()) + 1,), 3))
    sizes = counts(selection, model, head_of(model))
    encoder = sum(len(indices) for key, indices in selection.sparse.items() if key.startswith("image_encoder."))
    assert sizes["selected"] == encoder
    assert sizes["trainable"] == counts(selection, model)["trainable"]
    assert selection.meta["head_k"] == "3" and selection.meta["head_score"] == "random"


def test_a_budget_of_the_whole_network_is_the_heads_apart_from_the_encoders() -> None:
    model = build_sam("tiny")
    sizes = []
    for level in ("neuron", "network"):
        selection = gps(model, GPSConfig(head="select", score="magnitude", level=level), magnitude(model), 0)
        sizes.append(counts(selection, model, head_of(model)))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("settings", "words"), [
    ({"head_k": 2}, "head_k is read with head=select alone, head is train"),
    ({"head_score": "random", "head": "freeze"}, "head_score is read with head=select alone, head is freeze"),
    ({"head": "select", "preset": "official"}, "head=select: not with preset=official or files"),
])
def test_settings_of_the_head_that_nothing_reads_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GPSConfig(**settings)


def test_a_pattern_that_names_parts_of_the_head_alone_is_refused_where_it_would_do_nothing() -> None:
    model = build_sam("tiny")
    with pytest.raises(ConfigError, match="names parts of the head alone, of which selection.head decides; use"):
        gps(model, GPSConfig(head="select", exclude=("mask_decoder.transformer.*",)), unasked, 0)


def test_a_classifiers_random_head_is_not_selected_from() -> None:
    with pytest.raises(ConfigError, match="selection.head: .*train or freeze.*no pretrained connections"):
        parse_config({"task": "classification", "selection": {"head": "select"}}, "test")


@pytest.mark.parametrize(("name", "neurons"), [("sam_vit_l", 222_720), ("sam_vit_h", 370_432)])
def test_larger_sams_have_the_published_number_of_neurons(name: str, neurons: int) -> None:
    with torch.device("meta"):
        model = build_sam(name)
    plan = assign(model, policy_of(model, GPSConfig()))
    assert sum(part.neurons for part in plan.values() if part.treatment == "select") == neurons


def test_the_official_preset_trains_exactly_the_released_tensors() -> None:
    """An independent copy of the released substring rules, on every parameter name of SAM ViT-B."""
    with torch.device("meta"):
        model = build_sam("sam_vit_b")
    plan = assign(model, policy_of(model, GPSConfig(preset="official")))
    for name, parameter in model.named_parameters():
        if name.startswith("prompt_encoder") and "no_mask_embed" not in name:
            expected = "freeze"  # the released model has no other prompt encoder parameter
        elif "image_encoder" not in name:
            expected = "train"
        elif "norm" in name or "pos" in name:
            expected = "freeze"
        elif "head" in name or "bias" in name:
            expected = "train"
        elif "neck" in name and parameter.ndim == 1:
            expected = "freeze"
        else:
            expected = "select"
        assert plan[name].treatment == expected, name


def test_patterns_narrow_the_selection_and_typing_errors_in_them_are_refused() -> None:
    model = build_sam("tiny")

    config = GPSConfig(include=("image_encoder.blocks.1.*",), exclude=("*.mlp.*",), head="freeze")
    selection = gps(model, config, magnitude(model), 0)
    assert set(selection.sparse) == {"image_encoder.blocks.1.attn.qkv.weight", "image_encoder.blocks.1.attn.proj.weight"}
    assert set(selection.dense) == {"image_encoder.blocks.1.attn.qkv.bias", "image_encoder.blocks.1.attn.proj.bias"}
    with pytest.raises(ConfigError, match="'image_encoder.block.1' matches no parameter"):
        gps(model, GPSConfig(include=("image_encoder.block.1",)), magnitude(model), 0)


@pytest.mark.parametrize("preset", ["paper", "official"])
@pytest.mark.parametrize("name", ["tiny", "tiny_lite"])
def test_training_the_last_blocks_alone_freezes_all_before_them(name: str, preset: str) -> None:
    model = build_sam(name)
    config = GPSConfig(last_blocks=1, preset=preset)  # type: ignore[arg-type]
    selection = gps(model, config, magnitude(model), 0)
    last = model.encoder_blocks[-1]
    encoder = [key for key in (*selection.sparse, *selection.dense) if key.startswith("image_encoder.")]
    assert encoder and all(key.startswith((last, "image_encoder.neck.")) for key in encoder)
    attach(model, selection)
    kept: list[bool] = []
    first_block = model.get_submodule(model.encoder_blocks[0].rstrip("."))
    first_block.register_forward_hook(lambda module, given, result: kept.append(result.requires_grad))
    model(torch.randn(1, 3, 64, 64))
    assert kept == [False]
    with pytest.raises(ConfigError, match=r"selection.last_blocks: expected 1 to \d, got 9"):
        gps(build_sam(name), GPSConfig(last_blocks=9), lambda names: {}, 0)


@pytest.mark.parametrize(("name", "blocks", "last"), [(name, *known) for name, known in BACKBONES.items()])
def test_the_last_block_of_a_classifier_trains_with_what_follows_and_nothing_before(name: str, blocks: int, last: str) -> None:
    model = on_meta(name)
    assert len(model.encoder_blocks) == blocks and model.encoder_blocks[-1] == last  # type: ignore[arg-type,index]
    names = [parameter for parameter, _ in model.named_parameters()]
    start = min(index for index, parameter in enumerate(names) if parameter.startswith(last))
    plan = assign(model, policy_of(model, GPSConfig(last_blocks=1)))
    trained = {parameter for parameter, part in plan.items() if part.treatment != "freeze"}
    assert trained <= set(names[start:]) and any(parameter.startswith(last) for parameter in trained)
    with pytest.raises(ConfigError, match=f"selection.last_blocks: expected 1 to {blocks}, got 99"):
        policy_of(model, GPSConfig(last_blocks=99))


@pytest.mark.parametrize(("name", "block"), [("vit_tiny_patch16_224", "blocks.11."), ("tiny", "sam.image_encoder.blocks.1.")])
def test_partial_trains_a_classifiers_last_block_and_its_head(name: str, block: str) -> None:
    model = load_backbone(name, classes=3)
    selection = partial(model, PartialOptions(), unasked, 0)
    names = [parameter for parameter, _ in model.named_parameters()]
    expected = names[min(index for index, parameter in enumerate(names) if parameter.startswith(block)) :]
    assert list(selection.dense) == [parameter for parameter in expected if "prompt_encoder" not in parameter]
    frozen = partial(model, PartialOptions(head="freeze"), unasked, 0)
    assert set(selection.dense) - set(frozen.dense) == {parameter for parameter in names if matches(parameter, head_of(model))}


def test_a_model_whose_blocks_are_not_known_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="selection.last_blocks: it is not known what the blocks of ResNet are"):
        policy_of(on_meta("resnet18"), GPSConfig(last_blocks=1))


def released(name: str) -> str:
    """An independent copy of the released classification rules: substring tests on the released names."""
    if "norm" in name or "pos_embed" in name or "cls_token" in name:
        return "freeze"
    return "train" if "head" in name or "bias" in name or "gamma" in name else "select"


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "swin_base_patch4_window7_224", "convnext_base"])
def test_the_official_preset_trains_exactly_the_released_tensors_of_a_classifier(name: str) -> None:
    model = on_meta(name)
    for parameter, part in assign(model, policy_of(model, GPSConfig(preset="official"))).items():
        theirs = parameter.replace("stem.1", "stem.norm").replace("downsample.0", "downsample.norm")  # numbers in timm alone
        assert part.treatment == released(theirs), parameter


@pytest.mark.parametrize(("name", "selected", "role", "size"), [
    ("vit_base_patch16_224", 83_712, "bias", 83_712), ("swin_base_patch4_window7_224", 110_208, "embedding", 63_544),
    ("convnext_base", 110_208, "scale", 18_048),
])
def test_the_official_preset_trains_as_many_scalars_as_were_released(name: str, selected: int, role: str, size: int) -> None:
    model = on_meta(name)
    plan = assign(model, policy_of(model, GPSConfig(preset="official")))
    assert sum(part.neurons for part in plan.values() if part.treatment == "select") == selected
    assert sum(part.numel for part in plan.values() if (part.role, part.treatment) == (role, "train")) == size


def test_the_official_preset_is_refused_where_the_released_code_has_no_rules() -> None:
    for model in (on_meta("tf_efficientnet_lite0"), load_backbone("tiny", classes=3)):
        with pytest.raises(ConfigError, match=f"preset=official: the released code has no rules for {type(model).__name__}; use"):
            policy_of(model, GPSConfig(preset="official"))


@pytest.mark.parametrize(("options", "frozen"), [
    ({"head": "freeze"}, "head.*"), ({"exclude": ("blocks.0.*",)}, "blocks.0.*"), ({"include": ("blocks.1.*",)}, "blocks.0.*"),
])
def test_the_released_rules_leave_alone_what_the_options_leave_out(options: dict[str, Any], frozen: str) -> None:
    model = on_meta("vit_tiny_patch16_224")
    plan = assign(model, policy_of(model, GPSConfig(preset="official", **options)))
    assert all(part.treatment == "freeze" for name, part in plan.items() if matches(name, [frozen]))
    assert any(part.treatment == "select" for part in plan.values())


def test_bitfit_trains_no_bias_of_a_frozen_head() -> None:
    model = on_meta("vit_tiny_patch16_224").to_empty(device="cpu")
    both, encoder = (set(bitfit(model, HeadOptions(head=head), unasked, 0).dense) for head in ("train", "freeze"))
    assert encoder == {name for name, _ in model.named_parameters() if name.endswith(".bias") and name != "head.bias"}
    assert both - encoder == {"head.weight", "head.bias"}


@pytest.mark.parametrize("method", ["lora", "shira", "adapter", "vpt_shallow", "vpt_deep"])
def test_what_a_method_adds_begins_from_the_runs_seed(method: str) -> None:
    def added(seed: int) -> dict[str, Tensor]:
        model = build_backbone("vit_tiny_patch16_224", classes=3, input_size=32)
        stock = set(model.state_dict())
        METHODS[method](model, OPTIONS[method](), unasked, seed)
        places = {name: module.shira_indices["default"] for name, module in model.named_modules()
                  if hasattr(module, "shira_indices")}
        return places or {name: value for name, value in model.state_dict().items() if name not in stock}

    first, again, other = added(1), added(1), added(2)
    assert first and all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


PROMPTS = {"insert": '{"kind": "sam_adapter", "low_frequencies": 0.25, "seed": 0, "shrink": 32}'}  # as a saved run says it


def test_sam_adapter_has_the_published_generators() -> None:
    """SAM ViT-B: 768 / 32 = 24 channels; embedding, patches of 16 x 16, a layer for each of 12 blocks, one way up."""
    with torch.device("meta"):
        model = build_sam("sam_vit_b")
    add_modules(model, PROMPTS)
    sizes = [parameter.numel() for name, parameter in model.named_parameters() if ".sam_adapter." in name]
    assert sum(sizes) == (768 + 1) * 24 + (3 * 256 + 1) * 24 + 12 * (24 + 1) * 24 + (24 + 1) * 768 == 63_312


def test_a_tiny_vit_has_a_generator_for_each_stage_at_its_own_stride() -> None:
    model = build_sam("lite_medsam")
    add_modules(model, PROMPTS)
    prompts: Any = model.image_encoder.sam_adapter
    assert [(stage.width, stage.stride, len(stage.blocks)) for stage in prompts.stages] == [
        (64, 1, 2), (128, 2, 2), (160, 4, 6), (320, 4, 2)]


def test_high_frequencies_are_the_image_without_the_middle_of_its_spectrum() -> None:
    """Of 16 pixels a quarter of the spectrum is taken out: the frequencies -4 to 3 in both directions."""
    column = torch.arange(16) * 2 * torch.pi / 16
    waves = {cycles: torch.cos(cycles * column).expand(1, 3, 16, 16) for cycles in (0, 3, 4, 5, 8)}
    for cycles in (0, 3):
        torch.testing.assert_close(high_frequencies(waves[cycles], 0.25), torch.zeros(1, 3, 16, 16), atol=1e-6, rtol=0)
    for cycles in (5, 8):
        torch.testing.assert_close(high_frequencies(waves[cycles] + 7, 0.25), waves[cycles].abs(), atol=1e-5, rtol=0)
    half = high_frequencies(waves[4], 0.25)  # -4 is taken out, 4 is not there: of even sizes the highest stands for both
    torch.testing.assert_close(half, waves[4].abs() / 2, atol=1e-6, rtol=0)
    assert torch.equal(high_frequencies(waves[5], 1.0), torch.zeros(1, 3, 16, 16))


def test_sam_adapter_keeps_nothing_of_an_image_that_it_has_answered() -> None:
    model = build_sam("tiny")
    sam_adapter_of(model, OPTIONS["sam_adapter"](), unasked, 0)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    prompts: Any = model.image_encoder.sam_adapter
    assert prompts.high is None and not prompts.features


def test_sam_adapter_is_refused_where_the_encoder_is_no_sams() -> None:
    with pytest.raises(ConfigError, match="it is defined for SAM's ViT and for TinyViT, and this encoder is neither"):
        add_modules(on_meta("vit_tiny_patch16_224"), PROMPTS)


@pytest.mark.parametrize("name", ["tiny", "tiny_lite"])
def test_sam_adapters_gradients_are_the_same_where_blocks_are_computed_again(name: str) -> None:
    found = []
    for recompute in ("none", "blocks"):
        model = build_sam(name)
        model.recompute = recompute  # type: ignore[assignment]
        selection = sam_adapter_of(model, OPTIONS["sam_adapter"](), unasked, 0)
        model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))).logits.square().sum().backward()
        found.append([parameter.grad for key, parameter in model.named_parameters() if key in selection.dense
                      and "sam_adapter" in key])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_every_method_has_its_page_of_options_and_everything_added_its_way_out() -> None:
    assert list(METHODS) == list(OPTIONS)
    assert all(addition.kind == name and name in METHODS for name, addition in ADDITIONS.items())


def test_what_a_saved_run_says_of_its_additions_stays_readable() -> None:
    text = '{"alpha": 16, "kind": "lora", "rank": 8, "seed": 3}'
    made, rebuilt = build_sam("tiny"), build_sam("tiny")
    assert METHODS["lora"](made, OPTIONS["lora"](), unasked, 3).meta == {"method": "lora", "insert": text}
    add_modules(rebuilt, {"insert": text})
    assert fingerprint(rebuilt) == fingerprint(made)


def test_an_adapter_needs_an_mlp_of_linear_layers() -> None:
    for name in ("convnext_atto", "tf_efficientnet_lite0"):  # one has an mlp of 1x1 convolutions, the other none
        with pytest.raises(ConfigError, match="method adapter: no block of this encoder has an mlp of linear layers.*use lora"):
            METHODS["adapter"](build_backbone(name, classes=3), OPTIONS["adapter"](), unasked, 0)
