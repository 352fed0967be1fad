"""Data sets that a file lists: COCO JSON, as CVAT and Label Studio export it, or a CSV of image,mask.

Masks of a COCO file are drawn once into the cache, as the PNG files that everything else reads; of several annotations of an
image the mask is all of them together. Paths are relative to the file, and may lie in several folders.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.coco import mask_of
from gps_seg.data.images import MAX_PIXELS, write_mask
from gps_seg.data.places import cache_folder
from gps_seg.errors import DataError, first_names
from gps_seg.files import read_json, sha256
from gps_seg.tasks.segmentation.pairs import Pair

SUFFIXES = (".json", ".csv")
COLUMNS = ["image", "mask"]


def is_list(path: Path) -> bool:
    """Whether a path is a file that lists a data set."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def listed_pairs(path: Path) -> list[Pair]:
    """The pairs of a COCO or CSV file, sorted by id, the image's stem.

    Raises:
        DataError: the file is neither, names images that are missing or of one name, or holds a mask that cannot be read.
    """
    pairs = _from_csv(path) if path.suffix.lower() == ".csv" else _from_coco(path)
    if not pairs:
        raise DataError(f"{path}: expected images, it lists none")
    if twice := [name for name, number in Counter(pair.id for pair in pairs).items() if number > 1]:
        raise DataError(f"{path}: {len(twice)} names occur twice: {first_names(twice)}; images need names that differ "
                        "without their folders")
    for what, files in (("images", [pair.image for pair in pairs]), ("masks", [pair.mask for pair in pairs])):
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DataError(f"{path}: {len(missing)} of the {len(pairs)} {what} are missing: {first_names(missing, 3)}; paths "
                            "are relative to the file")
    return sorted(pairs, key=lambda pair: pair.id)


def _from_csv(path: Path) -> list[Pair]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                raise DataError(f"{path}: expected the columns image and mask, separated by a comma, got "
                                f"{', '.join(rows.fieldnames or ()) or 'none'}")
            return [_row(path, rows.line_num, row["image"], row["mask"]) for row in rows]
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{path}: expected a CSV file of image,mask, the content is something else") from None


def _row(path: Path, line: int, image: str | None, mask: str | None) -> Pair:
    if not image or not mask:
        raise DataError(f"{path}: line {line}: expected an image and its mask, got {image or 'none'} and {mask or 'none'}")
    return Pair(Path(image).stem, path.parent / image, path.parent / mask)


def _from_coco(path: Path) -> list[Pair]:
    document = read_json(path, "a COCO file", DataError)
    parts: list[Any] = [document.get(name) for name in ("images", "annotations")] if isinstance(document, dict) else []
    if len(parts) != 2 or not all(isinstance(part, list) and all(isinstance(one, dict) for one in part) for part in parts):
        raise DataError(f"{path}: expected a COCO file with images and annotations, the content is something else")
    images, annotations = parts
    _check_categories(path, document, annotations)
    own = _by_image(path, images, annotations)
    folder = cache_folder() / "coco" / sha256(path)[:16]
    return [_pair(path, image, own[image["id"]], folder) for image in images]


def _by_image(path: Path, images: Sequence[Mapping[str, Any]],
              annotations: Sequence[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
    for one in (*images, *annotations):
        named = one.get("id") if "file_name" in one else one.get("image_id")
        if not isinstance(named, int | str):
            raise DataError(f"{path}: expected numbers or names of images, got {named!r}")
    own: dict[Any, list[Mapping[str, Any]]] = {image.get("id"): [] for image in images}
    if len(own) < len(images):
        twice = [str(name) for name, number in Counter(image.get("id") for image in images).items() if number > 1]
        raise DataError(f"{path}: {len(twice)} ids of images occur twice: {first_names(twice)}")
    for one in annotations:
        if one.get("image_id") not in own:
            raise DataError(f"{path}: annotation {one.get('id')} is of an image that the file does not list, "
                            f"{one.get('image_id')!r}")
        own[one["image_id"]].append(one)
    return own


def _check_categories(path: Path, document: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
    declared = document.get("categories") or []
    if not isinstance(declared, list) or not all(isinstance(kind, dict) for kind in declared):
        raise DataError(f"{path}: expected categories as a list of ids and names")
    names = {str(kind.get("id")): str(kind.get("name")) for kind in declared}
    used = {str(one.get("category_id")) for one in annotations}
    if names and (unknown := sorted(used - names.keys())):
        raise DataError(f"{path}: {len(unknown)} categories are used and not declared: {first_names(unknown)}")
    if len(used) > 1:
        found = first_names(sorted(names.get(number, number) for number in used))
        raise DataError(f"{path}: expected annotations of one category, got {len(used)}: {found}; export one of them")


def _pair(path: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], folder: Path) -> Pair:
    name, height, width = image.get("file_name"), image.get("height"), image.get("width")
    if not (isinstance(name, str) and isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise DataError(f"{path}: image {image['id']!r}: expected file_name, height and width")
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: image {image['id']!r}: {width} x {height} pixels, over {MAX_PIXELS / 1e6:.0f} megapixels")
    places = [path.parent / name, *(place / "images" / name for place in (path.parent, path.parent.parent))]
    found = next((place for place in places if place.is_file()), places[0])
    target = folder / f"{Path(name).stem}.png"
    if not target.is_file():
        write_mask(target, _drawn(path, name, annotations, (height, width)))
    return Pair(Path(name).stem, found, target)


def _drawn(path: Path, name: str, annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    for one in annotations:
        try:
            mask |= mask_of(one.get("segmentation"), size)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: annotation {one.get('id')} of {name}: {error}") from None
    return mask
