"""Methods compared on plain numbers: one mean, one interval, one test a pair, whatever the numbers are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gps_seg.errors import DataError
from gps_seg.metrics.paired import compare_values, latex, markdown, table
from gps_seg.metrics.statistics import holm, interval, joint, wilcoxon

IDS = [f"image_{number}" for number in range(40)]


def numbers() -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(3)
    right = random.uniform(0.4, 0.9, 40)
    return {name: np.clip(right - worse + random.normal(0, 0.05, (seeds, 40)), 0, 1)
            for name, worse, seeds in (("gps", 0.0, 3), ("full", 0.02, 2), ("head", 0.2, 1))}


def test_a_methods_interval_and_a_pairs_test_are_those_of_the_statistics() -> None:
    values = numbers()
    found = compare_values(values, IDS, metric="accuracy", resamples=300)
    assert found["metric"] == "accuracy" and found["n"] == 40 and not found["higher_is_worse"] and not found["grouped"]
    for name, matrix in values.items():
        row = found["methods"][name]
        alone = interval(joint([matrix], resamples=300)[0])
        assert (row["low"], row["high"]) == pytest.approx(alone, abs=0.01) and row["seeds"] == len(matrix)
        assert found["scores"][name] == matrix.mean(axis=0).tolist() and row["mean"] == pytest.approx(matrix.mean())
    tested = [wilcoxon(values[pair["a"]].mean(0) - values[pair["b"]].mean(0))[0] for pair in found["pairs"]]
    for pair in found["pairs"]:
        one, other = joint([values[pair["a"]], values[pair["b"]]], resamples=300)
        assert (pair["low"], pair["high"]) == pytest.approx(interval(one - other), abs=0.02)
    assert [pair["p"] for pair in found["pairs"]] == tested
    assert [pair["p_holm"] for pair in found["pairs"]] == holm(tested)


def test_a_method_alone_has_a_mean_and_no_pair() -> None:
    found = compare_values({"gps|0": numbers()["gps"]}, IDS, resamples=50)
    assert found["pairs"] == [] and 0 < found["methods"]["gps|0"]["low"] < found["methods"]["gps|0"]["high"]
    assert "gps|0" in table(found) and "gps|0" in latex(found) and r"| gps\|0 | 0." in markdown(found)


def test_groups_are_drawn_whole(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("".join(f"{name},{number // 10}\n" for number, name in enumerate(IDS)))
    plain, grouped = (compare_values(numbers(), IDS, groups=groups, resamples=200) for groups in (None, tmp_path / "groups.csv"))
    assert grouped["grouped"] and "bootstrap of seeds and groups of images" in table(grouped)
    assert grouped["methods"]["gps"]["low"] != plain["methods"]["gps"]["low"]


def test_numbers_of_other_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"head: expected numbers of 39 images for each seed, got the shape \(1, 40\)"):
        compare_values({"head": numbers()["head"]}, IDS[:39])
    with pytest.raises(DataError, match=r"a: expected numbers of 40 images for each seed, got the shape \(40,\)"):
        compare_values({"a": np.zeros(40)}, IDS)


def test_the_images_that_are_drawn_are_the_same_for_every_method() -> None:
    right = numbers()["head"]
    found = compare_values({"a": right, "b": right + 0.1, "c": right - 0.2}, IDS, resamples=50)
    for pair, difference in zip(found["pairs"], (-0.1, 0.2, 0.3), strict=True):
        assert (pair["low"], pair["high"]) == (pytest.approx(difference), pytest.approx(difference))
