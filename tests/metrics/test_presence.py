"""Is there a polyp at all: ranks, sensitivities and cuts against slow counting, and what stands in a report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gps_seg.data.maps import Prediction
from gps_seg.metrics.lesions import auroc
from gps_seg.metrics.measures import BlockScore, score_blocks
from gps_seg.metrics.presence import SPECIFICITIES, evidence, presence_point, tell
from gps_seg.metrics.report import report
from gps_seg.metrics.statistics import resample, weights
from gps_seg.metrics.tables import headline, markdown, table

values = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]), min_size=1, max_size=12)


def slow_sensitivity(positives: list[float], negatives: list[float], level: float) -> float:
    """At the lowest cut, among the values there are, with so many of the others below it."""
    for cut in sorted({*positives, *negatives}):
        if sum(value < cut for value in negatives) / len(negatives) >= level:
            return sum(value >= cut for value in positives) / len(positives)
    return 0.0


@given(values, values)
def test_ranks_and_sensitivities_are_those_of_plain_counting(positives: list[float], negatives: list[float]) -> None:
    value = np.array([*positives, *negatives])
    polyp = np.arange(len(value)) < len(positives)
    found, sensitivities = tell(np.ones((1, len(value))), polyp, value)
    assert found[0] == pytest.approx(auroc(positives, negatives))
    for level, sensitivity in zip(SPECIFICITIES, sensitivities, strict=True):
        assert sensitivity[0] == pytest.approx(slow_sensitivity(positives, negatives, level))


@given(values, values, st.integers(0, 99))
def test_a_weight_counts_as_so_many_frames(positives: list[float], negatives: list[float], seed: int) -> None:
    value = np.array([*positives, *negatives])
    polyp = np.arange(len(value)) < len(positives)
    drawn = np.random.default_rng(seed).integers(0, 3, (1, len(value)))
    drawn[0, [0, -1]] += 1
    repeated = np.repeat(np.arange(len(value)), drawn[0])
    weighted, plain = tell(drawn, polyp, value), tell(np.ones((1, len(repeated))), polyp[repeated], value[repeated])
    assert weighted[0][0] == pytest.approx(plain[0][0]) and weighted[1][0][0] == pytest.approx(plain[1][0][0])


def test_the_weights_are_the_samples_of_the_other_intervals() -> None:
    column = np.random.default_rng(0).random((9, 1))
    for groups in (None, list("aabbbcdde")):
        drawn = np.concatenate(list(weights(9, groups, resamples=50)))
        np.testing.assert_allclose(drawn @ column, resample(column, groups, resamples=50))


@given(values, values)
def test_no_other_cut_answers_more_frames_rightly(positives: list[float], negatives: list[float]) -> None:
    found = presence_point(positives, negatives)
    kept = [sum(value >= cut for value in positives) / len(positives) for cut in (found.threshold, *np.linspace(0, 1, 101))]
    refused = [sum(value < cut for value in negatives) / len(negatives) for cut in (found.threshold, *np.linspace(0, 1, 101))]
    assert (found.kept, found.refused, found.frames) == (pytest.approx(kept[0]), pytest.approx(refused[0]), len(negatives))
    assert found.kept + found.refused >= max(a + b for a, b in zip(kept[1:], refused[1:], strict=True)) - 1e-9


def test_between_frames_that_are_told_apart_the_cut_is_in_the_middle() -> None:
    found = presence_point([0.7, 0.8, 0.9], [0.1, 0.3])
    assert found.threshold == pytest.approx(0.5) and found.kept == found.refused == 1


# In a report


def frame(number: int, *, polyp: bool, quality: float, center: int, answered: bool) -> BlockScore:
    target = np.zeros((40, 40), np.bool_)
    target[5:25, 5:25] = polyp
    probability = np.full((40, 40), 0.1, np.float32)
    probability[5:20, 5:25] = 0.9 if answered else 0.3
    score = score_blocks(f"frame_{number:02d}", Prediction(probability), target)
    return replace(score, evidence=evidence(probability, 0.5, quality), center=center)


def frames() -> list[BlockScore]:
    return [frame(number, polyp=number % 3 > 0, quality=0.2 + 0.05 * number * (number % 3 > 0), center=1 + number % 2,
                  answered=number % 5 > 0) for number in range(24)]


def test_the_negatives_block_says_how_well_frames_are_told_apart_and_what_the_run_did() -> None:
    found = report(frames(), settings={}, resamples=300)
    block, ends = found["negatives"], found["intervals"]["negatives"]
    assert block["frames"] == 8 and 0.9 < block["quality_auroc"] <= 1 and block["area_auroc"] == block["presence_auroc"]
    positives = [row for row in found["images"] if row["tp"] + row["fn"]]
    assert block["polyps_answered"] == pytest.approx(np.mean([row["tp"] + row["fp"] > 0 for row in positives]))
    assert block["polyps_met"] == block["polyps_answered"]
    assert block["polyps_dice"] == pytest.approx(np.mean([row["dice"] for row in positives])) and 0 < block["polyps_dice"] < 1
    for name in ("quality_auroc", "presence_auroc", "area_auroc", "quality_sensitivity_90", "confidence_sensitivity_95",
                 "area_sensitivity_90", "polyps_answered", "polyps_met", "polyps_dice"):
        assert ends[name][0] <= block[name] <= ends[name][1], name
    shown = table(found)
    assert "quality AUROC" in shown and "quality, sens. at 90 %" in shown and "quality AUROC" in markdown(found)
    assert all("presence" in row and row["center"] in (1, 2) for row in found["images"])


def test_without_a_trained_quality_a_report_speaks_of_none() -> None:
    plain = [replace(score, evidence=replace(score.evidence, quality=None), center=None)  # type: ignore[type-var]
             for score in frames()]
    found = report(plain, settings={}, resamples=50)
    assert not [name for name in found["negatives"] if name.startswith("quality")] and "area_auroc" in found["negatives"]
    assert not [row for row in found["images"] if {"presence", "center"} & set(row)]


def test_hard_masks_have_no_probabilities_to_rank_by() -> None:
    hard = [score_blocks(str(number), Prediction(np.zeros((8, 8), np.float32), is_map=False), np.full((8, 8), number > 1))
            for number in range(4)]
    block = report(hard, settings={}, resamples=20)["negatives"]
    assert "presence_auroc" not in block and block["area_auroc"] == 0.5


def test_frames_of_centers_that_trained_stand_apart_and_the_headline_speaks_of_the_others() -> None:
    scores = frames()
    found: dict[str, Any] = report(scores, settings={"trained_centers": [1]}, resamples=200)
    alone = report([score for score in scores if score.center == 2], settings={}, resamples=200)
    apart = found["unseen_centers"]
    assert apart["centers"] == [2] and apart["n"] == 12
    assert {name: apart[name] for name in alone["negatives"]} == alone["negatives"]
    assert found["intervals"]["unseen_centers"].keys() == alone["intervals"]["negatives"].keys()
    assert found["intervals"]["unseen_centers"]["quality_auroc"] == alone["intervals"]["negatives"]["quality_auroc"]
    assert (f"; unseen centers 2: {100 * apart['specificity']:.1f} % of 4 frames without a polyp answered with none, the polyp "
            f"met in {100 * apart['polyps_met']:.1f} % of the others") in headline(found)
    assert "unseen_centers" not in report(scores, settings={"trained_centers": [1, 2]}, resamples=20)
    assert "unseen" not in headline(alone)
    grouped = report(scores, settings={"trained_centers": [1]}, groups=[str(number // 4) for number in range(24)], resamples=50)
    assert grouped["intervals"]["unseen_centers"]
