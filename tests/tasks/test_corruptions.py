"""Corruptions: what they do to pixels, and ``gps-seg evaluate --corruptions`` run for real."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gps_seg.errors import ConfigError
from gps_seg.tasks.segmentation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, field_of_view
from gps_seg.tasks.segmentation.phantom import phantom

NAMED = {"motion_blur", "defocus", "specular", "bubbles", "dark_border", "colour_shift", "jpeg", "noise", "interlace"}
Pixels = NDArray[np.uint8]


def change(image: Pixels, name: str, severity: int, id_: str = "a") -> float:
    """Mean absolute difference from the clean image, in grey values."""
    return float(np.abs(corrupt(image, name, severity, id_).astype(int) - image).mean())


def framed(size: tuple[int, int], index: int = 3) -> Pixels:
    """A scene in the black octagon of an endoscope's picture."""
    y, x = np.abs(np.linspace(-1, 1, size[0]))[:, None], np.abs(np.linspace(-1, 1, size[1]))[None]
    return np.clip(phantom(index, size=size)[0], 40, 255) * (x + y < 1.4).astype(np.uint8)[..., None]


def test_the_corruptions_of_the_issue_are_there_with_exposure() -> None:
    assert NAMED | {"over_exposure", "under_exposure"} == set(CORRUPTIONS)
    assert SEVERITIES == (1, 2, 3, 4, 5) and all(len(strengths) == 5 for _, strengths in CORRUPTIONS.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(32, 32), (32, 57), (190, 131), (352, 352)])
def test_each_severity_changes_more_than_the_one_before_at_any_size(name: str, size: tuple[int, int]) -> None:
    for image in (phantom(1, size=size)[0], framed(size)):
        before, steps = image.copy(), [0.0] + [change(image, name, severity) for severity in SEVERITIES]
        assert all(less < more for less, more in pairwise(steps)), steps
        assert np.array_equal(image, before)


@settings(max_examples=25)
@given(name=st.sampled_from(list(CORRUPTIONS)), severity=st.sampled_from(SEVERITIES), id_=st.text(max_size=8),
       height=st.integers(32, 90), width=st.integers(32, 90), level=st.integers(0, 255))
def test_any_image_keeps_its_size_and_type_even_a_flat_or_black_one(
    name: str, severity: int, id_: str, height: int, width: int, level: int
) -> None:
    for image in (np.full((height, width, 3), level, np.uint8), phantom(0, size=(height, width))[0]):
        found = corrupt(image, name, severity, id_)
        assert found.shape == image.shape and found.dtype == np.uint8


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_arguments_give_the_same_pixels_whatever_was_drawn_in_between(name: str) -> None:
    image = phantom(2, size=(96, 120))[0]
    first = corrupt(image, name, 3, "polyp_7", seed=1)
    np.random.default_rng(0).normal(size=10)
    corrupt(image[:, ::-1], name, 5, "another", seed=1)
    assert np.array_equal(first, corrupt(image.copy(), name, 3, "polyp_7", seed=1))


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"defocus", "jpeg", "over_exposure", "under_exposure"}))
def test_the_layout_depends_on_the_id_and_on_the_seed(name: str) -> None:
    image = phantom(2, size=(96, 120))[0]
    found = [corrupt(image, name, 4, id_, seed) for id_, seed in (("a", 0), ("b", 0), ("a", 1), ("c", 0), ("a", 2))]
    # interlace draws one of two directions and a slant, so that two of five may look alike, but not all
    assert sum(not np.array_equal(found[0], other) for other in found[1:]) >= 3


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"jpeg", "bubbles"}))
def test_an_image_of_twice_the_size_gets_about_the_same_artefact(name: str) -> None:
    small = cv2.GaussianBlur(framed((240, 300)), (0, 0), 1.2)
    large = cv2.resize(small, (600, 480), interpolation=cv2.INTER_CUBIC)
    # one id draws one random layout; the comparison is of the mean over several
    means = [np.mean([change(image, name, 4, str(id_)) for id_ in range(4)]) for image in (small, large)]
    assert means[1] == pytest.approx(means[0], rel=0.3)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"dark_border", "jpeg"}))
