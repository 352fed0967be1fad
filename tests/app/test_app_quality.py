"""Which pictures the app refuses, and why; where the field is; whether there is writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gps_seg.data.images import read_image
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.answer.burnt_in_text import burnt_in_text
from gps_seg_app.answer.quality import assess, visible_field

Pixels = NDArray[np.uint8]
PHANTOMS = [phantom(index)[0] for index in range(12)]
SHAPE = (288, 384, 3)


def bordered(pixels: Pixels, left: int = 100) -> Pixels:
    """The picture with a black border on the left."""
    return np.hstack([np.zeros((pixels.shape[0], left, 3), np.uint8), pixels])


def seeded(index: int = 0) -> np.random.Generator:
    return np.random.default_rng(index)


def screenshot() -> Pixels:
    page = np.full((480, 640, 3), 255, np.uint8)
    for row in range(20):
        cv2.putText(page, "The quick brown fox jumps over the lazy dog 0123", (10, 24 + 22 * row), 0, 0.5, (20, 20, 20), 1)
    return page


def landscape() -> Pixels:
    picture = np.zeros(SHAPE)
    picture[:140], picture[140:] = (90, 150, 230), (60, 140, 50)
    return np.clip(picture + seeded().normal(0, 12, SHAPE), 0, 255).astype(np.uint8)


def test_phantoms_are_assessable_at_every_size() -> None:
    for pixels in PHANTOMS:
        for side in (96, 384, 1920):
            found = assess(cv2.resize(pixels, (side, side * 3 // 4), interpolation=cv2.INTER_LINEAR))
            assert found.assessable and found.reason == "", (side, found.reason)
            assert found.field.shape == (side * 3 // 4, side) and not found.burnt_in_text


SPOILED: dict[str, tuple[Callable[[Pixels], Pixels], str]] = {
    "blurred": (lambda p: cv2.GaussianBlur(p, (0, 0), 12), "blurred."),
    "slightly more than out of focus": (lambda p: cv2.GaussianBlur(p, (0, 0), 6), "blurred."),
    "dark": (lambda p: (p * 0.08).astype(np.uint8), "too dark."),
    "clipped": (lambda p: np.clip(p.astype(np.int64) * 5, 0, 255).astype(np.uint8), "over-exposed."),
    "another light": (lambda p: np.ascontiguousarray(p[..., ::-1]), "the colours are not those of white-light endoscopy"),
    "grey": (lambda p: np.repeat(p[..., 1:2], 3, axis=2), "the colours are not those of white-light endoscopy"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_frame_is_refused_for_the_right_reason(name: str) -> None:
    spoil, reason = SPOILED[name]
    for pixels in PHANTOMS:
        found = assess(spoil(pixels))
        assert not found.assessable and found.reason.startswith(reason), found.reason


FOREIGN: dict[str, tuple[Pixels, str]] = {
    "black": (np.zeros(SHAPE, np.uint8), "too dark."),
    "white": (np.full(SHAPE, 255, np.uint8), "over-exposed."),
    "one red": (np.full(SHAPE, (180, 70, 60), np.uint8), "blurred."),
    "grey noise": (np.repeat(seeded().integers(0, 256, (288, 384, 1)), 3, axis=2).astype(np.uint8), "this does not look like"),
    "noise": (seeded().integers(0, 256, SHAPE).astype(np.uint8), "this does not look like an endoscopic image."),
    "screenshot": (screenshot(), "this does not look like an endoscopic image."),
    "landscape": (landscape(), "the colours are not those of white-light endoscopy"),
    "one pixel": (np.full((1, 1, 3), 128, np.uint8), "too small (1 x 1 pixels"),
    "a strip": (np.full((20, 4000, 3), 128, np.uint8), "too small (4000 x 20 pixels"),
    "32 pixels": (cv2.resize(PHANTOMS[0], (32, 32)), "too small (32 x 32 pixels"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_endoscopic_frame_is_refused(name: str) -> None:
    pixels, reason = FOREIGN[name]
    found = assess(pixels)
    assert not found.assessable and found.reason.startswith(reason), found.reason
    assert found.field.shape == pixels.shape[:2]


def test_a_black_border_and_a_position_display_are_not_visible_field_and_a_dark_lumen_is() -> None:
    pixels = bordered(np.full(SHAPE, (180, 90, 70), np.uint8) + seeded().integers(0, 9, SHAPE).astype(np.uint8))
    pixels[120:170, 250:300] = seeded().integers(0, 12, (50, 50, 3))  # lumen
    pixels[208:, :100] = (45, 185, 145)
    cv2.line(pixels, (30, 220), (60, 280), (20, 20, 20), 2)
    found = visible_field(pixels)
    assert not found[:, :96].any() and found[:, 104:].mean() > 0.99 and found[120:170, 250:300].all()


def test_a_black_notch_in_the_picture_is_left_out() -> None:
    pixels = np.full(SHAPE, (180, 90, 70), np.uint8) + seeded().integers(0, 9, SHAPE).astype(np.uint8)
    pixels[200:, :120] = 0
    assert not visible_field(pixels)[206:, :114].any()


def test_writing_is_noticed_over_black_and_over_mucosa_and_seldom_elsewhere() -> None:
    hits = 0
    for index, pixels in enumerate(PHANTOMS):
        large = bordered(cv2.resize(pixels, (1280, 960), interpolation=cv2.INTER_CUBIC), 200)
        assert not burnt_in_text(large) and not burnt_in_text(pixels)
        for place in ((8, 60), (500, 300 + 40 * index)):
            written = large.copy()
            cv2.putText(written, "DOE 12/03/1950", place, 0, 0.7, (230, 230, 230), 1 + index % 2, cv2.LINE_AA)
            hits += burnt_in_text(written)
    assert hits >= 22  # of 24


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kvasir-seg-352/images", "polypgen-640/images", "wce-bleeding-224"])
def test_real_frames_are_assessable(name: str) -> None:
    """The limits were set on the first two sets; the third, of another kind of endoscope, they never saw."""
    folder = Path(os.environ.get("GPS_SEG_DATA", "data")) / name
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    if not files:
        pytest.skip(f"{name} is not here: set GPS_SEG_DATA")
    good = [assess(read_image(file)).assessable for file in files[:: max(1, len(files) // 60)]]
    assert np.mean(good) >= 0.97
