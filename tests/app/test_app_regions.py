"""Regions, their numbers, and the three answers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gps_seg_app.answer.components import brightest, components, darkest
from gps_seg_app.answer.quality import Assessment
from gps_seg_app.answer.regions import NONE, SPECK_PERCENT, find

SHAPE = (120, 200)


def assessment(*, assessable: bool = True, field: np.ndarray | None = None) -> Assessment:
    seen = np.ones(SHAPE, np.bool_) if field is None else field
    return Assessment(assessable, "" if assessable else "too dark.", seen, burnt_in_text=False)


def blocks(*places: tuple[int, int, int, int], value: float = 0.9) -> np.ndarray:
    """A map that is ``value`` in the boxes (x0, y0, x1, y1) and 0.1 elsewhere."""
    found = np.full(SHAPE, 0.1, np.float32)
    for x0, y0, x1, y1 in places:
        found[y0:y1, x0:x1] = value
    return found


def test_the_numbers_of_a_region_are_those_of_its_pixels() -> None:
    probability = blocks((20, 10, 60, 30))
    probability[10, 20] = 0.6
    found = find(probability, 0.5, assessment())
    (region,) = found.regions
    assert found.state == "found" and found.words == "Polyp-like regions: 1"
    assert region.area_px == 800 and region.box == (20, 10, 60, 30) and region.centroid == (39.5, 19.5)
    assert region.field_percent == pytest.approx(100 * 800 / 24_000) and region.diameter_px == pytest.approx(31.915, abs=1e-3)
    assert region.confidence == pytest.approx((799 * 0.9 + 0.6) / 800) and region.least_confidence == pytest.approx(0.6)
    assert region.position == "upper left" and np.array_equal(found.mask, probability > 0.5)


def test_regions_are_numbered_by_size_and_percent_is_of_the_visible_field() -> None:
    field = np.zeros(SHAPE, np.bool_)
    field[:, 100:] = True
    found = find(blocks((110, 5, 130, 25), (150, 60, 190, 100)), 0.5, assessment(field=field))
    assert [region.id for region in found.regions] == [1, 2] and found.words == "Polyp-like regions: 2"
    assert [region.area_px for region in found.regions] == [1600, 400]
    assert found.regions[0].field_percent == pytest.approx(100 * 1600 / 12000)
    assert [region.position for region in found.regions] == ["right", "upper left"]


@pytest.mark.parametrize(("x", "y", "words"), [
    (100, 60, "centre"), (100, 5, "upper centre"), (100, 115, "lower centre"), (5, 60, "left"), (195, 60, "right"),
    (5, 5, "upper left"), (195, 115, "lower right"),
])
def test_positions_are_words(x: int, y: int, words: str) -> None:
    assert find(blocks((x - 4, y - 4, x + 4, y + 4)), 0.5, assessment()).regions[0].position == words


def test_specks_and_what_lies_outside_the_field_are_dropped_and_said_to_be_none() -> None:
    field = np.ones(SHAPE, np.bool_)
    field[:, :50] = False
    least = SPECK_PERCENT / 100 * field.sum()
    speck = find(blocks((100, 60, 103, 63)), 0.5, assessment(field=field))
    assert least > 8 and speck.state == "found"  # nine pixels are just enough
    assert find(blocks((100, 60, 102, 62)), 0.5, assessment(field=field)).state == "none"
    outside = find(blocks((5, 5, 45, 45)), 0.5, assessment(field=field))
    assert outside.state == "none" and outside.words == NONE and not outside.mask.any() and outside.regions == ()
    assert "does not exclude a polyp" in NONE


def test_a_picture_that_is_not_assessable_gets_no_regions() -> None:
    found = find(blocks((20, 10, 60, 30)), 0.5, assessment(assessable=False))
    assert found.state == "not_assessable" and found.words == "Not assessable: too dark."
    assert found.regions == () and not found.mask.any()


def test_a_corrected_mask_is_taken_as_drawn_even_where_the_model_may_not_judge() -> None:
    mask = np.zeros(SHAPE, np.bool_)
    mask[10:12, 10:12] = mask[50:90, 50:90] = True
    found = find(blocks(), 0.5, assessment(assessable=False), mask)
    assert found.state == "found" and len(found.regions) == 2 and np.array_equal(found.mask, mask)
    assert found.words == "Corrected by hand: 2 regions. The picture itself is not assessable: too dark."
    assert {one.confidence for one in found.regions} == {None}
    empty = find(blocks((20, 10, 60, 30)), 0.5, assessment(), np.zeros(SHAPE, np.bool_))
    assert empty.state == "none" and empty.words == "Corrected by hand: no region. This does not exclude a polyp."


def test_confidences_are_the_models_own_whatever_points_have_moved() -> None:
    moved, own = blocks((20, 10, 60, 30)), np.full(SHAPE, 0.25, np.float32)
    found = find(moved, 0.5, assessment(), own=own, prompted=True)
    assert found.words == "With your marks: 1 region."
    assert (found.regions[0].confidence, found.regions[0].least_confidence) == (0.25, 0.25)


def test_an_outline_is_the_more_uncertain_the_flatter_the_probability_falls() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    away = 30 - np.hypot(y - 60, x - 100)
    widths = []
    for steepness in (4.0, 1.0, 0.25):
        probability = (1 / (1 + np.exp(-steepness * away))).astype(np.float32)
        widths.append(find(probability, 0.5, assessment()).regions[0].boundary_uncertainty)
    expected = 2 * np.log(3)  # pixels between probabilities 0.25 and 0.75 at steepness 1
    assert widths[0] < widths[1] < widths[2] and widths[1] == pytest.approx(expected, rel=0.2)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.8]))
def test_regions_and_mask_always_agree(seed: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    probability = np.kron(random.random((12, 20)), np.ones((10, 10))).astype(np.float32)
    found = find(probability, threshold, assessment())
    assert found.mask.sum() == sum(region.area_px for region in found.regions)
    assert not (found.mask & ~(probability > threshold)).any()
    assert (found.state == "found") == bool(found.regions)
    for region in found.regions:
        assert threshold < region.least_confidence <= region.confidence <= 1 and "mm" not in repr(region)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.6), st.integers(1, 40), st.integers(1, 40))
def test_parts_are_those_of_the_whole_picture_wherever_they_lie(seed: int, part: float, height: int, width: int) -> None:
    chance = np.random.default_rng(seed)
    mask = np.zeros((60, 70), np.bool_)
    top, left = chance.integers(0, 60 - height), chance.integers(0, 70 - width)
    mask[top : top + height, left : left + width] = chance.random((height, width)) < part
    count, labels, stats, centroids = components(mask)
    expected = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    assert count == expected[0] and np.array_equal(labels, expected[1]) and np.array_equal(stats[1:], expected[2][1:])
    assert np.allclose(centroids[1:], expected[3][1:], rtol=0, atol=1e-9)


def test_the_brightest_and_the_darkest_channel_are_numpys() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 21, 3), np.uint8)
    assert np.array_equal(brightest(pixels), pixels.max(axis=2)) and np.array_equal(darkest(pixels), pixels.min(axis=2))
