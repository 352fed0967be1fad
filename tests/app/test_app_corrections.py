from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from gps_seg.cli import app
from gps_seg.data.images import read_image, read_mask
from gps_seg_app.answer.edits import Edits
from gps_seg_app.export.training_pairs import LEAST_PAIRS, count_pairs, finetune_command, save_pair
from gps_seg_app.inference.model_card import card
from gps_seg_app.limits import AppError
from support.answers import scene

EMPTY = np.zeros((40, 60), np.bool_)


def slow_disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:40, :60]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def slow_line(points: list[tuple[int, int]], radius: float) -> NDArray[np.bool_]:
    """Dense discs along the line."""
    found = EMPTY.copy()
    for (x, y), (other_x, other_y) in pairwise(points):
        for part in np.linspace(0, 1, 200):
            found |= slow_disc(x + part * (other_x - x), y + part * (other_y - y), radius)
    return found


@given(st.integers(-20, 80), st.integers(-20, 60), st.integers(1, 25))
def test_a_dot_paints_exactly_the_pixels_within_the_radius_also_from_outside_the_picture(x: int, y: int, radius: int) -> None:
    assert np.array_equal(Edits.start(EMPTY).stroke([(x, y)], radius, add=True).mask, slow_disc(x, y, radius))


def test_a_stroke_paints_all_along_its_line_to_within_a_pixel() -> None:
    points = [(5, 5), (50, 20), (30, 35)]
    drawn = Edits.start(EMPTY).stroke(points, 4, add=True).mask
    assert not (slow_line(points, 3.2) & ~drawn).any() and not (drawn & ~slow_line(points, 4.8)).any()


def test_erasing_takes_away_what_painting_added() -> None:
    painted = Edits.start(EMPTY).stroke([(20, 20)], 9, add=True)
    assert not painted.stroke([(20, 20)], 10, add=False).mask.any()


def test_no_step_changes_the_one_before() -> None:
    first = Edits.start(EMPTY).stroke([(10, 10)], 5, add=True)
    before = first.mask.copy()
    first.stroke([(30, 30)], 5, add=True).stroke([(9, 9)], 4, add=False)
    assert np.array_equal(first.mask, before)
    with pytest.raises(ValueError, match="read-only"):
        first.mask[0, 0] = True


def test_edited_and_dice_compare_with_the_models_mask() -> None:
    edits = Edits.start(slow_disc(20, 20, 10))
    assert not edits.edited and edits.dice == 1.0
    halved = edits.replace(edits.mask & (np.arange(60) < 20))
    both = np.count_nonzero(halved.mask)
    assert halved.edited and halved.dice == pytest.approx(2 * both / (both + np.count_nonzero(edits.mask)))
    assert Edits.start(EMPTY).dice == 1.0


@pytest.mark.parametrize(
    ("points", "radius"), [([], 3), ([(1, 1)], 0), ([(1, 1)], 1e9), ([(float("nan"), 1)], 3), ([(1, 1)] * 20_001, 3)])
def test_a_stroke_that_cannot_be_one_is_refused(points: list[tuple[float, float]], radius: float) -> None:
    with pytest.raises(AppError, match="Expected a brush stroke"):
        Edits.start(EMPTY).stroke(points, radius, add=True)


def test_a_stroke_far_outside_the_picture_touches_nothing() -> None:
    assert not Edits.start(EMPTY).stroke([(1e12, -1e12), (1e12, 1e12)], 5, add=True).mask.any()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(AppError, match="Expected a mask of 60 x 40 pixels, got 40 x 60"):
        Edits.start(EMPTY).replace(EMPTY.T)
    with pytest.raises(AppError, match="Expected a mask of 160 x 120 pixels"):
        save_pair(Path("nowhere"), scene()[0], EMPTY)


def test_a_saved_pair_is_lossless_and_without_metadata(tmp_path: Path) -> None:
    pixels, probability = scene()
    saved = save_pair(tmp_path, pixels, probability > 0.5)
    image, mask = tmp_path / "images" / f"{saved.name}.png", tmp_path / "masks" / f"{saved.name}.png"
    assert np.array_equal(read_image(image), pixels) and np.array_equal(read_mask(mask), probability > 0.5)
    for path in (image, mask):
        with Image.open(path) as opened:
            opened.load()
            assert opened.info == {}


def test_the_same_picture_replaces_its_mask_and_another_never_does(tmp_path: Path) -> None:
    pixels, probability = scene()
    first = save_pair(tmp_path, pixels, probability > 0.5)
    again = save_pair(tmp_path, pixels.copy(), probability > 2)
    other = save_pair(tmp_path, scene(3)[0], probability > 0.5)
    assert (first.replaced, again.replaced, other.replaced) == (False, True, False)
    assert first.name == again.name != other.name and count_pairs(tmp_path) == 2
    assert not read_mask(tmp_path / "masks" / f"{first.name}.png").any()


def test_a_folder_that_cannot_be_written_is_one_sentence_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("in the way")
    pixels, probability = scene()
    with pytest.raises(AppError, match="cannot be written: check its rights") as raised:
        save_pair(tmp_path, pixels, probability > 0.5)
    assert str(tmp_path) not in str(raised.value) and not list((tmp_path / "masks").iterdir())


def test_saved_pairs_pass_the_check_and_the_shown_command_trains_on_them(tmp_path: Path) -> None:
    folder = tmp_path / "corrected pictures"  # a blank in the path must survive the shell
    for index in range(LEAST_PAIRS + 2):
        pixels, probability = scene(index)
        save_pair(folder, pixels, probability > 0.5)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {name: tiny, input_size: 64}\n"
        "data: {name: kvasir-seg, train_images: 100, near_duplicates: ignore}\n"
        "train: {max_steps: 2, batch_size: 2, precision: fp32, warmup: 0}\n"
        "evaluate: {overlays: 0}\n"
        "device: cpu\n"
    )
    command = shlex.split(finetune_command(folder, config=config, out=tmp_path / "run"))
    assert command[0] == "gps-seg"
    trained = CliRunner().invoke(app, command[1:], catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    assert card(tmp_path / "run").data == "a local folder of images"
    checked = CliRunner().invoke(app, ["data", "check", str(folder)], catch_exceptions=False)
    assert checked.exit_code == 0 and "0 errors" in checked.output, checked.output