def test_the_black_surround_of_a_picture_stays_black_and_sharp(name: str) -> None:
    image = framed((180, 220))
    outside = ~field_of_view(image)
    assert 0.05 < outside.mean() < 0.3 and image[outside].max() < 50
    found = corrupt(image, name, 5, "a")
    assert found[(image == 0).all(axis=2)].max() == 0 and not np.array_equal(found[~outside], image[~outside])


def test_no_frame_of_unchanged_pixels_is_left_around_the_view() -> None:
    image = framed((180, 220))
    rim = cv2.erode((image.max(axis=2) > 0).astype(np.uint8), np.ones((5, 5)), borderValue=0) == 0
    for name in ("under_exposure", "over_exposure", "colour_shift"):
        off = np.abs(corrupt(image, name, 4, "a").astype(float) - image).mean(axis=2) / image.mean(axis=2).clip(1)
        assert off[rim & (image.max(axis=2) > 0)].mean() > 0.7 * off[~rim].mean()


def test_no_black_bleeds_into_the_view_under_blur() -> None:
    bright = np.full((160, 160, 3), 180, np.uint8)
    bright[:40, :40] = 0
    for name in ("motion_blur", "defocus", "interlace"):
        assert corrupt(bright, name, 5, "a")[field_of_view(bright)].min() >= 175


def test_each_corruption_does_what_its_name_says() -> None:
    image = phantom(1, size=(200, 260))[0]
    five = {name: corrupt(image, name, 5, "a").astype(float) for name in CORRUPTIONS}
    mean, white = image.mean(), (image.min(axis=2) > 240).mean()
    assert five["over_exposure"].mean() > 1.3 * mean and five["under_exposure"].mean() < 0.4 * mean

    def detail(picture: NDArray[np.floating]) -> float:
        return float(cv2.Laplacian(picture.mean(axis=2)[60:140, 80:180], cv2.CV_64F).std())

    sharp = detail(image.astype(float))
    assert detail(five["defocus"]) < 0.3 * sharp and detail(five["motion_blur"]) < 0.5 * sharp
    assert detail(five["noise"]) > 3 * sharp
    assert (five["specular"].min(axis=2) > 240).mean() > white + 0.03
    assert (five["dark_border"].max(axis=2) == 0).mean() > 0.2 and five["dark_border"][100, 130].max() > 20
    moved = np.abs(five["interlace"] - image).mean(axis=2)[60:140, 80:180]
    assert moved[::2].max() == 0 and moved[1::2].mean() > 1
    tint = five["colour_shift"].mean(axis=(0, 1)) / image.mean(axis=(0, 1))
    assert tint.max() / tint.min() > 1.4 and five["colour_shift"].mean() == pytest.approx(mean, rel=0.1)


def test_a_wrong_name_or_severity_or_image_is_one_line_that_says_what_is_right() -> None:
    image = phantom(0, size=(40, 40))[0]
    for wrong, right in (("motion-blur", "motion_blur"), ("color_shift", "colour_shift"), ("bubble", "bubbles")):
        with pytest.raises(ConfigError, match=f"unknown corruption '{wrong}', did you mean '{right}'?"):
            corrupt(image, wrong, 1, "a")
    with pytest.raises(ConfigError, match=r"unknown corruption 'qqqq' \(known: motion_blur, "):
        corrupt(image, "qqqq", 1, "a")
    for severity in (0, 6):
        with pytest.raises(ConfigError, match="expected 1 to 5"):
            corrupt(image, "noise", severity, "a")
    for bad in (image.astype(np.float32), image[..., 0], image[:4]):
        with pytest.raises(ConfigError, match="expected uint8 RGB"):
            corrupt(bad, "noise", 1, "a")  # type: ignore[arg-type]
