"""Which images of a polyp data set train, which choose the best step, and which test it.

Sources: Jha et al., Kvasir-SEG, MMM 2020, arXiv 1911.07069; split lists of the MediaEval Medico 2020 task (880 / 120).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from gps_seg.config import PolypDataConfig
from gps_seg.data.images import SUFFIXES
from gps_seg.data.splits import Splits, read_lines
from gps_seg.errors import ConfigError, DataError, first_names
from gps_seg.tasks.segmentation.audit import look_at
from gps_seg.tasks.segmentation.known import FOLDER, GROUPS, KNOWN
from gps_seg.tasks.segmentation.listed import is_list, listed_pairs
from gps_seg.tasks.segmentation.pairs import Pair, pair_folder
from gps_seg.tasks.segmentation.phantom import phantom_folder
from gps_seg.tasks.segmentation.sets import SPLIT, as_folder, folder_of, layout_of, set_pairs

Copies = Mapping[str, str]  # name of a picture -> the first name under which the same picture stands in the set
NO_COPIES: Copies = MappingProxyType({})
# What a protocol lets a run see, see ``config.DataConfig``.
PROTOCOLS: dict[str, Callable[[Splits[Pair]], Splits[Pair]]] = {
    "honest": lambda whole: whole,
    "tune": lambda whole: Splits(whole.train, whole.inner, ()),
    "final": lambda whole: Splits((*whole.train, *whole.inner), (), whole.test),
    "released": lambda whole: Splits((*whole.test, *whole.train, *whole.inner), whole.test, whole.test),
}


def load_splits(config: PolypDataConfig) -> Splits[Pair]:
    """The configured data set, split and cut to the configured numbers of images.

    By ``data.test_set`` if it names the test part; else by its published lists if there are any; else by train.txt and test.txt
    in its folder or in the settings; else a fifth, drawn by the seed, is the test part. What is a training set by definition
    (pranet-train) has no test part without lists: honest then reports the validation part as tune does, final reports nothing,
    and other sets test the run afterwards.

    Raises:
        DataError: the data set is not there (the text says how to get it) or its files and lists do not agree.
    """
    root, pairs = _find(config)
    first = first_copies(pairs) if KNOWN.get(config.name, FOLDER).copies else NO_COPIES
    train, test = _names(config, root, [pair.id for pair in pairs], first)
    if config.protocol == "released" and not test:
        raise DataError(f"data.protocol=released selects on the test part, and {config.name} has none: choose another protocol")
    whole = split(pairs, train, test, inner_fraction=config.inner_fraction, seed=config.split_seed, first=first)
    seen = PROTOCOLS[config.protocol](replace(whole, train=whole.train[: config.train_images],
                                              test=whole.test[: config.test_images]))
    return replace(seen, inner=seen.inner[: config.inner_images])


def _find(config: PolypDataConfig) -> tuple[Path, list[Pair]]:
    """The folder of the configured set, and its pairs."""
    if config.name == "phantom":
        if config.root or config.train_list or config.test_list:
            raise DataError("data: phantoms are drawn, so data.root and lists have no meaning; use data.name=folder")
        root = phantom_folder(config.phantom_images, seed=config.split_seed)
        return root, pair_folder(root)
    if config.name == "folder":
        if config.root is None:
            raise DataError("data.root: expected the folder that holds images/ and masks/")
        if is_list(config.root):
            return config.root.parent, listed_pairs(config.root)
        return config.root, pair_folder(config.root, layout_of(config.root) or FOLDER)
    if config.name in GROUPS:
        raise DataError(f"data.name: {config.name} stands for {', '.join(GROUPS[config.name])}; a run trains on one set")
    root = folder_of(config.name, config.root)
    return root, pair_folder(root, KNOWN[config.name])


def _names(config: PolypDataConfig, root: Path, names: Sequence[str], first: Copies) -> tuple[list[str], list[str]]:
    """The training and the test names, see :func:`load_splits`."""
    if config.test_set is not None:
        test = names_of(config.test_set, names, root)
        return sorted(set(names) - set(test)), test
    named = KNOWN.get(config.name, FOLDER)
    if named.published:
        train, test = official_lists(config.name)
        return (read_list(config.train_list) if config.train_list else train,
                read_list(config.test_list) if config.test_list else test)
    own_train, own_test = own_lists(root)
    train_list, test_list = config.train_list or own_train, config.test_list or own_test
    if train_list and test_list:
        return read_list(train_list), read_list(test_list)
    if train_list or test_list:
        raise DataError(f"{root}: found only one of the two lists train.txt and test.txt; give both or neither")
    if named.part == "train":
        return list(names), []
    ordered = list(names)
    if config.name != "phantom":
        random.Random(f"test {config.split_seed}").shuffle(ordered)
    different = _different(ordered, first)
    return _divide(ordered, different[len(different) - max(1, len(different) // 5) :], first)


def names_of(subset: str, names: Collection[str], root: Path) -> list[str]:
    """The names that a known set, a folder or a text file gives of a set's images.

    Args:
        names: of the whole set, in ``root``.

    Raises:
        DataError: it is not there, or it names what the whole set does not hold.
    """
    given = read_list(Path(subset)) if Path(subset).is_file() else [pair.id for pair in set_pairs(subset)]
    if absent := sorted(set(given) - set(names)):
        raise DataError(f"data.test_set: {len(absent)} of the {len(given)} names of {subset} have no image in {root}: "
                        f"{first_names(absent)}; expected some of its {len(names)} images")
    return given


def own_lists(root: Path) -> tuple[Path | None, Path | None]:
    """train.txt, and test.txt or else val.txt, of a data set's folder, as far as they are there."""
    train, *tests = (root / name if (root / name).is_file() else None for name in ("train.txt", "test.txt", "val.txt"))
    return train, tests[0] or tests[1]


