"""Reports: intervals, tables that check their numbers, methods compared, plots, the benchmark."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gps_seg.commands.benchmarks.scoring import benchmark, draw_pair
from gps_seg.commands.score import hold_maps, score_folders
from gps_seg.data.images import read_image, write_image, write_mask
from gps_seg.data.maps import Prediction
from gps_seg.errors import ConfigError, DataError, GpsSegError, WriteError
from gps_seg.metrics import paired
from gps_seg.metrics.contradictions import check_document
from gps_seg.metrics.measures import BLOCKS, LEGACY, BlockScore, score_blocks
from gps_seg.metrics.paired import compare_methods, parse_methods, read_document
from gps_seg.metrics.plots.scores import box_plots, plot_folders, plot_scores, size_plot
from gps_seg.metrics.report import report
from gps_seg.metrics.statistics import mean_interval
from gps_seg.metrics.tables import escape, latex, lines, markdown, table

maps = arrays(np.float32, (6, 7), elements=st.sampled_from([0, 0.2, 0.5, 0.7, 1]))
masks = arrays(np.bool_, (6, 7))


def scores(count: int = 12, shift: int = 0) -> list[BlockScore]:
    found = []
    for number in range(count):
        grey, target = draw_pair(number, 48)
        prediction = Prediction(np.roll(grey, shift, axis=0).astype(np.float32) / 255)
        found.append(score_blocks(f"frame_{number}", prediction, target, BLOCKS))
    return found


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return report(scores(), settings={"data": "drawn", "threshold": 0.5}, resamples=500)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


@given(st.lists(st.tuples(maps, masks), min_size=1, max_size=4))
def test_no_set_of_images_puts_nan_into_a_report(pairs: list[tuple[Any, Any]]) -> None:
    found = report([score_blocks(str(number), Prediction(p), t, BLOCKS) for number, (p, t) in enumerate(pairs)], settings={},
                   resamples=20)
    json.dumps(found, allow_nan=False)
    assert all(math.isfinite(number) for number in numbers(found))
    assert table(found) and markdown(found) and latex(found)


def test_every_block_is_there_and_every_mean_lies_in_its_interval(document: dict[str, Any]) -> None:
    assert set(BLOCKS) <= set(document) and document["schema"] == 2 and document["omitted"] == {}
    for block, intervals in document["intervals"].items():
        for name, (low, high) in intervals.items():
            assert low - 1e-9 <= document[block][name] <= high + 1e-9, (block, name)
    assert set(document["intervals"]) == set(BLOCKS) - {LEGACY}  # two numbers of one pooled recall


def test_the_bootstrap_of_sums_gives_the_interval_of_the_mean(document: dict[str, Any]) -> None:
    for name in ("dice", "hd95", "nsd"):
        expected = mean_interval([image[name] for image in document["images"]], resamples=500)
        assert document["intervals"]["per_image"][name] == pytest.approx(expected)


def test_groups_widen_intervals_and_are_counted() -> None:
    images = scores(6) * 4
    plain = report(images, settings={}, resamples=400)
    grouped = report(images, settings={}, resamples=400, groups=[str(number % 6) for number in range(24)])
    widths = [np.diff(found["intervals"]["per_image"]["dice"])[0] for found in (plain, grouped)]
    assert widths[1] > 1.5 * widths[0]
    assert grouped["statistics"]["clusters"] == 6 and "bootstrap of 6 groups" in table(grouped)
    with pytest.raises(DataError, match="expected one group for each of 24 images"):
        report(images, settings={}, groups=["a"])


def test_one_image_has_no_interval(document: dict[str, Any]) -> None:
    found = report(scores(1), settings={})
    assert found["intervals"] == {} and "no intervals: they need at least two images" in table(found)


def test_missed_polyps_are_counted_and_cost_the_diagonal() -> None:
    target = draw_pair(0, 48)[1]
    found = report([score_blocks("missed", Prediction(np.zeros((48, 48), np.float32)), target),
                    score_blocks("clean", Prediction(np.zeros((48, 48), np.float32)), target & False)], settings={})
    mean = found["per_image"]
    assert mean["hd95"] == pytest.approx(math.hypot(48, 48) / 2) and mean["hd95_of_diagonal"] == 0.5 and mean["nsd"] == 0.5
    assert mean["one_mask_empty"] == mean["both_masks_empty"] == 1
    assert "1 images have one mask empty: HD95 is the image's diagonal" in table(found)


@pytest.mark.parametrize(("block", "name", "value", "message"), [
    ("per_image", "iou", 0.3, "per_image: mean Dice .* needs a mean IoU of at least"),
    ("per_image", "dice", 0.99, "per_image: mean Dice"),
    ("per_image", "f2", 0.1, r"per_image.f2 is 0.1, but the mean of the images' rows is"),
    ("dataset", "recall", 0.2, "dataset.dice is .*, but precision and recall give"),
    ("dataset", "specificity", 0.2, "dataset.specificity is 0.2, but the images' pixel counts give"),
    ("per_image", "nsd", 0.999, "per_image.nsd is 0.999, but the mean of the images' rows is"),
    ("per_image", "hd95", -5.0, "per_image.hd95 is -5, outside of what can be"),
    ("per_image", "precision", math.nan, "per_image.precision is nan: expected a finite number"),
    ("polyps", "detection_rate", 1.7, "polyps.detection_rate is 1.7, outside of 0 to 1"),
    ("pranet", "s_measure", 5.0, "pranet.s_measure is 5, outside of 0 to 1"),
    ("pranet", "mean_iou", 0.95, "pranet: mean IoU 0.9500 is above mean Dice"),
])
def test_numbers_that_contradict_each_other_are_refused_in_every_table(
    document: dict[str, Any], block: str, name: str, value: float, message: str
) -> None:
    edited = copy.deepcopy(document)
    edited[block][name] = value
    for make in (table, markdown, latex, check_document):
        with pytest.raises(GpsSegError, match=message):
            make(edited)
    invented = copy.deepcopy(document)
    invented["dataset"] |= {"dice": 0.95, "iou": 0.95 / 1.05, "precision": 0.95, "recall": 0.95}
    with pytest.raises(GpsSegError, match="dataset.dice is 0.95, but the images' pixel counts give"):
        check_document(invented)
    removed = copy.deepcopy(document)
    del removed["images"][0]
    with pytest.raises(GpsSegError, match="n is 12, but the rows of images are 11"):
        check_document(removed)


@pytest.mark.parametrize("spoil", [
    lambda d: d["per_image"].update(dice=None), lambda d: d["per_image"].update(dice="x"), lambda d: d.update(n="6"),
    lambda d: d.update(images=["a"]), lambda d: d["images"][0].pop("tp"), lambda d: d["images"][0].pop("id"),
    lambda d: d.update(per_image=[]), lambda d: d.update(dataset={}), lambda d: d.update(intervals={"per_image": {"dice": 3}}),
])
def test_a_damaged_report_is_one_sentence(
    document: dict[str, Any], tmp_path: Path, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    edited = json.loads(json.dumps(document))
    spoil(edited)
    (tmp_path / "a.json").write_text(json.dumps(edited))
    with pytest.raises(GpsSegError, match=r"a\.json: ") as raised:
        read_document(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


def test_all_three_tables_show_the_same_numbers(document: dict[str, Any]) -> None:
    shown = lines(document)
    terminal, text, tex = table(document), markdown(document), latex(document)
    for line in shown:
        value, interval = line.shown()
        assert f"{line.label:<24} {value:>10}" in terminal and f"| {line.label} | {value} | {interval} |" in text
        assert f"{escape(line.label)} & {value} & {interval.replace(' to ', '--')} " in tex
    assert tex.count("\\\\") == len(shown) + 1 and "per\\_image" in tex
    assert len({line.block for line in shown}) == len(BLOCKS) - 1  # gps_legacy is a line below it


def test_latex_survives_special_characters() -> None:
    assert escape("50 % of a_b & <c> {d} ~\\") == (
        r"50 \% of a\_b \& \textless{}c\textgreater{} \{d\} \textasciitilde{}\textbackslash{}")


def test_methods_are_compared_with_seeds_and_holm() -> None:
    made = {name: [report(scores(20, shift), settings={}, resamples=20) for shift in shifts]
            for name, shifts in {"good": (0, 0), "shifted": (2, 3), "far": (6, 6)}.items()}
    found = compare_methods(made, resamples=400)
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("good", "shifted"), ("good", "far"), ("shifted", "far")]
    assert found["methods"]["good"]["mean"] > found["methods"]["shifted"]["mean"] > found["methods"]["far"]["mean"]
    assert all(pair["p"] <= pair["p_holm"] < 0.05 and pair["effect"] > 0.5 and pair["low"] > 0 for pair in found["pairs"])
    text = paired.table(found)
    assert "good - shifted" in text and "only the intervals speak of other seeds" in text
    assert "| good - far |" in paired.markdown(found) and "p: Wilcoxon against good, Holm" in paired.latex(found)
    same = compare_methods({"a": made["good"], "b": made["good"]}, resamples=50, metric="hd95")
    assert same["pairs"][0]["p"] == 1 and same["pairs"][0]["difference"] == 0 and "lower is better" in paired.table(same)


def test_reports_of_other_images_or_masks_are_not_compared(document: dict[str, Any]) -> None:
    fewer = report(scores(11), settings={}, resamples=20)
    with pytest.raises(DataError, match="b: expected the images of the first report, 1 differ: frame_11"):
        compare_methods({"a": [document], "b": [fewer]})
    other = copy.deepcopy(document)
    other["images"][3]["fn"] += 1
    with pytest.raises(DataError, match="b: 1 target masks differ from the first report's: frame_3"):
        compare_methods({"a": [document], "b": [other]})
    with pytest.raises(DataError, match="a: not every image has a number for 'grace'"):
        compare_methods({"a": [document], "b": [document]}, metric="grace")


def test_wrong_arguments_and_files_of_compare_are_explained(tmp_path: Path, document: dict[str, Any]) -> None:
    assert parse_methods(["a=x.json", "b=y.json", "a=z.json"]) == {"a": [Path("x.json"), Path("z.json")], "b": [Path("y.json")]}
    with pytest.raises(ConfigError, match="expected NAME=FILE, .* got 'x.json'"):
        parse_methods(["x.json"])
    with pytest.raises(ConfigError, match="expected at least two methods to compare, got a"):
        parse_methods(["a=x.json", "a=y.json"])
    for text, message in (("{", "the file is damaged"), ("[]", "with one row an image"), ("{}", "with one row")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=message):
            read_document(tmp_path / "x.json")
    with pytest.raises(DataError, match="expected the JSON of gps-seg score or evaluate at .*none.json, found none"):
        read_document(tmp_path / "none.json")
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert read_document(tmp_path / "x.json") == document


def test_plots_are_drawn_for_ordinary_and_odd_reports(document: dict[str, Any], tmp_path: Path) -> None:
    for path in plot_scores(document, tmp_path):
        assert min(read_image(path).shape[:2]) > 300
    assert {path.name for path in tmp_path.iterdir()} == {"boxes.png", "size.png", "reliability.png"}
    size_plot([(0.0, 1.0)], tmp_path / "no_polyp.png")
    size_plot([(1.0, 0.5)], tmp_path / "full.png")
    box_plots({"hd95 of a method with a long name": [3.0, 250.0]}, tmp_path / "one.png")
    with pytest.raises(WriteError, match="cannot write .*full.png.a.png: "):
        size_plot([(1.0, 0.5)], tmp_path / "full.png" / "a.png")


def test_the_worst_cases_show_the_image_beside_the_masks_or_the_prediction(tmp_path: Path) -> None:
    for number in range(3):
        grey, target = draw_pair(number, 48)
        write_image(tmp_path / "p" / f"{number}.png", grey if number else np.minimum(grey, 1))
        write_mask(tmp_path / "set" / "masks" / f"{number}.png", target)
    write_image(tmp_path / "set" / "images" / "0.png", np.full((48, 48, 3), 90, np.uint8))
    rows = score_folders(tmp_path / "p", tmp_path / "set")
    assert hold_maps(rows) and rows[0].tp + rows[0].fp == 0  # a faint map among maps
    found = report(rows, settings={"threshold": 0.5}, resamples=20)
    written = plot_folders(found, tmp_path / "p", tmp_path / "set", tmp_path / "plots", full_scale=True)
    assert [path.name for path in written] == ["boxes.png", "size.png", "worst.png"]
    sheet = read_image(tmp_path / "plots" / "worst.png")
    top = sheet[: len(sheet) // 3].reshape(-1, 3)
    assert (top == 90).all(axis=1).mean() > 0.3 and not (top == (0, 229, 255)).all(axis=1).any()  # nothing predicted there


def test_the_benchmark_times_both_sets_of_blocks(tmp_path: Path) -> None:
    text = benchmark(6, 64, json_path=tmp_path / "b.json")
    assert "6 pairs at 64 x 64" in text and "all blocks" in text
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["blocks"] for row in rows] == ["per_image + dataset", "all blocks"]
    assert all(row["seconds"] >= row["scoring_s"] > 0 and row["target_s"] is None for row in rows)
