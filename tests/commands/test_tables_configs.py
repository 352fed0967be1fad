"""The paper's tables and ablations as comparisons: every file is one that runs, with the paper's numbers where they are known."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from gps_seg.commands.compare.cells import final_cells, tuning_cells
from gps_seg.commands.compare.markdown import markdown
from gps_seg.commands.compare.report import group_means
from gps_seg.commands.compare.run import run_comparison
from gps_seg.commands.compare.settings import Comparison, load_comparison
from gps_seg.errors import ConfigError, DataError
from gps_seg.methods.gps import _check_patterns
from gps_seg.models.classifiers import build_backbone
from gps_seg.tasks.classification.catalog import ADAPTERS

FOLDER = Path(__file__).parents[2] / "configs" / "tables"
LR = (("train.lr", 1e-3),)
SEGMENTATION = ("table5_kvasir", "table5_kvasir_cpu")
FGVC = ("cub_200_2011", "nabirds", "oxford_flowers", "stanford_dogs", "stanford_cars")
TABLES = {
    "table2_fgvc": FGVC, "table3_vtab": tuple(name for name in ADAPTERS if name.startswith("vtab_")),
    "table4_fgvc_swin_b": FGVC, "table4_fgvc_convnext_b": FGVC, "table6a_levels": FGVC, "table6b_criteria": FGVC,
    "table6c_loss": FGVC, "fig6a_excluded_blocks": FGVC[:1], "fig6b_first_blocks": FGVC[:1], "fig6c_k": FGVC,
    "table8_robustness": ("imagenet",), "table10_cifar100": ("cifar100",),
    "table10_cifar100_swin_b": ("cifar100",), "table10_cifar100_convnext_b": ("cifar100",),
    "table11_imagenet_vit_b": ("imagenet",),
    "table11_imagenet_swin_b": ("imagenet",), "table11_imagenet_convnext_b": ("imagenet",), "fig10_few_shot": ("imagenet",),
    "table12_seeds": FGVC,
}


@cache
def table(name: str) -> Comparison:
    return load_comparison(FOLDER / f"{name}.yaml")


def test_every_file_is_a_table_of_the_paper() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in (*TABLES, *SEGMENTATION)}


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_a_table_has_settings_that_fit_its_data_set_and_backbone(name: str, tmp_path: Path) -> None:
    comparison, data = table(name), TABLES[name][-1]
    assert set(comparison.sets) == set(TABLES[name]) and (comparison.page.reference or len(comparison.page.methods) == 1)
    for method in comparison.page.methods:
        tuning, final = (cells(comparison, tmp_path, method, data, *more) for cells, more in
                         ((tuning_cells, ()), (final_cells, (LR,))))
        chooses = comparison.grid(method) and comparison.chooser(method) == method
        assert {cell.config.data.protocol for cell in tuning} <= {"tune"}
        assert len(tuning) == (len(comparison.points(method)) if chooses else 0)
        assert {cell.config.train.keep for cell in tuning} <= {"last"}  # as the final runs, which have no validation part
        config = final[0].config
        assert config.data.protocol == "final" and config.data.name == data
        assert config.model.checkpoint is not None  # never random weights unasked
        if getattr(config.selection, "exclude", ()):
            _check_patterns(network(config.model.name), config.selection)


@pytest.mark.parametrize(("name", "model", "precision", "rates"), [
    ("table5_kvasir", "sam_vit_b", "fp32", 0), ("table5_kvasir_cpu", "lite_medsam", "auto", 4),
])
def test_table_5_is_six_rows_under_one_honest_protocol(name: str, model: str, precision: str, rates: int, tmp_path: Path) -> None:
    comparison = load_comparison(FOLDER / f"{name}.yaml")
    configs = {method: final_cells(comparison, tmp_path, method, "", ())[0].config for method in comparison.page.methods}
    assert [config.method for config in configs.values()] == ["gps", "none", "full", "head", "sam_adapter", "ssf"]
    for method, config in configs.items():
        assert config.model.name == model and config.data.protocol == "tune" and config.train.precision == precision
        assert len(tuning_cells(comparison, tmp_path, method, "")) == (0 if method == "none" else rates)
    one = {config.train for config in configs.values()}
    assert len(one) == 1 and next(iter(one)).loss == "bce_iou" and next(iter(one)).optimizer == "adam"
    assert configs["gps"].selection.model_dump().items() >= {"preset": "official", "precision": "fp32", "k": 1}.items()


def test_a_tiny_table_5_runs_with_a_sheet_and_leaves_out_a_data_set_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path))
    values = yaml.safe_load((FOLDER / "table5_kvasir_cpu.yaml").read_text())
    values |= {"base": str(FOLDER / values["base"]), "seeds": [0], "learning_rates": [1e-3], "data": ["phantom", "polypgen"]}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    small = ["model.name=tiny", "model.input_size=64", "data.name=phantom", "data.phantom_images=12", "train.max_steps=1",
             "train.validate_every=1", "train.batch_size=2", "selection.max_images=2"]
    said: list[str] = []
    found = run_comparison(path, tmp_path / "out", ["cpu", "cpu"], said.append, overrides=small, sheet=True)
    assert {row["method"] for row in found["data"]["phantom"]["rows"]} == set(values["methods"])
    assert set(found["failed"]) == {"polypgen"} and not found["data"]["polypgen"]["rows"]
    assert said[0].startswith("left out: polypgen: PolypGen is not here: get it from doi.org/10.7303/syn26376615")
    assert "failed: polypgen: PolypGen is not here" in (tmp_path / "out" / "compare.md").read_text()
    with Image.open(tmp_path / "out" / "phantom_sheet.png") as picture:
        assert picture.width > 1500  # image, target and six methods
    elsewhere = [*(one for one in small if "phantom" not in one), "data.name=polypgen"]
    with pytest.raises(DataError, match="PolypGen is not here"):
        run_comparison(path, tmp_path / "other", ["cpu"], said.append, overrides=elsewhere)
    assert not (tmp_path / "other").exists()


def test_a_sheet_of_labels_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sheet: only masks can be shown side by side"):
        run_comparison(FOLDER / "table10_cifar100.yaml", tmp_path / "out", ["cpu"], sheet=True)


@cache
def network(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_backbone(name, classes=2)


def test_the_papers_means_follow_from_its_rows() -> None:
    fgvc, vtab = table("table2_fgvc").page, table("table3_vtab").page
    assert group_means(fgvc.columns["gps"], fgvc.data, {}) == {"mean": pytest.approx(0.9178)}
    assert {name: len(members) for name, members in vtab.groups.items()} == {"natural": 7, "specialised": 4, "structured": 8}
    assert group_means(vtab.columns["gps"], vtab.data, vtab.groups) == pytest.approx({
        "natural": 0.8374, "specialised": 0.8678, "structured": 0.6189, "mean": 0.7518, "mean of groups": 0.7747}, abs=6e-5)
    for page in (fgvc, vtab):
        for method, values in page.columns.items():
            assert group_means(values, page.data, {})["mean"] == pytest.approx(values["mean"], abs=2e-4), method


def test_ablations_leave_out_the_blocks_they_name() -> None:
    one, first = table("fig6a_excluded_blocks").page.methods, table("fig6b_first_blocks").page.methods
    assert one["without block 3"]["selection.exclude"] == ["blocks.2.*"] and len(one) == 13
    assert first["without the first 4"]["selection.exclude"] == [f"blocks.{number}.*" for number in range(4)]
    assert [values["selection.k"] for values in table("fig6c_k").page.methods.values()] == [1, 2, 3, 5, 7, 10, 15, "auto"]


def test_few_shot_rates_read_no_label_but_the_few() -> None:
    comparison = table("fig10_few_shot")
    for method, own in comparison.page.methods.items():
        config = comparison.config(method, "imagenet")
        assert config.data.model_dump()["few_shot_validation"] == "few"
        assert (comparison.chooser(method) != method) == (own["data.few_shot"] == 1)  # one image leaves none to validate on
        assert comparison.page.methods[comparison.chooser(method)]["data.few_shot"] == max(2, own["data.few_shot"])


def test_prompts_of_the_tables_are_as_many_as_published_for_each_task() -> None:
    vtab = table("table3_vtab")
    tokens = {data: vtab.config("vpt_deep", data).selection.model_dump()["tokens"] for data in vtab.trained}
    assert tokens == {f"vtab_{name}": number for name, number in {
        "cifar_100": 10, "caltech101": 10, "dtd": 10, "flowers102": 1, "pets": 1, "svhn": 50, "sun397": 5, "patch_camelyon": 100,
        "eurosat": 100, "resisc45": 10, "diabetic_retinopathy": 1, "clevr_count": 100, "clevr_dist": 200, "dmlab": 100,
        "kitti": 100, "dsprites_loc": 100, "dsprites_ori": 100, "smallnorb_azi": 200, "smallnorb_ele": 200}.items()}


def test_means_are_left_out_where_a_data_set_is_missing() -> None:
    groups = {"first": ("a", "b"), "second": ("c",)}
    assert group_means({"a": 0.5, "b": 0.7}, ["a", "b", "c"], groups) == {"first": pytest.approx(0.6)}
    assert group_means({"a": 0.5, "b": 0.7, "c": 0.9}, ["a", "b", "c"], groups) == pytest.approx(
        {"first": 0.6, "second": 0.9, "mean": 0.7, "mean of groups": 0.75})


def test_published_numbers_and_robustness_stand_in_columns_of_their_own() -> None:
    row: dict[str, Any] = {"method": "gps", "rate": 1e-3, "score": 0.9, "sd": None, "low": 0.8, "high": 1.0, "images": 5,
                           "encoder": 10, "parameters": 1000, "step_s": 0.1, "published": 0.899,
                           "robustness": {"imagenet_a": 0.3}}
    other = row | {"method": "full", "published": None, "robustness": {}, "p": 0.02}
    means = {"gps": {"ours": {"mean": 0.9}, "published": {"mean": 0.9178, "natural": 0.8}}}
    text = markdown({"name": "x", "task": "classification", "means": means, "failed": {}, "learning_rates": [], "costs": [],
                     "data": {"dtd": {"reference": "gps", "rows": [row, other], "pairs": []}}}).splitlines()
    assert text[4:8] == [
        "| method | lr | accuracy | published | 95 % interval | sd over seeds | p | encoder weights | % | step s | imagenet_a |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
        "| gps | 0.001 | 0.9000 | 0.8990 | 0.8000 to 1.0000 | - | reference | 10 | 1.00 | 0.100 | 0.3000 |",
        "| full | 0.001 | 0.9000 | - | 0.8000 to 1.0000 | - | 0.0200 | 10 | 1.00 | 0.100 | - |"]
    assert "| method | mean | mean, published | natural | natural, published |" in text
    assert "| gps | 0.9000 | 0.9178 | - | 0.8000 |" in text


@pytest.mark.parametrize(("values", "text"), [
    ({"data": ["vtab_dt"]}, "data: expected one of .*vtab_dtd.*, got 'vtab_dt'"),
    ({"columns": {"gpss": {"digits": 0.9}}}, "columns: expected one of gps, got 'gpss'"),
    ({"columns": {"gps": {"cifar": 0.9}}}, "columns: gps: expected one of digits, mean, mean of groups, got 'cifar'"),
    ({"groups": {"natural": ["cifar100"]}}, "groups: natural: expected one of digits, got 'cifar100'"),
    ({"base": "{data}.yaml"}, "cannot read the configuration .*digits.yaml"),
])
def test_names_that_a_comparison_does_not_have_are_refused(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    (tmp_path / "base.yaml").write_text("{}")
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"task": "classification", "base": "base.yaml", "data": ["digits"], "methods": {"gps": {}},
                                    **values}))
    with pytest.raises(ConfigError, match=text):
        load_comparison(path)


def test_the_data_sets_name_is_put_into_settings(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("{}")
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({
        "task": "classification", "base": "{data}.yaml", "data": ["digits"],
        "methods": {"gps": {"selection.files": ["shared/common.safetensors", "shared/rest/{data}.safetensors"]}}}))
    (cell, *_) = final_cells(load_comparison(tmp_path / "compare.yaml"), tmp_path, "gps", "digits", ())
    assert [str(path) for path in cell.config.selection.files][1] == "shared/rest/digits.safetensors"
