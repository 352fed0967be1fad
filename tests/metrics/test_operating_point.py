"""The threshold that the app begins with: the highest of those that are as good as the best."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gps_seg.errors import DataError
from gps_seg.metrics.operating_point import DICE_LOSS, FRAME_LOSS, GRID, operating_point

Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]


def blurred(seed: int, size: int = 24) -> Pair:
    """A disc, and probabilities that are right on the whole."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    x, y, radius = rng.uniform((6, 6, 2), (18, 18, 7))
    away = np.hypot(columns - x, rows - y) - radius
    return (1 / (1 + np.exp(away + rng.normal(0, 0.5, away.shape)))).astype(np.float32), away < 0


def dice(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    whole = int(mask.sum()) + int(target.sum())
    return 2 * int((mask & target).sum()) / whole if whole else 1.0


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_highest_threshold_among_the_good_ones_by_plain_counting(seed: int) -> None:
    images = [blurred(100 * seed + index) for index in range(8)]
    images.append((np.full((24, 24), 0.3, np.float32), np.zeros((24, 24), np.bool_)))  # no polyp: right above 0.3
    scores = np.array([[dice(probability > cut, target) for cut in GRID] for probability, target in images]).mean(0)
    met = np.array([[bool(((probability > cut) & target).any()) for cut in GRID] for probability, target in images[:-1]]).mean(0)
    as_good = [index for index in range(len(GRID)) if scores[index] >= scores.max() - DICE_LOSS]
    good = [index for index in as_good if met[index] >= met[as_good].max() - FRAME_LOSS]
    found = operating_point(iter(images))
    assert found.threshold == GRID[good[-1]] and found.threshold > 0.3
    assert found.dice == pytest.approx(scores[good[-1]]) and found.best_dice == pytest.approx(scores.max())
    assert found.found == pytest.approx(met[good[-1]])


def test_no_frame_is_given_up_for_a_higher_threshold() -> None:
    target = np.zeros((24, 24), np.bool_)
    target[4:18, 4:18] = True
    sure = [(np.where(target, 0.99, 0.01).astype(np.float32), target)] * 60
    faint = np.full((24, 24), 0.01, np.float32)
    faint[10:12, 10:12] = 0.4  # a small part of the polyp: its loss costs hardly any Dice
    found = operating_point([*sure, (faint, target)])
    assert found.found == 1 and found.threshold < 0.4 and operating_point(sure).threshold > 0.9


def test_no_image_at_all_is_said() -> None:
    with pytest.raises(DataError, match="needs labelled images"):
        operating_point([])


def test_images_without_polyps_alone_give_the_highest_threshold_at_which_nothing_is_marked() -> None:
    found = operating_point([(np.full((8, 8), 0.2, np.float32), np.zeros((8, 8), np.bool_))])
    assert found.dice == found.found == 1 and found.threshold == GRID[-1]
