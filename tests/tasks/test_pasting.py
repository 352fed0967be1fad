"""Patches of other images on frames without a polyp."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gps_seg.config import AugmentConfig, PolypDataConfig, SamConfig
from gps_seg.tasks.segmentation.dataset import PolypDataset
from gps_seg.tasks.segmentation.pairs import pair_folder
from gps_seg.tasks.segmentation.pasting import paste
from gps_seg.tasks.segmentation.phantom import phantom_folder
from gps_seg.tasks.segmentation.task import Segmentation

GREY, RED = np.full((60, 80, 3), 90, np.uint8), np.full((120, 120, 3), (200, 40, 40), np.uint8)


def disc(side: int = 120, radius: int = 10) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return (rows - side // 2) ** 2 + (columns - side // 2) ** 2 < radius**2


def pasted(count: int = 60, donor: np.ndarray = RED, polyp: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    return [paste(GREY, donor, disc() if polyp is None else polyp, random.Random(seed)) for seed in range(count)]


def test_the_mask_marks_what_was_pasted_and_the_rest_of_the_frame_stays() -> None:
    for image, mask in pasted():
        assert image.shape == GREY.shape and image.dtype == np.uint8 and mask.shape == GREY.shape[:2] and mask.dtype == bool
        changed = (image != GREY).any(2)
        if mask.any():
            rows, columns = np.nonzero(mask)
            near = np.zeros_like(mask)
            near[max(0, rows.min() - 6) : rows.max() + 7, max(0, columns.min() - 6) : columns.max() + 7] = True
            assert not (changed & ~near).any()


def test_a_third_of_the_patches_are_decoys_that_show_no_polyp_and_leave_no_mask() -> None:
    marked = RED.copy()
    marked[disc(radius=12)] = (0, 0, 255)  # blue is polyp
    found = pasted(300, donor=marked)
    empty = [image for image, mask in found if not mask.any()]
    assert 0.25 < len(empty) / len(found) < 0.42
    soft = [image for image in empty if (image[..., 0] > 180).any()]  # with their own colours: red mucosa, no blue
    assert soft and not any((image[..., 2] > 150).any() for image in empty)


def test_patches_come_with_their_own_colours_or_with_the_frames() -> None:
    reds = [int(image[mask][:, 0].mean()) for image, mask in pasted() if mask.any()]
    assert min(reds) < 110 and max(reds) > 150  # Poisson blending of a flat patch leaves the frame's grey


@pytest.mark.parametrize("radius", [1, 4, 24, 60])
def test_polyps_of_any_size_fit_on_frames_of_any_size(radius: int) -> None:
    for frame in (GREY, GREY[:12, :12], GREY[:7, :9], GREY[:9, :7], GREY[:6, :9], GREY[:3, :5], np.zeros((16, 200, 3), np.uint8)):
        for seed in range(20):
            image, mask = paste(frame, RED, disc(radius=radius), random.Random(seed))
            assert image.shape == frame.shape and mask.mean() <= 0.55


def test_nothing_is_pasted_where_no_place_is_free_for_a_decoy() -> None:
    found = pasted(40, polyp=np.ones((120, 120), bool))
    assert any(not mask.any() and (image == GREY).all() for image, mask in found)


def test_a_data_set_pastes_on_empty_frames_at_its_rate_by_the_seed_alone() -> None:
    with_polyps = pair_folder(phantom_folder(30, seed=0))
    empty = pair_folder(phantom_folder(20, seed=1, empty=True))

    def data(share: float, epoch: int = 0) -> list[bool]:
        made = PolypDataset([*with_polyps, *empty], input_size=64, resize="longest_side", mean=(0, 0, 0), std=(1, 1, 1),
                            pasted=share)
        made.set_epoch(epoch)
        return [bool(made[index].mask.any()) for index in range(len(with_polyps), len(made))]

    assert not any(data(0.0)) and 5 <= sum(data(1.0)) <= 18
    assert data(0.7) == data(0.7) != data(0.7, epoch=1)


def test_training_alone_pastes() -> None:
    task = Segmentation(sam=SamConfig(name="tiny"), data=PolypDataConfig(name="phantom", augment=AugmentConfig(paste=0.5)))
    model = task.model()
    assert task.dataset(model, [], training=True).pasted == 0.5
    assert task.dataset(model, [], training=False).pasted == 0
