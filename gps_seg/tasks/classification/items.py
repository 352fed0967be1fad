"""Labelled images and how they are divided: validation shares, few-shot subsets, checks. No torch."""

from __future__ import annotations

import functools
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.splits import Splits
from gps_seg.errors import DataError, first_names

Protocol = Literal["tune", "honest", "final"]
VALIDATION, TEST = 0.1, 0.2  # shares of each class where no official list exists
OF_THE_FEW = 0.25  # the share that validates where the few are all there is


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image.

    Attributes:
        source: a file, or uint8 pixels: grey (H, W) or RGB (H, W, 3).
        label: index into the class names.
        id: unique in the data set: the path below its root, or a number. Items are equal if id and label are.
    """

    source: Path | NDArray[np.uint8] = field(compare=False)
    label: int
    id: str


@dataclass(frozen=True)
class Parts:
    """What a reader found on the disk.

    Attributes:
        val: None where the data set has no list for model selection.
        train_val: where the data set has a list of its own for training after tuning; else train and val together.
        sparse: the official training list may lack some classes (VTAB's Sun397 has 1000 images of 397 classes).
    """

    train: Sequence[Item]
    val: Sequence[Item] | None
    test: Sequence[Item]
    class_names: tuple[str, ...]
    train_val: Sequence[Item] | None = None
    sparse: bool = False

    def training(self) -> list[Item]:
        """Everything that may be trained on in the end."""
        return list(self.train_val) if self.train_val is not None else [*self.train, *(self.val or ())]


def divide(
    parts: Parts, protocol: Protocol, *, few_shot: int | None = None, seed: int = 0, by_the_few: bool = False
) -> Splits[Item]:
    """The splits of a protocol; ``few_shot`` keeps that many training images of each class.

    Args:
        by_the_few: the few are drawn from all that may be trained on, whatever the protocol, and what validates is some of them.

    Raises:
        DataError: a class has too few training images for ``few_shot``.
    """
    train: Sequence[Item]
    val: Sequence[Item] | None
    test: Sequence[Item]
    if few_shot is not None and by_the_few:
        train, val = few(parts.training(), few_shot, parts.class_names, seed), ()
        if protocol != "final":
            train, val = hold_out(train, OF_THE_FEW, f"few-shot validation {seed}")
        few_shot = None
    elif protocol == "final":
        train, val = parts.training(), ()
    else:
        train, val = parts.train, parts.val
        if val is None:
            train, val = hold_out(train, VALIDATION, f"validation {seed}")
    test = () if protocol == "tune" else parts.test
    if few_shot is not None:
        train = few(train, few_shot, parts.class_names, seed)
    _check_division(parts, train, val, protocol)
    return Splits(tuple(train), tuple(val), tuple(test), parts.class_names)


def _check_division(parts: Parts, train: Sequence[Item], val: Sequence[Item], protocol: Protocol) -> None:
    """What trains holds every class, and there is something to validate on. Raises DataError."""
    present = {item.label for item in train}
    empty = [name for label, name in enumerate(parts.class_names) if label not in present]
    if empty and not parts.sparse:
        raise DataError(f"data.protocol={protocol} trains without any image of {len(empty)} classes: {first_names(empty)}")
    if protocol != "final" and not val:
        raise DataError(f"data.protocol={protocol}: nothing is left to validate on; a class needs at least 2 training images")


def only(splits: Splits[Item], first: int, last: int) -> Splits[Item]:
    """The images of the classes numbered ``first`` to ``last``, numbered anew from 0; each image stays in the part it is in.

    Raises:
        DataError: there are fewer classes.
    """
    if last >= len(splits.class_names):
        raise DataError(f"@{first}-{last}: expected class numbers from 0 to {len(splits.class_names) - 1}")
    train, inner, test = (tuple(replace(item, label=item.label - first) for item in part if first <= item.label <= last)
                          for part in (splits.train, splits.inner, splits.test))
    return Splits(train, inner, test, splits.class_names[first : last + 1])


def check_copies(name: str, splits: Splits[Item]) -> None:
    """Raise DataError for an image file that is the same, byte for byte, in what trains and in what is scored."""
    @functools.cache
    def digest(path: Path) -> bytes:
        return hashlib.sha256(path.read_bytes()).digest()

    sizes: defaultdict[int, list[tuple[Path, Item]]] = defaultdict(list)  # only files of one size can be the same
    for item in splits.train:
        if isinstance(item.source, Path) and item.source.is_file():
            sizes[item.source.stat().st_size].append((item.source, item))
    for item in (*splits.inner, *splits.test):
        if isinstance(item.source, Path) and item.source.is_file():
            same = {digest(path): other for path, other in sizes.get(item.source.stat().st_size, ())}
            if same and (other := same.get(digest(item.source))):
                raise DataError(f"{name}: {other.id} trains and {item.id} is scored, but they are the same image: remove one")


def hold_out(items: Sequence[Item], fraction: float, salt: str) -> tuple[list[Item], list[Item]]:
    """Kept and held-out items, the fraction drawn from each class alone, at least one unless the class has only one.

    The draw depends on the ids and the salt, not on the order of the items, which is kept.
    """
    held: set[str] = set()
    for label, members in _by_class(items).items():
        number = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.update(item.id for item in _shuffled(members, f"{salt} {label}")[:number])
    return [item for item in items if item.id not in held], [item for item in items if item.id in held]


def few(items: Sequence[Item], k: int, class_names: Sequence[str], seed: int) -> list[Item]:
    """k items of each class; those of k are among those of k + 1.

    Raises:
        DataError: k is below 1, or a class has fewer than k items.
    """
    if k < 1:
        raise DataError(f"few_shot: expected at least 1 image per class, got {k}")
    members = _by_class(items)
    short = [f"{name} ({len(members[label])})" for label, name in enumerate(class_names) if len(members[label]) < k]
    if short:
        raise DataError(f"few_shot: expected {k} training images per class, too few in {first_names(short)}")
    return [item for label in range(len(class_names)) for item in _shuffled(members[label], f"few-shot {seed} {label}")[:k]]


def check_classes(name: str, parts: Parts, expected: int | None) -> None:
    """Raise DataError for a wrong number of classes, a class without images, or an image on two sides."""
    found = len(parts.class_names)
    if expected is not None and found != expected:
        raise DataError(f"{name}: expected {expected} classes, found {found}")
    if found < 2:
        raise DataError(f"{name}: expected at least 2 classes, found {found}")
    training = parts.training()
    present = {item.label for item in training} | ({item.label for item in parts.test} if parts.sparse else set())
    empty = [class_name for label, class_name in enumerate(parts.class_names) if label not in present]
    if empty:
        raise DataError(f"{name}: {len(empty)} of {found} classes have no {'' if parts.sparse else 'training '}image: "
                        f"{first_names(empty)}")
    sides = (("training", "test", training, parts.test), ("training", "validation", parts.train, parts.val or ()))
    for one, other, first, second in sides:
        if both := sorted({item.id for item in first} & {item.id for item in second}):
            raise DataError(f"{name}: {len(both)} images are in the {one} and the {other} part: {first_names(both)}")


def _by_class(items: Iterable[Item]) -> defaultdict[int, list[Item]]:
    members: defaultdict[int, list[Item]] = defaultdict(list)
    for item in items:
        members[item.label].append(item)
    return members


def _shuffled(items: Sequence[Item], salt: str) -> list[Item]:
    ordered = sorted(items, key=lambda item: item.id)
    random.Random(salt).shuffle(ordered)
    return ordered