def read_list(path: Path) -> list[str]:
    """Image stems, one a line, with or without an image suffix. Raises DataError for a missing list or a doubled name."""
    return _stems(read_lines(path), str(path))


def _stems(lines: Sequence[str], source: str) -> list[str]:
    names = [line for line in lines if line]
    stems = [Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name for name in names]
    doubled = [stem for stem, number in Counter(stems).items() if number > 1]
    if doubled:
        raise DataError(f"{source}: {len(doubled)} names occur twice: {first_names(doubled)}")
    if not stems:
        raise DataError(f"{source}: expected image names, found none")
    return stems


def official_lists(name: str = "kvasir-seg") -> tuple[list[str], list[str]]:
    """The published training and test names of a set, of Kvasir-SEG the 880 and 120 of MediaEval Medico 2020."""
    folder, stem = resources.files("gps_seg.tasks.segmentation") / "splits", name.replace("-", "_")
    train, test = (_stems((folder / f"{stem}_{part}.txt").read_text(encoding="utf-8").split(), part) for part in ("train", "val"))
    return train, test


def first_copies(pairs: Sequence[Pair]) -> Copies:
    """The first name of every picture that stands in a set under several names, with the same pixels; unreadable ones apart."""
    seen: dict[str, str] = {}
    return {look.pair.id: seen.setdefault(look.digest, look.pair.id)
            for look in look_at((pair, "all") for pair in pairs) if look.digest}


def split(
    pairs: Sequence[Pair], train_names: Sequence[str], test_names: Sequence[str], *, inner_fraction: float, seed: int,
    first: Copies = NO_COPIES,
) -> Splits[Pair]:
    """Split pairs by lists and carve the inner validation part out of the training list.

    The inner part depends on the names and the seed alone, not on the order of the list, but that copies of one picture stay
    together. The training part is shuffled by the seed, so that its first n images are a fair sample.

    Raises:
        DataError: a name has no file, or is on both lists.
    """
    by_id = {pair.id: pair for pair in pairs}
    absent = sorted({*train_names, *test_names} - set(by_id))
    if absent:
        raise DataError(f"{len(absent)} listed images have no file: {first_names(absent)}")
    both = sorted(set(train_names) & set(test_names))
    if both:
        raise DataError(f"{len(both)} images are on the training and the test list: {first_names(both)}")
    shuffled = sorted(train_names)
    random.Random(f"inner validation {seed}").shuffle(shuffled)
    different = _different(shuffled, first)
    train, inner = _divide(shuffled, different[: max(1, round(inner_fraction * len(different)))], first)
    if not train:
        raise DataError(f"expected at least 2 training images, got {len(shuffled)}")
    return Splits(
        train=tuple(by_id[name] for name in train),
        inner=tuple(by_id[name] for name in sorted(inner)),
        test=tuple(by_id[name] for name in sorted(test_names)),
    )


def _different(names: Sequence[str], first: Copies) -> list[str]:
    """One name of each picture, in their order."""
    return [name for name in names if first.get(name, name) == name]


def _divide(names: Sequence[str], held: Collection[str], first: Copies) -> tuple[list[str], list[str]]:
    """Names kept and held out, in their order; every copy goes where the first of its picture goes."""
    chosen = frozenset(held)
    out = {name for name in names if first.get(name, name) in chosen}
    return [name for name in names if name not in out], [name for name in names if name in out]


def is_whole(data: str | None, config: PolypDataConfig) -> bool:
    """Whether a set is scored whole, not by one part of its split as the run's own set, Kvasir-SEG and phantoms are."""
    return data is not None and (as_folder(data) is not None or data not in (*SPLIT, config.name))


def find_pairs(data: str | None, split: str, config: PolypDataConfig) -> list[Pair]:
    """The images to evaluate on.

    Args:
        data: a known name or a folder (all of its pairs), or None for the run's own data set.
        split: "test", "inner" or "train" of kvasir-seg, of phantoms and of the run's own data set.

    Raises:
        ConfigError: another split, or one that the set does not have.
    """
    if split not in ("train", "inner", "test"):
        raise ConfigError(f"--split: expected train, inner or test, got {split!r}")
    if data is not None and is_whole(data, config):
        return set_pairs(data)
    others = {"name": data, "root": None, "train_list": None, "test_list": None, "test_set": None}
    chosen = config if data in (None, config.name) else config.model_copy(update=others)
    honest = chosen if chosen.protocol == "released" else chosen.model_copy(update={"protocol": "honest"})
    found = list(getattr(load_splits(honest), split))
    if not found:
        raise ConfigError(f"--split: {chosen.name} has no {split} part; say another, or another set with --data")
    return found
