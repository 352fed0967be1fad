"""Images with their masks: the folders of a data set, whatever its layout, matched by file stem."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gps_seg.data.images import images_by_stem
from gps_seg.data.places import below
from gps_seg.errors import DataError, first_names
from gps_seg.tasks.segmentation.known import FOLDER, KnownSet


@dataclass(frozen=True)
class Pair:
    """An image and its mask; ``id`` is their common file stem."""

    id: str
    image: Path
    mask: Path


def pair_folder(root: Path, known: KnownSet = FOLDER) -> list[Pair]:
    """All pairs of a folder with a set's layout, sorted by id; the id is the stem, after the folder's name where stems repeat.

    Args:
        known: the set; default: any folder with images/ and masks/ (or image/ mask/, imagesTr/ labelsTr/).

    Raises:
        DataError: the folders are missing or empty; a stem occurs twice; an image or mask has no partner.
    """
    if not root.is_dir():
        raise DataError(f"expected a data set folder at {root}, found none")
    folders = image_folders(root, known)
    if not folders:
        found = first_names([path.name for path in sorted(root.iterdir())]) or "nothing"
        raise DataError(f"{root}: expected folders {' and '.join(f'{name}/' for name in known.layouts[0])}, found {found}")
    pairs = [(images, pair) for images, masks in folders
             for pair in _match(images_by_stem(images), _masks_by_image(known, masks), root)]
    often = Counter(pair.id for _, pair in pairs)
    named = [pair if often[pair.id] == 1 else Pair(f"{images.name}_{pair.id}", pair.image, pair.mask) for images, pair in pairs]
    return sorted(named, key=lambda pair: pair.id)


def image_folders(root: Path, known: KnownSet) -> list[tuple[Path, Path]]:
    """Folders of images with their folders of masks, by the first of the set's layouts that is there; else none."""
    for images, masks in known.layouts:
        ours, theirs = below(root, images), below(root, masks)
        if ours and theirs:
            if len(ours) != len(theirs):
                raise DataError(f"{root}: {len(ours)} folders of images and {len(theirs)} of masks; they must be as many")
            return list(zip(ours, theirs, strict=True))
    return []


def _match(images: dict[str, Path], masks: dict[str, Path], root: Path) -> list[Pair]:
    without_mask, without_image = sorted(set(images) - set(masks)), sorted(set(masks) - set(images))
    if without_mask or without_image:
        problems = [f"{len(names)} {what}: {first_names(names)}" for what, names in
                    (("images without a mask", without_mask), ("masks without an image", without_image)) if names]
        raise DataError(f"{root}: {'; '.join(problems)}; the file stems must be equal")
    return [Pair(stem, images[stem], masks[stem]) for stem in sorted(images)]


def _masks_by_image(known: KnownSet, folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in images_by_stem(folder).items():
        match = re.fullmatch(known.mask_name, stem)
        image = match[1] if match else stem
        if image in found:
            raise DataError(f"{folder}: {found[image].name} and {path.name} are masks of one image; keep one")
        found[image] = path
    return found
