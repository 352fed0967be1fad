"""Polyp-against-mucosa patches: what is cut, from where, and on which side of the split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gps_seg.errors import DataError
from gps_seg.tasks.classification.catalog import load_classification
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.patches import cut_patches, patch_items, patch_parts
from gps_seg.tasks.segmentation.pairs import pair_folder
from gps_seg.tasks.segmentation.parts import official_lists

PINK = (200, 110, 90)


def scene(height: int = 160, width: int = 200, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pink noise, a black border on the left, a green inset lower right, and a round polyp."""
    noise = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    image = np.clip(np.array(PINK) + noise, 0, 255).astype(np.uint8)
    image[:, :40] = 0
    image[-40:, -40:] = (20, 160, 30)
    rows, columns = np.mgrid[:height, :width]
    return image, (rows - 60) ** 2 + (columns - 90) ** 2 < 30**2


def write_scenes(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        image, mask = scene(seed=number)
        for folder, pixels in (("images", image), ("masks", np.where(mask, np.uint8(255), np.uint8(0)))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
    return root


def test_polyp_patches_are_in_the_mask_and_mucosa_patches_outside_in_equal_numbers() -> None:
    image, mask = scene()
    patches = cut_patches(image, mask, side=32, per_class=3, salt="a")
    inside: dict[int, list[float]] = {0: [], 1: []}
    for patch in patches:
        inside[patch.label].append(mask[patch.top : patch.top + 32, patch.left : patch.left + 32].mean())
    assert len(inside[0]) == len(inside[1]) >= 1
    assert max(inside[0]) == 0 and min(inside[1]) >= 0.6
    for patch in patches:
        assert np.array_equal(patch.pixels, image[patch.top : patch.top + 32, patch.left : patch.left + 32])


def test_no_patch_lies_in_the_border_or_the_inset_and_no_two_overlap() -> None:
    image, mask = scene()
    patches = cut_patches(image, np.roll(mask, 30, axis=1), side=16, per_class=100)
    taken = np.zeros(mask.shape, int)
    for patch in patches:
        taken[patch.top : patch.top + 16, patch.left : patch.left + 16] += 1
    assert taken.max() == 1 and taken[:, :39].sum() == 0
    assert taken[-40:, -40:].sum() < 16 * 16  # none lies mostly in the inset


@pytest.mark.parametrize("color", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (20, 160, 30), (40, 30, 30)])
def test_a_frame_without_tissue_gives_no_patch(color: tuple[int, int, int]) -> None:
    _, mask = scene()
    assert cut_patches(np.full((160, 200, 3), color, np.uint8), mask, side=32) == []


def test_a_frame_smaller_than_a_patch_or_without_polyp_gives_no_patch() -> None:
    image, mask = scene()
    assert cut_patches(image, mask, side=161) == []
    assert cut_patches(image, np.zeros_like(mask), side=32) == []
    assert cut_patches(image, np.ones_like(mask), side=32) == []


def test_the_same_seed_gives_the_same_patches_whatever_the_other_images(tmp_path: Path) -> None:
    pairs = pair_folder(write_scenes(tmp_path, ["a", "b", "c"]))
    both = patch_items(pairs, side=32, seed=1)
    assert both == patch_items(pairs, side=32, seed=1)
    assert [item for item in both if item.id.startswith("b@")] == patch_items(pairs[1:2], side=32, seed=1)
    assert both != patch_items(pairs, side=32, seed=2)
    assert len({item.id for item in both}) == len(both)


def images_of(items: object) -> set[str]:
    return {item.id.partition("@")[0] for item in items if isinstance(item, Item)}  # type: ignore[attr-defined]


def test_the_split_is_by_image(tmp_path: Path) -> None:
    root = write_scenes(tmp_path, [f"frame{number}" for number in range(12)])
    parts = patch_parts(root, side=32)
    sides = [images_of(part) for part in (parts.train, parts.val, parts.test)]
    assert all(sides) and sum(map(len, sides)) == 12 == len(set.union(*sides))



def test_patches_are_a_data_set_like_any_other(tmp_path: Path) -> None:
    root = write_scenes(tmp_path, [f"frame{number}" for number in range(12)])
    for folder in ("images", "masks"):  # larger frames, for the default side
        for path in (root / folder).iterdir():
            Image.open(path).resize((600, 480), Image.Resampling.NEAREST).save(path)
    final = load_classification("polyp_patches", root, protocol="final")
    assert final.class_names == ("mucosa", "polyp") and not final.inner
    assert images_of(final.train).isdisjoint(images_of(final.test))
    labels = [item.label for item in final.train]
    assert sum(labels) * 2 == len(labels)


def test_a_folder_with_lists_is_split_by_them(tmp_path: Path) -> None:
    root = write_scenes(tmp_path, list("abcdef"))
    (root / "train.txt").write_text("a\nb\nc\nd\n")
    (root / "test.txt").write_text("e\nf\n")
    parts = patch_parts(root, side=32)
    assert images_of(parts.test) == {"e", "f"} and images_of(parts.training()) == set("abcd")


def test_wrong_sizes_are_one_line(tmp_path: Path) -> None:
    image, mask = scene()
    with pytest.raises(DataError, match="expected side >= 8 and at least 1 per class, got side 4 and 2 per class"):
        cut_patches(image, mask, side=4)
    with pytest.raises(DataError, match="the mask is 100 x 160 pixels, its image 200 x 160"):
        cut_patches(image, mask[:, :100])
    root = write_scenes(tmp_path, list("abcdef"))
    with pytest.raises(DataError, match="no 150 x 150 patch of both polyp and mucosa fits into the training images; choose"):
        patch_parts(root, side=150)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "a.png")
    with pytest.raises(DataError, match=r"a.png: the mask is 9 x 9 pixels, its image 200 x 160; make them equal"):
        patch_parts(root, side=32)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("GPS_SEG_DATA"), reason="needs Kvasir-SEG under GPS_SEG_DATA")
def test_kvasir_gives_patches_of_both_classes_split_by_the_official_lists() -> None:
    final = load_classification("polyp_patches", protocol="final")
    train, test = official_lists()
    assert images_of(final.train) <= set(train) and images_of(final.test) <= set(test)
    assert len(final.train) > 2000 and len(final.test) > 250
    assert sum(item.label for item in final.train) * 2 == len(final.train)
