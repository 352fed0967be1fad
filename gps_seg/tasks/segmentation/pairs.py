"""Polyp data sets: folders of images and masks matched by stem, split lists, the official Kvasir-SEG split.

Sources: Jha et al., Kvasir-SEG, MMM 2020, arXiv 1911.07069; split lists of the MediaEval Medico 2020 task (880 / 120).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gps_seg.config import PolypDataConfig
from gps_seg.data.images import SUFFIXES, images_by_stem
from gps_seg.data.splits import Splits
from gps_seg.errors import DataError
from gps_seg.tasks.segmentation.phantom import phantom_folder

LAYOUTS = (("images", "masks"), ("image", "mask"), ("image", "masks"), ("images", "mask"), ("imagesTr", "labelsTr"))
KVASIR_FOLDERS = ("Kvasir-SEG", "kvasir-seg", "kvasir-seg-*")


@dataclass(frozen=True)
class Pair:
    """An image and its mask; ``id`` is their common file stem."""

    id: str
    image: Path
    mask: Path


def pair_folder(root: Path) -> list[Pair]:
    """Pairs of a folder with images/ and masks/ (or image/ mask/, imagesTr/ labelsTr/), sorted by stem.

    Raises:
        DataError: the folders are missing or empty; a stem occurs twice; an image or mask has no partner.
    """
    if not root.is_dir():
        raise DataError(f"expected a data set folder at {root}, found none")
    for images, masks in LAYOUTS:
        if (root / images).is_dir() and (root / masks).is_dir():
            return match_stems(images_by_stem(root / images), images_by_stem(root / masks), root)
    raise DataError(f"{root}: expected folders images/ and masks/, found {_names(path.name for path in sorted(root.iterdir()))}")


def match_stems(images: dict[str, Path], masks: dict[str, Path], root: Path) -> list[Pair]:
    """Pairs of equal stems, sorted. Raises DataError, naming ``root``, for an image or a mask without partner."""
    without_mask, without_image = sorted(set(images) - set(masks)), sorted(set(masks) - set(images))
    if without_mask or without_image:
        problems = [f"{len(names)} {what}: {_names(names)}" for what, names in
                    (("images without a mask", without_mask), ("masks without an image", without_image)) if names]
        raise DataError(f"{root}: {'; '.join(problems)}; the file stems must be equal")
    return [Pair(stem, images[stem], masks[stem]) for stem in sorted(images)]


def _names(names: object, most: int = 5) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return (", ".join(listed[:most]) + (", ..." if len(listed) > most else "")) or "nothing"


def find_root(name: str, root: Path | None = None) -> Path | None:
    """Where Kvasir-SEG is: ``root``, else under $GPS_SEG_DATA, else under ./data; None if nowhere.

    Raises:
        DataError: ``root`` or $GPS_SEG_DATA is given and does not exist.
    """
    if root is not None:
        if not root.is_dir():
            raise DataError(f"data.root: expected the {name} folder at {root}, found none")
        return root
    searched = search_folder()
    candidates = [searched, *(path for pattern in KVASIR_FOLDERS for path in sorted(searched.glob(pattern)))]
    return next((path for path in candidates if (path / "images").is_dir() and (path / "masks").is_dir()), None)


def search_folder() -> Path:
    """$GPS_SEG_DATA, else ./data, which need not be there. Raises DataError if $GPS_SEG_DATA does not exist."""
    setting = os.environ.get("GPS_SEG_DATA")
    if setting and not Path(setting).is_dir():
        raise DataError(f"GPS_SEG_DATA: expected a folder at {setting}, found none")
    return Path(setting or "data")


def read_list(path: Path) -> list[str]:
    """Image stems, one a line, with or without an image suffix. Raises DataError for a missing list or a doubled name."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark before the first name
    except (OSError, UnicodeDecodeError):
        raise DataError(f"expected a list of image names at {path}, cannot read it") from None
    return _stems(text, str(path))


def _stems(text: str, source: str) -> list[str]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    stems = [Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name for name in names]
    doubled = [stem for stem, number in Counter(stems).items() if number > 1]
    if doubled:
        raise DataError(f"{source}: {len(doubled)} names occur twice: {_names(doubled)}")
    if not stems:
        raise DataError(f"{source}: expected image names, found none")
    return stems


def official_lists() -> tuple[list[str], list[str]]:
    """The 880 training and 120 test names of Kvasir-SEG, as published by MediaEval Medico 2020."""
    folder = resources.files("gps_seg.tasks.segmentation") / "splits"
    train, test = (_stems((folder / f"kvasir_seg_{part}.txt").read_text(encoding="utf-8"), part) for part in ("train", "val"))
    return train, test


