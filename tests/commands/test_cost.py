"""The cost benchmark: what no noise touches is asserted, times are only reported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from gps_seg.commands.benchmarks.cost import measure
from gps_seg.commands.benchmarks.inference import Prediction, check_predict, measure_predictions
from gps_seg.commands.benchmarks.memory import peak_resident, swap_seconds
from gps_seg.commands.benchmarks.step import Bench, Setting
from gps_seg.commands.benchmarks.variants import parse_variants
from gps_seg.errors import ConfigError
from gps_seg.models.classifiers import build_backbone
from gps_seg.models.sam_zoo import build_sam

TINY = Setting("tiny", 128, 1, "fp32", "cpu")


def test_a_gps_step_needs_fewer_operations_and_far_less_state_than_full_fine_tuning() -> None:
    methods = ["floor", "full", "gps", "head", "bitfit", "adapter", "ssf", "lora", "shira"]
    rows = {row.method: row for row in measure(TINY, methods, repetitions=1, say=lambda text: None, resident=False)}
    assert rows["head"].flops < rows["gps"].flops < rows["full"].flops
    # bitfit has no weight gradient at all; a random tiny model uses more of its columns than a trained one
    assert rows["gps"].flops <= 1.15 * rows["bitfit"].flops
    assert rows["gps"].encoder_state_bytes < 0.03 * rows["full"].encoder_state_bytes
    assert rows["gps"].saved_bytes <= rows["full"].saved_bytes
    assert rows["floor"].state_bytes == rows["floor"].delta_bytes == 0 and rows["floor"].ratio == 1
    assert rows["gps"].delta_bytes < rows["full"].delta_bytes


def test_a_vit_of_timm_gets_within_eight_percent_of_the_floors_operations() -> None:
    setting = Setting("vit_tiny_patch16_224", None, 2, "fp32", "cpu")
    rows = {row.method: row for row in measure(setting, ["floor", "gps", "full"], repetitions=1, say=lambda text: None,
                                               resident=False)}
    assert rows["gps"].flops <= 1.08 * rows["floor"].flops
    assert rows["full"].flops >= 1.4 * rows["gps"].flops


def test_the_contrastive_selection_costs_two_full_steps_as_it_sees_two_views() -> None:
    setting = Setting("vit_tiny_patch16_224", 32, 4, "fp32", "cpu")
    full, contrastive = measure(setting, ["full", "contrastive"], repetitions=1, say=lambda _: None, resident=False)
    assert 1.9 < contrastive.flops / full.flops < 2.1 and contrastive.step_s > 0 and contrastive.state_bytes == 0
    with pytest.raises(ConfigError, match="contrastive is a selection of classifiers; tiny is none"):
        measure(Setting("tiny", 64, 1, "fp32", "cpu"), ["contrastive"], repetitions=1, resident=False)


def test_lean_and_stock_encoder_are_rows_of_one_run_and_lean_keeps_less() -> None:
    setting = Setting("tiny_lite", 64, 2, "fp32", "cpu")
    stock, lean = measure(setting, ["gps:stock", "gps:lean"], repetitions=1, say=lambda _: None, resident=False)
    assert (stock.encoder, lean.encoder) == ("stock", "lean") and lean.saved_bytes < 0.6 * stock.saved_bytes
    assert any("mm" in name for name in lean.profile) and all(seconds > 0 for seconds in lean.profile.values())


def test_words_behind_a_method_change_its_setting_alone() -> None:
    names = ["full", "gps", "gps:cheap", "gps:blocks"]
    rows = measure(replace(TINY, size=256), names, repetitions=1, say=lambda _: None, resident=False)
    assert [row.name for row in rows] == names and [row.method for row in rows] == ["full", "gps", "gps", "gps"]
    assert [row.recompute for row in rows] == ["none", "none", "cheap", "blocks"]
    none, cheap, blocks = rows[1:]
    assert none.saved_bytes > cheap.saved_bytes > blocks.saved_bytes
    assert none.flops < cheap.flops <= blocks.flops  # attention, which blocks alone repeats, is not among what torch counts
    common = parse_variants(["gps", "gps:none"], replace(TINY, recompute="cheap"))
    assert [variant.setting.recompute for variant in common] == ["cheap", "none"]


@pytest.mark.parametrize(("names", "message"), [
    (["gps", "lora", "gps"], "expected each once, got gps, lora, gps"), (["gsp"], "expected some of floor, .*, got 'gsp'"),
    (["none"], "expected some of floor, .*, got 'none'"),
    (["gps:cheep"], "expected none, cheap, blocks, lean, stock after a method's colon, got 'cheep' in 'gps:cheep'"),
    (["gps", "gps:none"], "expected different ones, got the same twice under two names in gps, gps:none"),
    (["gps:lean:cheap:none"], "expected one recompute a method, got 'gps:lean:cheap:none'"),
    (["gps:cheap:blocks"], "expected one recompute a method, got 'gps:cheap:blocks'"),
])
def test_a_wrong_name_of_what_to_measure_is_explained(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_variants(names, TINY)


def test_predictions_cost_the_stock_models_operations_where_a_method_merges_and_more_where_it_does_not() -> None:
    names = ["floor", "full", "gps:k=3", "lora", "adapter", "vpt_deep:tokens=10", "vpt_deep:tokens=50"]
    variants = parse_variants(names, Setting("vit_tiny_patch16_224", 64, 2, "fp32", "cpu"))
    rows = {row.name: row for row in measure_predictions(variants, repetitions=1, say=lambda _: None, resident=False)}
    floor = rows["floor"]
    for name in ("full", "gps:k=3", "lora"):
        assert rows[name].merged and (rows[name].flops, rows[name].parameters) == (floor.flops, floor.parameters)
    for growing in (("floor", "adapter"), ("floor", "vpt_deep:tokens=10", "vpt_deep:tokens=50")):
        for fewer, more in pairwise(growing):
            assert rows[fewer].flops < rows[more].flops and not rows[more].merged
    assert all(row.predict_s > 0 for row in rows.values()) and floor.ratio == 1
    width = 192
    assert rows["vpt_deep:tokens=50"].parameters - rows["vpt_deep:tokens=10"].parameters == 12 * 40 * width


def test_a_merged_model_predicts_as_a_stock_one_of_sam_too() -> None:
    bench = Prediction("gps", *TINY.build(), TINY)
    kinds = [[type(module).__name__ for module in model.modules()] for model in (bench.model, build_sam("tiny"))]
    assert bench.merged and kinds[0] == kinds[1]
    assert bench.step()[1] > 0 and bench.flops() > 0
    assert not any(parameter.requires_grad for parameter in bench.model.parameters())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak resident memory is read from Linux's /proc")
def test_a_prediction_holds_the_weights_and_less_than_a_step_of_training() -> None:
    setting = Setting("vit_small_patch16_224", None, 1, "fp32", "cpu")
    weights = sum(parameter.nbytes for parameter in build_backbone("vit_small_patch16_224").parameters())
    assert 0.9 * weights < peak_resident(setting, "full", Prediction) < 0.6 * peak_resident(setting, "full")


def test_options_behind_a_method_are_those_of_the_method() -> None:
    (one,) = parse_variants(["vpt_deep:tokens=200"], Setting("vit_tiny_patch16_224", None, 2, "fp32", "cpu"))
    assert one.setting.options == (("tokens", 200),) and one.method == "vpt_deep"
    with pytest.raises(ConfigError, match="--methods: vpt_deep:token=2: unknown key 'token', did you mean 'tokens'"):
        parse_variants(["vpt_deep:token=2"], TINY)
    with pytest.raises(ConfigError, match="--methods: lora:rank=0: rank: input should be greater than or equal to 1"):
        parse_variants(["lora:rank=0"], TINY)
    with pytest.raises(ConfigError, match="--methods: floor has no options, got 'floor:k=1'"):
        parse_variants(["floor:k=1"], TINY)
    with pytest.raises(ConfigError, match="--inference: contrastive is a selection pass and predicts nothing"):
        check_predict(parse_variants(["contrastive"], Setting("vit_tiny_patch16_224", None, 2, "fp32", "cpu")))


def test_recomputation_is_a_setting_of_sams() -> None:
    with pytest.raises(ConfigError, match="cheap is a setting of SAMs; vit_tiny_patch16_224 is none"):
        parse_variants(["gps:cheap"], Setting("vit_tiny_patch16_224", None, 2, "fp32", "cpu"))


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_convolutions_gradients_count_a_forward_pass_each_whatever_its_groups(groups: int) -> None:
    class OneLayer(Bench):
        def __init__(self) -> None:
            self.model = self.run = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
            self.image, self.setting, self.method, self.optimizer = torch.zeros(2, 8, 5, 5), TINY, "floor", None

    assert OneLayer().flops() == 3 * 2 * 2 * 5 * 5 * 8 * (8 // groups) * 9


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak resident memory is read from Linux's /proc")
def test_peak_resident_memory_is_at_least_what_the_optimizer_must_hold() -> None:
    setting = Setting("vit_small_patch16_224", None, 1, "fp32", "cpu")
    weights = sum(parameter.nbytes for parameter in build_backbone("vit_small_patch16_224").parameters())
    full, gps = peak_resident(setting, "full"), peak_resident(setting, "gps")
    assert full > 3.5 * weights  # weights, gradients and two moments
    assert weights < gps < 0.75 * full


def test_frozen_weights_in_the_compute_type_take_half_the_bytes() -> None:
    model, image = build_sam("tiny"), torch.randn(1, 3, 64, 64)
    bench = Bench("gps", model, image, Setting("tiny", 64, 1, "bf16", "cpu", frozen_storage="compute"))
    bench.step()
    assert model.image_encoder.blocks[0].mlp.lin1.weight.dtype == torch.bfloat16  # type: ignore[index, union-attr]


def test_a_hot_swap_of_a_small_model_takes_milliseconds() -> None:
    assert 0 < swap_seconds(Setting("tiny", 64, 1, "fp32", "cpu")) < 0.2


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown backbone 'vit_base_patch16_225'; did you mean vit_base_patch16_224"):
        build_backbone("vit_base_patch16_225")


def test_the_command_prints_a_table_writes_json_and_a_plot(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gps_seg.cli", "benchmark", "cost", "--model", "tiny", "--repetitions", "1",
               "--methods", "floor,gps,gps:cheap", "--inference", "--json", str(tmp_path / "cost.json"),
               "--plot", str(tmp_path / "cost.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "GFLOP" in done.stdout and "hot swap of a gps delta" in done.stdout
    document = json.loads((tmp_path / "cost.json").read_text())
    rows = document["rows"]
    assert [row["method"] for row in rows] == ["floor", "gps", "gps"] and rows[0]["ratio"] == 1
    assert {"compiled", "step_s", "flops", "forward_s", "peak_bytes", "saved_bytes", "state_bytes", "delta_bytes",
            "selection_s", "name", "recompute"} <= set(rows[0])
    assert {"hardware", "versions", "setting", "swap_s"} <= set(document)
    assert [row["name"] for row in document["inference"]] == [row["name"] for row in rows]
    assert all(row["merged"] and row["predict_s"] > 0 for row in document["inference"])
    assert "a prediction, under torch.inference_mode:" in done.stdout
    with Image.open(tmp_path / "cost.png") as picture:
        assert picture.width > 500
