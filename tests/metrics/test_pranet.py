"""The pranet block against PySODMetrics: always its recorded answers, and the package itself where it is installed.

PySODMetrics 1.6.2 pins older numpy and OpenCV than this project, so it is not among the dev requirements. To run it here:
pip install --no-deps pysodmetrics==1.6.2 scikit-image scikit-learn lazy-loader joblib threadpoolctl cloudpickle loky narwhals
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from gps_seg.metrics.masks import check_consistent, dice, score_image
from gps_seg.metrics.pranet import Sweep, summarise, sweep, to_grey
from support.maps import CASES, grey_case

RECORDED = Path(__file__).parent / "pysodmetrics_1_6_2.json"
Mask = NDArray[np.bool_]
greys = arrays(np.uint8, (5, 8))
masks = arrays(np.bool_, (5, 8))


def answers(found: Sweep) -> dict[str, float]:
    block = summarise([found])
    return {name: block[name] for name in ("mean_dice", "mean_iou", "max_dice", "max_iou", "weighted_f", "s_measure",
                                           "mean_e", "max_e", "mae")}


def ask_pysodmetrics(package: Any, grey: NDArray[np.uint8], target: Mask) -> dict[str, float]:
    truth = target.astype(np.uint8) * 255
    handlers = {"dice": package.DICEHandler(with_dynamic=True, with_adaptive=False),
                "iou": package.IOUHandler(with_dynamic=True, with_adaptive=False)}
    parts = [package.FmeasureV2(handlers), package.WeightedFmeasure(), package.Smeasure(), package.Emeasure(), package.MAE()]
    for part in parts:
        part.step(grey, truth)
    counts, weighted, structure, alignment, error = (part.get_results() for part in parts)
    curves = {"dice": counts["dice"]["dynamic"], "iou": counts["iou"]["dynamic"], "e": alignment["em"]["curve"]}
    return {**{f"{how}_{name}": float(getattr(np, how)(curve)) for name, curve in curves.items() for how in ("mean", "max")},
            "weighted_f": float(weighted["wfm"]), "s_measure": float(structure["sm"]), "mae": float(error["mae"])}


def centred(value: int = 255) -> NDArray[np.uint8]:
    grey = np.zeros((100, 100), np.uint8)
    grey[30:55, 30:70] = value
    return grey


FULL, EMPTY = np.full((100, 100), 255, np.uint8), np.zeros((100, 100), np.uint8)


@pytest.mark.parametrize(("grey", "target", "mean_dice", "fixed", "s", "weighted", "mae", "e"), [
    (EMPTY, EMPTY, 0, None, 1, 0, 0, 0.9962),
    (FULL, EMPTY, 0, 0, 0, 0, 1, 0),
    (FULL, FULL, 1, 1, 1, 1, 0, 1.0001),
    (EMPTY, FULL, 0.0039, 0, 0, 0.0633, 1, 0.0039),
    (centred(), centred(), 0.9968, 1, 1, 1, 0, 0.9972),
    (centred(3), centred(), 0.9968, None, 1, 1, 0, 0.9972),
    (FULL, centred(), 0.1818, 0.1818, 0.05, 0.1061, 0.9, 0.25),
    (EMPTY, centred(), 0.0007, 0, 0.45, 0, 0.1, 0.25),
])
def test_the_golden_table(grey: NDArray[np.uint8], target: NDArray[np.uint8], mean_dice: float, fixed: float | None, s: float,
                          weighted: float, mae: float, e: float) -> None:
    found = answers(sweep(grey, target > 128))
    given_, wanted = ([found[name] for name in ("mean_dice", "s_measure", "weighted_f", "mae", "mean_e")],
                      [mean_dice, s, weighted, mae, e])
    np.testing.assert_allclose(given_, wanted, atol=5e-5)
    if fixed is not None:
        assert dice(score_image("a", grey > 127, target > 128).counts) == pytest.approx(fixed, abs=5e-5)


def test_the_recorded_answers_of_pysodmetrics_are_met() -> None:
    recorded = json.loads(RECORDED.read_text())
    for number, wanted in recorded["answers"].items():
        found = answers(sweep(*grey_case(int(number))))
        np.testing.assert_allclose([found[name] for name in recorded["names"]], wanted, rtol=0, atol=1e-12, err_msg=number)


def test_pysodmetrics_agrees_where_it_is_installed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("py_sod_metrics", reason="PySODMetrics is not installed; its recorded answers are tested")
    compared = 0
    for number in range(CASES):
        grey, target = grey_case(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its empty quadrants
            wanted = ask_pysodmetrics(package, grey, target)
        found = answers(sweep(grey, target))
        if np.isnan(wanted["s_measure"]):  # an empty quadrant: the stated departure
            del wanted["s_measure"]
        assert found | wanted == pytest.approx(found, rel=0, abs=1e-12), number
        compared += 1
    assert compared == CASES


@given(greys, masks)
def test_the_sweep_equals_cutting_at_every_threshold(grey: NDArray[np.uint8], target: Mask) -> None:
    low, high = int(grey.min()), int(grey.max())
    exact = (grey.astype(int) - low) * 255 // (high - low) if high > low else grey.astype(int)
    found = sweep(grey, target)
    for index, level in enumerate(range(255, -1, -1)):
        if high > low and np.any((grey.astype(int) - low) * 255 == level * (high - low)):
            continue  # a value on the threshold itself: floating-point division decides, as in the original
        score = score_image("a", exact >= level, target)
        empty = not target.any()
        assert found.dice[index] == pytest.approx(0 if empty else score.dice)
        assert found.iou[index] == pytest.approx(0 if empty else score.iou)


@given(greys, masks)
def test_every_number_is_finite_and_a_ratio(grey: NDArray[np.uint8], target: Mask) -> None:
    found = answers(sweep(grey, target))
    assert all(np.isfinite(value) and -1e-12 <= value <= 1 + 1 / 39 for value in found.values()), found
    check_consistent(found["mean_dice"], found["mean_iou"])
    check_consistent(found["max_dice"], found["max_iou"])


@given(greys, masks)
def test_dice_iou_e_and_mae_do_not_depend_on_a_flip(grey: NDArray[np.uint8], target: Mask) -> None:
    one, other = sweep(grey, target), sweep(grey[:, ::-1], np.ascontiguousarray(target[:, ::-1]))
    for name in ("dice", "iou", "e"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.mae == pytest.approx(other.mae)


@given(st.integers(1, 39), st.randoms(use_true_random=False))
def test_a_perfect_mask_scores_just_below_one(area: int, random: Any) -> None:
    target = np.zeros(40, np.bool_)
    target[random.sample(range(40), area)] = True
    target = target.reshape(5, 8)
    fraction = area / 40
    found = answers(sweep(target.astype(np.uint8) * 255, target))
    assert found["mean_dice"] == pytest.approx((255 + 2 * fraction / (1 + fraction)) / 256)
    assert found["max_dice"] == 1 and found["mae"] == 0


def test_stretching_hides_confidence_so_a_faint_map_scores_as_a_sure_one() -> None:
    target = centred() > 0
    faint = to_grey(target.astype(np.float32) * 0.01)
    assert answers(sweep(faint, target)) == answers(sweep(centred(), target))


def test_a_constant_probability_map_is_stored_unstretched() -> None:
    assert to_grey(np.full((2, 2), 0.2)).tolist() == [[51, 51], [51, 51]]
    assert to_grey(np.array([[0.25, 0.5], [0.5, 0.75]])).tolist() == [[0, 128], [128, 255]]


def test_a_target_in_the_last_row_gives_a_number_where_the_original_gives_nan() -> None:
    target = np.zeros((6, 6), np.bool_)
    target[5, 2:4] = True
    assert 0.9 < sweep(target.astype(np.uint8) * 255, target).s <= 1


if __name__ == "__main__":  # record anew: python tests/test_pranet.py
    import py_sod_metrics

    warnings.simplefilter("ignore")
    asked = {number: ask_pysodmetrics(py_sod_metrics, *grey_case(number)) for number in range(CASES)}
    kept = {number: list(found.values()) for number, found in asked.items() if not np.isnan(found["s_measure"])}
    document = {"package": "pysodmetrics 1.6.2", "names": list(asked[0]), "answers": dict(list(kept.items())[:150])}
    RECORDED.write_text(json.dumps(document).replace("], ", "],\n") + "\n")