def split(
    pairs: Sequence[Pair], train_names: Sequence[str], test_names: Sequence[str], *, inner_fraction: float, seed: int
) -> Splits[Pair]:
    """Split pairs by lists and carve the inner validation part out of the training list.

    The inner part depends on the names and the seed alone, not on the order of the list. The training part is shuffled by
    the seed, so that its first n images are a fair sample.

    Raises:
        DataError: a name has no file, or is on both lists.
    """
    by_id = {pair.id: pair for pair in pairs}
    absent = sorted({*train_names, *test_names} - set(by_id))
    if absent:
        raise DataError(f"{len(absent)} listed images have no file: {_names(absent)}")
    both = sorted(set(train_names) & set(test_names))
    if both:
        raise DataError(f"{len(both)} images are on the training and the test list: {_names(both)}")
    shuffled = sorted(train_names)
    random.Random(f"inner validation {seed}").shuffle(shuffled)
    inner = max(1, round(inner_fraction * len(shuffled)))
    if inner >= len(shuffled):
        raise DataError(f"expected at least 2 training images, got {len(shuffled)}")
    return Splits(
        train=tuple(by_id[name] for name in shuffled[inner:]),
        inner=tuple(by_id[name] for name in sorted(shuffled[:inner])),
        test=tuple(by_id[name] for name in sorted(test_names)),
    )


# What a protocol lets a run see, see ``config.DataConfig``.
PARTS: dict[str, Callable[[Splits[Pair]], Splits[Pair]]] = {
    "honest": lambda whole: whole,
    "tune": lambda whole: Splits(whole.train, whole.inner, ()),
    "final": lambda whole: Splits((*whole.train, *whole.inner), (), whole.test),
    "released": lambda whole: Splits((*whole.test, *whole.train, *whole.inner), whole.test, whole.test),
}


def load_splits(config: PolypDataConfig) -> Splits[Pair]:
    """The configured data set, split and cut to the configured numbers of images.

    Raises:
        DataError: the data set is not there (the text says how to get it) or its files and lists do not agree.
    """
    pairs, train, test = _load(config)
    whole = split(pairs, train, test, inner_fraction=config.inner_fraction, seed=config.split_seed)
    cut = Splits(whole.train[: config.train_images], whole.inner[: config.inner_images], whole.test[: config.test_images])
    return PARTS[config.protocol](cut)


def _load(config: PolypDataConfig) -> tuple[list[Pair], list[str], list[str]]:
    if config.name == "kvasir-seg":
        root = find_root("kvasir-seg", config.root)
        if root is None:
            raise DataError("Kvasir-SEG is not here: run `gps-seg data download kvasir-seg`, or set GPS_SEG_DATA to the folder "
                            "that holds it, or use data.name=phantom")
        train, test = official_lists()
        return pair_folder(root), *_lists_or(config, train, test)
    if config.name == "phantom":
        if config.root or config.train_list or config.test_list:
            raise DataError("data: phantoms are drawn, so data.root and lists have no meaning; use data.name=folder")
        pairs = pair_folder(phantom_folder(config.phantom_images, seed=config.split_seed))
        cut = len(pairs) - len(pairs) // 5
        return pairs, [pair.id for pair in pairs[:cut]], [pair.id for pair in pairs[cut:]]
    if config.name == "folder":
        return _load_folder(config)
    raise DataError(f"data.name: expected kvasir-seg, phantom or folder, got {config.name!r}")


def _load_folder(config: PolypDataConfig) -> tuple[list[Pair], list[str], list[str]]:
    """A user's folder: by lists if there are any, else every fifth image of a seeded order is test."""
    if config.root is None:
        raise DataError("data.root: expected the folder that holds images/ and masks/")
    pairs = pair_folder(config.root)
    found_train = config.train_list or _first_file(config.root, "train.txt")
    found_test = config.test_list or _first_file(config.root, "test.txt", "val.txt")
    if (found_train is None) != (found_test is None):
        raise DataError(f"{config.root}: found only one of the two lists train.txt and test.txt; give both or neither")
    if found_train and found_test:
        return pairs, read_list(found_train), read_list(found_test)
    names = [pair.id for pair in pairs]
    random.Random(f"test {config.split_seed}").shuffle(names)
    cut = len(names) - max(1, len(names) // 5)
    return pairs, names[:cut], names[cut:]


def _lists_or(config: PolypDataConfig, train: list[str], test: list[str]) -> tuple[list[str], list[str]]:
    return (read_list(config.train_list) if config.train_list else train,
            read_list(config.test_list) if config.test_list else test)


def _first_file(root: Path, *names: str) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)
