"""HD95 and NSD against MONAI, brute force and geometry; no NaN anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gps_seg.metrics.surface import boundary, distance_to, surface

Mask = NDArray[np.bool_]
masks = arrays(np.bool_, (6, 9))


def blobs(rng: np.random.Generator, count: int, size: int) -> Mask:
    """Masks of every kind: noise of any density, rectangles, single pixels, full, empty."""
    made = rng.random((count, size, size)) < rng.random((count, 1, 1))
    for index in range(0, count, 3):
        made[index] = False
        a, b = np.sort(rng.integers(0, size + 1, (2, 2)), axis=1)
        made[index, a[0] : a[1], b[0] : b[1]] = True
    made[1], made[4] = True, False
    made[7] = False
    made[7, 0, size - 1] = True
    return made


def block(top: int, bottom: int, left: int, right: int, size: int = 60) -> Mask:
    mask = np.zeros((size, size), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # MONAI warns of empty masks and of itself
def test_monai_agrees_on_masks_of_every_kind() -> None:
    from gps_seg.packages import import_torchvision

    import_torchvision()
    import torch
    from monai.metrics import HausdorffDistanceMetric, compute_surface_dice

    rng = np.random.default_rng(0)
    for size, count in ((3, 120), (12, 150), (25, 50)):
        predicted, target = blobs(rng, count, size), rng.permutation(blobs(rng, count, size))
        p, t = torch.from_numpy(predicted)[:, None].float(), torch.from_numpy(target)[:, None].float()
        hd95 = HausdorffDistanceMetric(include_background=True, percentile=95)(p, t).flatten().numpy()
        nsd = compute_surface_dice(p, t, [1.5], include_background=True).flatten().numpy()
        for index in range(count):
            ours = surface(predicted[index], target[index], tolerance=1.5)
            if predicted[index].any() and target[index].any():
                assert ours.hd95 == pytest.approx(hd95[index], rel=1e-5)  # it computes in float32
            else:
                assert not np.isfinite(hd95[index])
            if predicted[index].any() or target[index].any():
                assert ours.nsd == pytest.approx(nsd[index], abs=1e-6)


def test_comparing_every_boundary_pixel_with_every_other_agrees_on_thousands_of_pairs() -> None:
    rng = np.random.default_rng(1)
    for size, count in ((2, 500), (7, 1500), (20, 500)):
        for predicted, target in zip(blobs(rng, count, size), rng.permutation(blobs(rng, count, size)), strict=True):
            if not (predicted.any() and target.any()):
                continue
            apart = cdist(np.argwhere(boundary(predicted)), np.argwhere(boundary(target)))
            there, back = apart.min(axis=1), apart.min(axis=0)
            found = surface(predicted, target, tolerance=1)
            assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
            assert found.nsd == pytest.approx(np.mean(np.concatenate([there, back]) <= 1))


@given(masks, masks)
def test_no_pair_of_masks_gives_nan_or_more_than_the_diagonal(predicted: Mask, target: Mask) -> None:
    found = surface(predicted, target)
    diagonal = math.hypot(6, 9)
    assert 0 <= found.hd95 <= diagonal and 0 <= found.nsd <= 1
    assert found.hd95_of_diagonal == pytest.approx(found.hd95 / diagonal)
    assert (found.hd95 == diagonal) == (predicted.any() != target.any())


@given(masks, masks)
def test_neither_the_order_of_the_masks_nor_a_flip_or_transposition_matters(predicted: Mask, target: Mask) -> None:
    found = surface(predicted, target)
    assert found == surface(target, predicted)
    for move in (np.fliplr, np.flipud, np.transpose):
        moved = surface(np.ascontiguousarray(move(predicted)), np.ascontiguousarray(move(target)))
        assert moved.hd95 == pytest.approx(found.hd95) and moved.nsd == found.nsd


@given(masks)
def test_a_mask_against_itself_is_perfect(mask: Mask) -> None:
    assert surface(mask, mask).hd95 == 0 and surface(mask, mask).nsd == 1


@given(masks)
def test_a_boundary_pixel_is_one_with_background_or_the_edge_on_a_side(mask: Mask) -> None:
    framed = np.pad(mask, 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    np.testing.assert_array_equal(boundary(mask), mask & ~inner)


@pytest.mark.parametrize(("predicted", "target", "hd95", "nsd"), [
    (False, False, 0, 1), (True, False, 50, 0), (False, True, 50, 0), (True, True, 0, 1),
])
def test_empty_and_full_masks(predicted: bool, target: bool, hd95: float, nsd: float) -> None:
    found = surface(np.full((30, 40), predicted), np.full((30, 40), target))
    assert (found.hd95, found.nsd) == (hd95, nsd)


def test_single_pixels_are_as_far_apart_as_they_are() -> None:
    found = surface(block(0, 1, 0, 1), block(3, 4, 4, 5), tolerance=5)
    assert found.hd95 == 5 and found.nsd == 1
    assert surface(block(0, 1, 0, 1), block(3, 4, 4, 5), tolerance=4.9).nsd == 0
    assert surface(block(0, 1, 0, 1), block(59, 60, 59, 60)).hd95 == pytest.approx(math.hypot(59, 59))


def test_a_shift_by_three_pixels_is_three_and_a_miss_is_worse_than_anything() -> None:
    target = block(20, 40, 20, 40)
    shifted, far = surface(block(20, 40, 23, 43), target), surface(block(0, 2, 0, 2), target)
    missed = surface(np.zeros_like(target), target)
    assert shifted.hd95 == 3
    assert shifted.hd95 < far.hd95 < missed.hd95
    assert shifted.nsd > far.nsd == missed.nsd == 0


def test_distances_are_exact_on_a_large_image() -> None:
    points = np.zeros((900, 1200), np.bool_)
    points[[3, 880, 400], [7, 1100, 650]] = True
    rows, columns = np.mgrid[:900, :1200]
    exact = np.min([np.sqrt((rows - r) ** 2 + (columns - c) ** 2) for r, c in np.argwhere(points)], axis=0)
    np.testing.assert_array_equal(distance_to(points), exact)


@given(st.integers(0, 2**32 - 1))
def test_padding_an_image_with_background_changes_no_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, target = np.pad(rng.random((2, 8, 8)) < 0.4, ((0, 0), (1, 1), (1, 1)))
    wider = [np.pad(mask, 5) for mask in (predicted, target)]
    if predicted.any() and target.any():
        assert surface(*wider).hd95 == surface(predicted, target).hd95
        assert surface(*wider).nsd == surface(predicted, target).nsd
