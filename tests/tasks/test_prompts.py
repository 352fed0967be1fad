"""Prompts: what a person may not mean is refused, what a simulated one does follows from the truth."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from gps_seg.errors import ConfigError
from gps_seg.tasks.segmentation.prompts import Box, Click, check_prompts, drawn_click, jittered_box, kind_at, next_click

Mask = NDArray[np.bool_]
masks = arrays(np.bool_, (9, 12))


def disc(centre: tuple[int, int], radius: float, shape: tuple[int, int] = (40, 60)) -> Mask:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def depth_by_hand(mask: Mask) -> NDArray[np.float64]:
    """The distance of each pixel to every pixel that is not in the mask, one ring outside the picture included."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    found = np.zeros(mask.shape)
    for row, column in np.argwhere(mask):
        found[row, column] = np.hypot(*(outside - (row + 1, column + 1)).T).min()
    return found


@given(masks, masks)
def test_the_next_click_is_the_deepest_pixel_of_the_largest_error(predicted: Mask, target: Mask) -> None:
    click = next_click(predicted, target)
    regions = []
    for error, label in ((target & ~predicted, 1), (predicted & ~target, 0)):
        numbers, count = ndimage.label(error, np.ones((3, 3)))
        regions += [(np.count_nonzero(numbers == number), numbers == number, label) for number in range(1, count + 1)]
    if click is None:
        assert not regions
        return
    x, y, label = int(click.x), int(click.y), click.label
    chosen = next(region for _, region, own in regions if own == label and region[y, x])
    assert np.count_nonzero(chosen) == max(size for size, *_ in regions)
    depth = depth_by_hand(chosen)
    assert depth[y, x] == pytest.approx(depth.max())
    assert label == int(target[y, x])


def test_a_person_who_clicks_again_chooses_another_pixel_and_stops_where_none_is_left() -> None:
    target = disc((20, 20), 9)
    empty = np.zeros_like(target)
    first = next_click(empty, target)
    assert first == Click(20, 20, 1)
    second = next_click(empty, target, [first])
    assert second is not None and second != first and abs(second.x - 20) + abs(second.y - 20) <= 2
    single = disc((5, 5), 0)
    assert next_click(np.zeros_like(single), single, [Click(5, 5, 1)]) is None
    assert next_click(target, target) is None


def test_what_is_missed_is_clicked_as_polyp_and_what_is_false_as_not() -> None:
    target, predicted = disc((20, 15), 6), disc((20, 45), 9)
    assert next_click(predicted, target) == Click(45, 20, 0)
    assert next_click(predicted, target | disc((20, 15), 12)) == Click(15, 20, 1)


def test_a_polyp_at_the_picture_s_edge_is_clicked_inside_of_it() -> None:
    target = np.zeros((20, 30), np.bool_)
    target[:, :10] = True
    click = next_click(np.zeros_like(target), target)
    assert click is not None and 4 <= click.x <= 5 and 4 <= click.y <= 15


@given(masks, st.integers(0, 99))
def test_a_drawn_click_lies_in_the_polyp_and_an_empty_frame_has_none(target: Mask, seed: int) -> None:
    click = drawn_click(target, random.Random(seed))
    assert (click is None) == (not target.any())
    assert click is None or (target[int(click.y), int(click.x)] and click.label == 1)


def test_drawn_clicks_gather_in_the_middle() -> None:
    target = disc((20, 30), 15)
    chance = random.Random(0)
    drawn = [drawn_click(target, chance) for _ in range(2000)]
    away = [np.hypot(click.x - 30, click.y - 20) for click in drawn if click]
    assert np.mean(away) == pytest.approx(15 / 2, abs=0.5)  # evenly drawn pixels would be two thirds of the radius away
    assert max(away) > 12


@given(masks, st.floats(0, 0.5), st.integers(0, 99))
def test_a_jittered_box_stays_in_the_picture_and_moves_no_edge_too_far(target: Mask, jitter: float, seed: int) -> None:
    box = jittered_box(target, jitter, random.Random(seed))
    if box is None:
        assert not target.any()
        return
    rows, columns = np.nonzero(target)
    for low, high, places, most in ((box[0], box[2], columns, 11), (box[1], box[3], rows, 8)):
        reach = jitter * (places.max() - places.min() + 1) + 1e-9
        assert 0 <= low <= high <= most
        assert abs(low - places.min()) <= reach or abs(low - places.max()) <= reach
        assert abs(high - places.max()) <= reach or abs(high - places.min()) <= reach
    if jitter == 0:
        assert box == (columns.min(), rows.min(), columns.max(), rows.max())


def test_kinds_are_drawn_by_seed_and_step_in_the_shares_asked_for() -> None:
    kinds = [kind_at(step, 7, box=0.3, clicks=0.5) for step in range(4000)]
    assert kinds == [kind_at(step, 7, box=0.3, clicks=0.5) for step in range(4000)]
    shares = {kind: kinds.count(kind) / 4000 for kind in ("none", "box", "clicks")}  # type: ignore[arg-type]
    assert shares == pytest.approx({"none": 0.2, "box": 0.3, "clicks": 0.5}, abs=0.03)
    assert {kind_at(step, 7, box=0, clicks=0) for step in range(99)} == {"none"}
    assert {kind_at(step, 7, box=0, clicks=1) for step in range(99)} == {"clicks"}


@pytest.mark.parametrize(("box", "clicks", "text"), [
    (None, [Click(60, 5, 1)], "expected clicks in the picture of 60 x 40 pixels, got one at x 60, y 5: click on the picture"),
    (None, [Click(5, -1, 1)], "got one at x 5, y -1"),
    (None, [Click(float("nan"), 5, 1)], "got one at x nan, y 5"),
    (None, [Click(5, 5, 2)], r"expected clicks of label 1 \(polyp\) or 0 \(not polyp\), got 2"),
    (None, [Click(5, 5, 1), Click(9, 9, 1), Click(5.4, 4.6, 0)], "expected one label a pixel, got x 5, y 5 clicked as polyp"),
    ((5, 5, 5, 9), [], "expected a box with an area, got x 5 to 5, y 5 to 9: draw it from its upper left"),
    ((5, 9, 7, 5), [], "expected a box with an area, got x 5 to 7, y 9 to 5"),
    ((5, 5, float("nan"), 9), [], "expected a box with an area"),
    ((70, 5, 90, 9), [], "expected a box in the picture of 60 x 40 pixels, got x 70 to 90"),
    ((5, 5, float("inf"), 9), [], "expected a box in the picture"),
])
def test_prompts_that_nobody_can_mean_are_one_clear_line(box: Box | None, clicks: list[Click], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        check_prompts((40, 60), box=box, clicks=clicks)
    assert "\n" not in str(caught.value)


def test_ordinary_prompts_pass() -> None:
    check_prompts((40, 60))
    check_prompts((40, 60), box=(-3, 5, 59.5, 30), clicks=[Click(0, 0, 1), Click(59, 39, 0), Click(59, 39, 0), Click(0, 1, 0)])
