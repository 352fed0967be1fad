"""The drawn picture: lossless outside its layers."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np

from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.answer.quality import assess
from gps_seg_app.answer.regions import Finding, find
from gps_seg_app.answer.render import CYAN, HALO, contours, line_width

PIXELS, MASK = phantom(1)
PROBABILITY = cv2.GaussianBlur(MASK.astype(np.float32), (0, 0), 4)


def finding() -> Finding:
    return find(PROBABILITY, 0.5, assess(PIXELS))


def near(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Within so many pixels of the outline of a mask."""
    inside = mask.astype(np.uint8)
    kernel = np.ones((2 * pixels + 1,) * 2, np.uint8)
    return (cv2.dilate(inside, kernel) - cv2.erode(inside, kernel)) > 0


def test_pixels_away_from_the_contour_and_its_numbers_keep_their_value() -> None:
    found = finding()
    drawn = contours(PIXELS, found)
    changed = (drawn != PIXELS).any(axis=2)
    allowed = near(found.mask, 5 * line_width(PIXELS))
    for region in found.regions:
        allowed[max(0, region.box[1] - 30) : region.box[1] + 30, max(0, region.box[0] - 4) : region.box[0] + 30] = True
    assert found.regions and changed.any() and not (changed & ~allowed).any()
    assert drawn.dtype == np.uint8 and drawn is not PIXELS
    assert (drawn == CYAN).all(axis=2).any() and (drawn == HALO).all(axis=2).any()


def test_nothing_is_drawn_where_nothing_was_found() -> None:
    empty = find(np.zeros(MASK.shape, np.float32), 0.5, assess(PIXELS))
    assert np.array_equal(contours(PIXELS, empty, fill=1.0, heat=1.0, probability=np.zeros(MASK.shape, np.float32)), PIXELS)


def test_the_fill_stays_inside_and_follows_its_opacity() -> None:
    found = finding()
    core = cv2.erode(found.mask.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    for region in found.regions:
        core[max(0, region.box[1] - 30) : region.box[1] + 30, max(0, region.box[0] - 4) : region.box[0] + 30] = False
    half = contours(PIXELS, found, fill=0.5)
    expected = np.round(PIXELS * 0.5 + np.array(CYAN) * 0.5)
    assert core.any() and np.abs(half[core].astype(float) - expected[core]).max() <= 1
    assert (contours(PIXELS, found, fill=1.0)[core] == CYAN).all()
    away = ~found.mask & ~near(found.mask, 40)
    assert np.array_equal(half[away], PIXELS[away])


def test_the_heat_map_is_not_stretched_and_leaves_what_is_improbable() -> None:
    empty = find(np.zeros(MASK.shape, np.float32), 0.5, assess(PIXELS))
    for value in (0.3, 0.6):
        drawn = contours(PIXELS, empty, heat=1.0, probability=np.where(MASK, np.float32(value), np.float32(0.01)))
        color = cv2.applyColorMap(np.array([[int(value * 255)]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0, ::-1]
        assert (drawn[MASK] == color).all() and np.array_equal(drawn[~MASK], PIXELS[~MASK])


def test_the_input_is_not_changed_and_tiny_pictures_can_be_drawn_on() -> None:
    before = PIXELS.copy()
    contours(PIXELS, finding(), fill=0.5, heat=0.5, probability=PROBABILITY)
    assert np.array_equal(PIXELS, before)
    small = np.full((8, 8, 3), 127, np.uint8)
    found = find(np.full((8, 8), 0.9, np.float32), 0.5, assess(small), np.eye(8, dtype=np.bool_))
    assert contours(small, found, fill=0.3).shape == small.shape


def test_looking_and_drawing_load_no_torch() -> None:
    code = ("import sys, gps_seg_app.answer.render, gps_seg_app.answer.quality, gps_seg_app.answer.regions, "
            "gps_seg_app.intake.pictures, gps_seg.metrics.temperature;"
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
