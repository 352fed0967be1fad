"""The same picture in two places: across any number of data sets, between training and tested parts, with different masks.

Identical means equal pixels (sha256), whatever the file's name and format; nearly identical means a perceptual hash that
differs in a few bits (``audit.NEAR_BITS``), which rescaling and recompression survive, crops and flips do not. An identical
picture in a training part and in anything that is tested is an error, all else a warning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from gps_seg.config import PolypDataConfig
from gps_seg.data.images import read_mask
from gps_seg.tasks.segmentation.audit import NEAR_BITS, Finding, Look, bits_apart, judge, look_at
from gps_seg.tasks.segmentation.listed import is_list
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.parts import load_splits, own_lists
from gps_seg.tasks.segmentation.sets import SPLIT, as_folder, expand, folder_of, known_set, labels, number_warning, set_pairs

TRAINING, TESTED = ("train", "inner"), ("test", "all")
BLOCK = 512  # pictures compared at once with all of a set, to bound memory
Matrix = dict[str, dict[str, int]]


@dataclass(frozen=True)
class LookedAt:
    """A data set after reading every file of it."""

    name: str
    looks: tuple[Look, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Collisions:
    """Counts of pairs of pictures, sets x sets; the diagonal is within a set. ``near`` leaves out what is identical."""

    identical: Matrix
    near: Matrix
    findings: tuple[Finding, ...]


def look_at_sets(data: Sequence[str]) -> list[LookedAt]:
    """Read and judge every set by itself, as ``audit.audit`` does one.

    Raises:
        ConfigError: a set is given twice.
        DataError: a set is not there, or its images and masks do not match.
    """
    sets = expand(data)
    parts = [parts_of(single) for single in sets]  # all are found before any is read
    found = []
    for name, single, labelled in zip(labels(sets), sets, parts, strict=True):
        looks = look_at(labelled)
        wrong_number = number_warning(single, len(looks))
        extra = [Finding("warning", name, wrong_number)] if wrong_number else []
        found.append(LookedAt(name, tuple(looks), (*extra, *judge(looks))))
    return found


def parts_of(data: str) -> list[tuple[Pair, str]]:
    """Every pair of a set with its part: train, inner and test where lists name all its images, else "all"."""
    if data in SPLIT:
        return _by_lists(PolypDataConfig.model_validate({"name": data}))
    pairs, folder = set_pairs(data), as_folder(data)
    if not is_list(Path(data)) and all(own_lists(folder or folder_of(data))):
        listed = _by_lists(PolypDataConfig.model_validate({"name": "folder", "root": folder} if folder else {"name": data}))
        if len(listed) == len(pairs):
            return listed
    known = known_set(data)
    return [(pair, known.part if known else "all") for pair in pairs]


def _by_lists(config: PolypDataConfig) -> list[tuple[Pair, str]]:
    splits = load_splits(config)
    return [(pair, part) for part in ("train", "inner", "test") for pair in getattr(splits, part)]


def collide(sets: Sequence[LookedAt]) -> Collisions:
    """Compare all pictures with all others. Findings within one set that ``audit`` has are not repeated."""
    names = [one.name for one in sets]
    identical: Matrix = {name: dict.fromkeys(names, 0) for name in names}
    near: Matrix = {name: dict.fromkeys(names, 0) for name in names}
    findings: list[Finding] = []
    for group in _groups(sets):
        _count(identical, [name for name, _ in group])
        findings += _same(group)
    for at, one in enumerate(sets):
        for other in sets[at:]:
            number, found = _near(one, other)
            near[one.name][other.name] = near[other.name][one.name] = number
            findings += found
    return Collisions(identical, near, tuple(findings))


def _groups(sets: Iterable[LookedAt]) -> list[list[tuple[str, Look]]]:
    """Pictures with the same pixels, where there are at least two."""
    groups: dict[str, list[tuple[str, Look]]] = defaultdict(list)
    for one in sets:
        for look in one.looks:
            if look.digest:
                groups[look.digest].append((one.name, look))
    return [group for group in groups.values() if len(group) > 1]


def _count(matrix: Matrix, names: Sequence[str]) -> None:
    present = sorted(set(names))
    for name in present:
        number = names.count(name)
        matrix[name][name] += number * (number - 1) // 2
    for one, other in combinations(present, 2):
        matrix[one][other] += names.count(one) * names.count(other)
        matrix[other][one] = matrix[one][other]


def _same(group: Sequence[tuple[str, Look]]) -> list[Finding]:
    """One finding for each picture after the first, against its worst partner, and one where the masks differ."""
    findings = []
    for at, (name, look) in enumerate(group[1:], start=1):
        earlier = group[:at]
        partner, other = max(earlier, key=lambda item: (_leaks(look, item[1]), item[0] != name))
        if partner != name or other.split == look.split:  # audit names the others
            level: Literal["error", "warning"] = "error" if partner != name and _leaks(look, other) else "warning"
            findings.append(Finding(level, str(look.pair.image),
                                    f"in {_place(name, look)}, the same picture as {other.pair.id} in {_place(partner, other)}"))
        differing = [item for item in earlier if look.mask_digest and item[1].mask_digest not in ("", look.mask_digest)]
        if differing:
            findings.append(_different_masks(name, look, *differing[0]))
    return findings


def _leaks(one: Look, other: Look) -> bool:
    return any(a.split in TRAINING and b.split in TESTED for a, b in ((one, other), (other, one)))


def _place(name: str, look: Look) -> str:
    return name if look.split == "all" else f"{name} ({look.split})"


def _different_masks(name: str, look: Look, partner: str, other: Look) -> Finding:
    a, b = read_mask(look.pair.mask), read_mask(other.pair.mask)
    if a.shape != b.shape:
        how = "of another size"
    else:
        both = int(a.sum()) + int(b.sum())
        how = f"their Dice is {2 * int((a & b).sum()) / both if both else 1.0:.3f}"
    return Finding("warning", str(look.pair.mask), f"in {_place(name, look)}, another mask than {other.pair.id} in "
                   f"{_place(partner, other)} for the same picture: {how}")


def _near(one: LookedAt, other: LookedAt) -> tuple[int, list[Finding]]:
    """How many pairs of pictures are nearly the same, and for each picture of another set its nearest."""
    ours, theirs = ([look for look in each.looks if look.hash is not None] for each in (one, other))
    number, findings = 0, []
    for start in range(0, len(theirs) if ours else 0, BLOCK):
        block = theirs[start : start + BLOCK]
        apart = bits_apart(block, ours)
        apart[np.array([[look.digest] for look in block]) == np.array([look.digest for look in ours])] = np.inf
        close = apart <= NEAR_BITS
        number += int(close.sum())
        for at in np.flatnonzero(close.any(axis=1)).tolist() if one is not other else []:
            look, nearest = block[at], ours[int(apart[at].argmin())]
            findings.append(Finding("warning", str(look.pair.image), f"in {_place(other.name, look)}, nearly the same picture as "
                                    f"{nearest.pair.id} in {_place(one.name, nearest)}"))
    return (number if one is not other else number // 2), findings
