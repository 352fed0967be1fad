"""A winner on the edge of its grid is reported, in the document and in the table; so is a method that had no choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gps_seg.commands.compare.cells import final_cells, tuning_cells
from gps_seg.commands.compare.edges import edge_notes, grids_of, place_of
from gps_seg.commands.compare.markdown import markdown
from gps_seg.commands.compare.settings import load_comparison
from gps_seg.errors import ConfigError


def write(folder: Path, **values: object) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump({"train": {"lr": 5e-4}}))
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump({"task": "classification", "base": "base.yaml", "data": ["digits"], "seeds": [0], **values}))
    return path


@pytest.mark.parametrize(("values", "chosen", "place"), [
    ((1e-3, 1e-4, 1e-2), 1e-3, "inside"), ((1e-3, 1e-4, 1e-2), 1e-4, "lower edge"), ((1e-3, 1e-4, 1e-2), 1e-2, "upper edge"),
    ((1e-3,), 1e-3, "untuned"), ((1e-3, 1e-2), 1e-3, "lower edge"),
])
def test_the_place_of_a_winner_in_its_grid(values: tuple[float, ...], chosen: float, place: str) -> None:
    assert place_of(values, chosen) == place


def test_every_dimension_of_every_method_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"gps": {"selection.k": "auto", "selection.auto_k": [1, 2, 4]}, "full": {}, "head": {}},
                 rates={"gps": [1e-4, 1e-3, 1e-2], "full": [1e-3, 1e-4]})
    comparison = load_comparison(path)
    final = {}
    for method, rate, k in (("gps", 1e-3, 4), ("full", 1e-4, None), ("head", None, None)):
        final[method] = final_cells(comparison, tmp_path, method, "digits", (("train.lr", rate),) if rate else ())
        for cell in final[method]:
            cell.folder.mkdir(parents=True)
            (cell.folder / "result.json").write_text(json.dumps({"run": {"k": k}}))
    assert [len(tuning_cells(comparison, tmp_path, method, "digits")) for method in final] == [3, 2, 0]
    grids = grids_of(comparison, final)
    assert grids == {
        "gps": {"train.lr": {"values": [1e-4, 1e-3, 1e-2], "chosen": 1e-3, "place": "inside"},
                "selection.k": {"values": [1, 2, 4], "chosen": 4, "place": "upper edge"}},
        "full": {"train.lr": {"values": [1e-4, 1e-3], "chosen": 1e-4, "place": "lower edge"}},
        "head": {"train.lr": {"values": [5e-4], "chosen": 5e-4, "place": "untuned"}}}
    assert edge_notes(grids) == [
        "gps: selection.k=4 lies on the upper edge of its grid, 1 to 4: widen the grid before comparing",
        "full: train.lr=0.0001 lies on the lower edge of its grid, 0.0001 to 0.001: widen the grid before comparing",
        "untuned, one train.lr each: head (0.0005)"]


def test_the_table_says_it_beside_the_rate_and_below(tmp_path: Path) -> None:
    row: dict[str, Any] = {"method": "full", "rate": 1e-4, "score": 0.9, "sd": None, "low": 0.8, "high": 1.0, "images": 5,
                           "encoder": 10, "parameters": 1000, "step_s": 0.1, "published": None, "robustness": {}}
    grids = {"full": {"train.lr": {"values": [1e-4, 1e-3], "chosen": 1e-4, "place": "lower edge"}}}
    document = {"name": "x", "task": "classification", "means": {}, "failed": {}, "learning_rates": [1e-4, 1e-3],
                "protocols": {"full": "final"}, "costs": [],
                "data": {"digits": {"reference": "full", "rows": [row], "pairs": [], "grids": grids}}}
    text = markdown(document)
    assert "| full | 0.0001 (lower edge) |" in text and "full: train.lr=0.0001 lies on the lower edge" in text
    text = markdown({**document, "validation": "; what validates is a quarter"})
    assert "those that peak early do not win; what validates is a quarter." in text


def test_a_grid_of_widths_is_tried_with_every_rate_and_what_was_chosen_can_be_taken_over(tmp_path: Path) -> None:
    methods = {"wide": {"method": "adapter"}, "same": {"method": "adapter", "data.few_shot": 1}}
    path = write(tmp_path, methods=methods, learning_rates=[1e-3, 1e-2], grid={"wide": {"selection.width": [4, 8, 16]}},
                 rates_of={"same": "wide"})
    comparison = load_comparison(path)
    cells = tuning_cells(comparison, tmp_path, "wide", "digits")
    assert [(cell.config.train.lr, cell.config.selection.model_dump()["width"]) for cell in cells] == [
        (1e-3, 4), (1e-3, 8), (1e-3, 16), (1e-2, 4), (1e-2, 8), (1e-2, 16)]
    assert cells[1].folder.name == "digits-wide-tune-seed0-lr0.001-width8" and cells[1].title == (
        "digits: wide, seed 0, lr 0.001, width 8, tune")
    assert not tuning_cells(comparison, tmp_path, "same", "digits")
    final = {method: final_cells(comparison, tmp_path, method, "digits", cells[1].point) for method in methods}
    for (cell,) in final.values():
        cell.folder.mkdir(parents=True)
        (cell.folder / "result.json").write_text("{}")
    assert final["same"][0].config.selection.model_dump()["width"] == 8
    assert edge_notes(grids_of(comparison, final)) == [
        "wide: train.lr=0.001 lies on the lower edge of its grid, 0.001 to 0.01: widen the grid before comparing",
        "same: train.lr=0.001 is what wide chose", "same: selection.width=8 is what wide chose"]


def test_what_a_method_sets_on_one_data_set_is_read_there_alone(tmp_path: Path) -> None:
    path = write(tmp_path, methods={"vpt_deep": {"selection.tokens": 5}}, data=["digits", "cifar100"],
                 by_data={"vpt_deep": {"selection.tokens": {"digits": 50}}})
    comparison = load_comparison(path)
    tokens = {data: comparison.config("vpt_deep", data).selection.model_dump()["tokens"] for data in comparison.trained}
    assert tokens == {"digits": 50, "cifar100": 5}


@pytest.mark.parametrize(("values", "text"), [
    ({"rates": {"gpss": [1e-3]}}, "rates: expected one of gps, got 'gpss'"),
    ({"grid": {"gps": {"selection.k": []}}}, "grid: gps: selection.k: expected different numbers"),
    ({"grid": {"gps": {"train.lr": [1, 2]}}}, "grid: train.lr is what learning_rates or rates decides"),
    ({"grid": {"gps": {"selection.k": [1]}}, "methods": {"gps": {"selection.k": 2}}}, "selection.k is what grid decides"),
    ({"rates_of": {"gps": "gps"}}, "rates_of: gps: expected a method that chooses for itself, got 'gps'"),
    ({"rates_of": {"gps": "full"}}, "rates_of: expected one of gps, got 'full'"),
    ({"rates_of": {"gps": "full"}, "rates": {"gps": [1]}}, "gps takes what full chose: leave it out of rates and grid"),
    ({"rates": {"gps": [1e-3, 1e-3]}}, "gps: expected different numbers, at least one"),
    ({"rates": {"gps": [1e-3]}, "methods": {"gps": {"train.lr": 1}}}, "methods: gps: train.lr is what learning_rates decides"),
    ({"by_data": {"gps": {"selection.k": {"digit": 2}}}}, "by_data: gps: selection.k: expected one of digits, got 'digit'"),
    ({"by_data": {"gps": {"method": {"digits": "head"}}}}, "by_data: gps: method is what methods decides"),
    ({"by_data": {"gps": {"selection.kk": {"digits": 2}}}}, "unknown key 'selection.kk'"),
])
def test_wrong_rates_and_settings_of_single_methods_are_refused(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_comparison(write(tmp_path, **({"methods": {"gps": {}}} | values)))
