"""Frames without a polyp from further sets: which are mixed into training, and which are kept from it to choose on.

Most polyp sets hold a polyp in every image, and a model that never saw another frame finds one everywhere. Frames train from
PolypGen's named centers, from the training parts of other sets, or drawn. They take no part in the selection pass, so that a
run with them tunes the connections that the run without them tunes, and none in the inner validation, which compares steps by
the Dice of polyps. A part of them, whole sequences, is kept from training: ``gps-seg calibrate`` chooses on it when to answer
nothing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gps_seg.config import PolypDataConfig
from gps_seg.data.images import read_mask
from gps_seg.data.splits import Negatives, Splits
from gps_seg.errors import ConfigError, DataError, first_names
from gps_seg.tasks.segmentation.centers import center_of, sequence_of
from gps_seg.tasks.segmentation.collisions import parts_of
from gps_seg.tasks.segmentation.pairs import Pair, pair_folder
from gps_seg.tasks.segmentation.phantom import phantom_folder
from gps_seg.tasks.segmentation.sets import as_folder, known_name, label

PHANTOM = "phantom"


def load_negatives(config: PolypDataConfig) -> Negatives[Pair]:
    """The frames of all of ``data.negatives``, each set divided by itself; ids are SET/ID.

    Raises:
        DataError: a set is not there, holds frames without a polyp of fewer than two sequences, or of no known center.
        ConfigError: it is the run's own set, or it is not said which centers train.
    """
    if config.negative_centers and not any(map(_has_centers, config.negatives)):
        raise ConfigError("data.negative_centers is read for polypgen alone, and data.negatives names other sets")
    parts = [_divide(name, _frames(name, config), config) for name in config.negatives]
    train, held = (tuple(pair for part in parts for pair in part[at]) for at in (0, 1))
    return Negatives(train, held, config.negative_share if train else 0.0)


def describe_negatives(config: PolypDataConfig) -> str:
    """What is mixed into training, in words without a path; empty if nothing is."""
    centers = f" (PolypGen's centers {', '.join(map(str, config.negative_centers))})" if config.negative_centers else ""
    return ", ".join(map(label, config.negatives)) + centers


def with_negatives(splits: Splits[Pair]) -> Splits[Pair]:
    """The parts with their negatives in them, as far as a picture may stand in one part alone."""
    negatives = splits.negatives
    return replace(splits, train=(*splits.train, *negatives.train), inner=(*splits.inner, *negatives.held))


def _frames(name: str, config: PolypDataConfig) -> list[Pair]:
    """The frames without a polyp of one set that may train."""
    if name == PHANTOM:
        return pair_folder(phantom_folder(config.negative_phantoms, seed=config.split_seed, empty=True))
    if _is_own(name, config):
        raise ConfigError(f"data.negatives: {label(name)} is the run's own data set, whose frames without a polyp train anyway")
    pairs = [pair for pair, part in parts_of(name) if part != "test"]
    if _has_centers(name):
        pairs = _of_centers(name, pairs, config.negative_centers)
    with ThreadPoolExecutor() as pool:
        empty = list(pool.map(lambda pair: not read_mask(pair.mask).any(), pairs))
    return [pair for pair, is_empty in zip(pairs, empty, strict=True) if is_empty]


def _is_own(name: str, config: PolypDataConfig) -> bool:
    folder = as_folder(name)
    same = folder is not None and config.root is not None and folder.resolve() == config.root.resolve()
    return same or config.name in (name, known_name(name))


def _has_centers(name: str) -> bool:
    return name != PHANTOM and (known_name(name) == "polypgen" or any(center_of(pair) for pair, _ in parts_of(name)))


def _of_centers(name: str, pairs: Sequence[Pair], centers: Sequence[int]) -> list[Pair]:
    """The frames of these centers alone, since what trains is no test any more."""
    if not centers:
        raise ConfigError(f"data.negatives: {label(name)} is there to test on; say which of its six centers train, such as "
                          "data.negative_centers=[1,2]: the others stay its test")
    found = {pair: center_of(pair) for pair in pairs}
    if unknown := [pair.id for pair, center in found.items() if center is None]:
        raise DataError(f"data.negative_centers: of {len(unknown)} frames of {label(name)} no center is known: "
                        f"{first_names(unknown)}; a manifest.csv beside its images can say it, with the columns name and centre")
    return [pair for pair, center in found.items() if center in centers]


def _divide(name: str, pairs: Sequence[Pair], config: PolypDataConfig) -> tuple[list[Pair], list[Pair]]:
    """Frames that train and frames that are held, drawn by ``data.split_seed``; a sequence is on one side, and both have one."""
    sequences: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        sequences[sequence_of(pair)].append(replace(pair, id=f"{label(name)}/{pair.id}"))
    if len(sequences) < 2:
        raise DataError(f"data.negatives: expected frames without a polyp of at least two sequences in {label(name)}, to train "
                        f"on and to choose on, found {len(pairs)} frames of {len(sequences)}")
    order = sorted(sequences)
    random.Random(f"negatives {config.split_seed}").shuffle(order)
    held: list[Pair] = []
    while len(order) > 1 and len(held) < max(1, round(config.negative_held * len(pairs))):
        held += sequences[order.pop()]
    return [pair for sequence in sorted(order) for pair in sequences[sequence]], held
