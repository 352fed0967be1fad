"""What clicks buy: means after some, clicks to a goal, their place in reports and tables."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from gps_seg.data.maps import Prediction
from gps_seg.errors import ConfigError, GpsSegError
from gps_seg.metrics.clicks import Clicks, click_scores, summarise
from gps_seg.metrics.contradictions import check_document
from gps_seg.metrics.measures import BlockScore, score_blocks
from gps_seg.metrics.paired import compare_methods
from gps_seg.metrics.report import report
from gps_seg.metrics.statistics import mean_interval
from gps_seg.metrics.tables import headline, latex, markdown, table

TARGET = np.zeros((20, 30), np.bool_)
TARGET[:10] = True
EMPTY = np.zeros_like(TARGET)


def after(clicks: int, *, speed: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask that holds more of the target's 300 pixels with every click."""
    mask = EMPTY.copy()
    mask.ravel()[: min(300, round(300 * (1 - np.exp(-speed * clicks))))] = True
    return mask


def scored(name: str, speed: float, target: np.ndarray[Any, np.dtype[np.bool_]] = TARGET) -> BlockScore:
    masks = [after(number, speed=speed) for number in range(1, 21)]
    score = score_blocks(name, Prediction(masks[0].astype(np.float32)), target)
    return BlockScore(**{**vars(score), "clicks": click_scores(masks, target)})


@pytest.fixture
def document() -> dict[str, Any]:
    scores = [scored("quick", 2.0), scored("slow", 0.3), scored("never", 0.01), scored("none", 0.5, EMPTY)]
    return report(scores, settings={"prompt": "1 click simulated from the truth"}, resamples=500)


def test_scores_after_clicks_and_clicks_to_a_goal_equal_those_by_hand() -> None:
    found = click_scores([after(number, speed=0.3) for number in range(1, 21)], TARGET)
    parts = [round(300 * (1 - np.exp(-0.3 * number))) / 300 for number in range(1, 21)]
    assert found.iou == pytest.approx(parts) and found.dice == pytest.approx([2 * part / (1 + part) for part in parts])
    assert found.needed("iou_90") == next(number for number, part in enumerate(parts, 1) if part >= 0.9)
    assert found.needed("dice_95") == next(number for number, part in enumerate(parts, 1) if 2 * part / (1 + part) >= 0.95)
    assert Clicks((0.96, 0.5), (0.93, 0.3)).needed("iou_90") == 1  # reached is reached, whatever the next click spoils


def test_images_that_never_get_there_count_as_twenty_and_frames_without_a_polyp_not_at_all(document: dict[str, Any]) -> None:
    found, rows = document["clicks"], {row["id"]: row for row in document["images"]}
    assert (found["images"], found["most"], found["never_iou_90"], found["never_dice_95"]) == (3, 20, 1, 1)
    assert rows["never"]["noc_iou_90"] == 20 and rows["none"]["noc_iou_90"] is rows["none"]["dice_after_1"] is None
    for name in ("dice_after_1", "iou_after_5", "noc_iou_90", "noc_dice_95"):
        values = [rows[image][name] for image in ("quick", "slow", "never")]
        assert found[name] == pytest.approx(np.mean(values))
        low, high = document["intervals"]["clicks"][name]
        assert low <= found[name] <= high


def test_the_intervals_are_those_of_the_other_means() -> None:
    scores = [scored(str(number), 0.1 + number / 10) for number in range(12)]
    made = report(scores, settings={}, resamples=500)
    expected = mean_interval([score.clicks.dice[2] for score in scores if score.clicks], resamples=500)
    assert made["intervals"]["clicks"]["dice_after_3"] == pytest.approx(expected)
    assert made["clicks"]["dice_after_1"] == pytest.approx(made["per_image"]["dice"])


def test_a_set_of_empty_frames_has_no_clicks_to_average() -> None:
    made = report([scored("a", 0.5, EMPTY), scored("b", 0.5, EMPTY)], settings={}, resamples=50)
    assert made["clicks"] == {"images": 0, "most": 20, "never_iou_90": 0, "never_dice_95": 0} == summarise([Clicks(), Clicks()])
    assert "0 of 0 (IoU 0.90)" in table(made)


def test_tables_and_headline_say_what_was_simulated(document: dict[str, Any]) -> None:
    text = table(document)
    assert "NoC@90 (IoU 0.90)" in text and "clicks to Dice 0.95" in text and "Dice, 3 clicks" in text
    assert "at most 20, which is also what an image counts that never gets there: 1 of 3 (IoU 0.90), 1 (Dice 0.95)" in text
    assert headline(document).endswith("(per_image, 4 images, prompt: 1 click simulated from the truth)")
    assert "| clicks | NoC@90 (IoU 0.90) |" in markdown(document) and "clicks to Dice 0.95" in latex(document)


def test_numbers_of_clicks_that_contradict_each_other_are_refused(document: dict[str, Any]) -> None:
    for name, value, text in (("iou_after_3", 0.999, "clicks: mean IoU"), ("dice_after_1", 1.5, "outside of 0 to 1"),
                              ("noc_iou_90", -1, "outside of what can be")):
        wrong = copy.deepcopy(document)
        wrong["clicks"][name] = value
        with pytest.raises(GpsSegError, match=text):
            check_document(wrong)


def test_scores_of_different_prompts_are_not_compared(document: dict[str, Any]) -> None:
    other = copy.deepcopy(document)
    del other["settings"]["prompt"]
    with pytest.raises(ConfigError, match="expected reports of one prompt, got a: 1 click simulated from the truth; b: none"):
        compare_methods({"a": [document], "b": [other]})
    fewer = copy.deepcopy(document)
    fewer["images"] = [row for row in document["images"] if row["id"] != "none"]
    found = compare_methods({"a": [fewer], "b": [fewer]}, metric="noc_iou_90", resamples=50)
    assert found["higher_is_worse"] and found["pairs"][0]["difference"] == 0
