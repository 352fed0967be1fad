"""What is wrong with a data set, found before training: every problem with its file's name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import MASK_THRESHOLD, is_ambiguous, read_image, read_mask_values
from gps_seg.data.splits import Splits
from gps_seg.errors import DataError
from gps_seg.tasks.segmentation.pairs import Pair

# Bits of 256 in which two images' hashes may differ and still count as one scene. On Kvasir-SEG's 1000 images the four
# pairs with a correlation above 0.99 differ in 1 to 12 bits, all others in 35 or more.
NEAR_BITS = 20


@dataclass(frozen=True)
class Finding:
    """One problem: ``error`` stops a training run, ``warning`` does not."""

    level: Literal["error", "warning"]
    file: str
    text: str


@dataclass(frozen=True)
class Look:
    """What was seen of a pair.

    Attributes:
        split: the part of its set it is in.
        digest: sha256 of the image's pixels; empty if it cannot be read.
        hash: see :func:`difference_hash`; None if the image cannot be read.
        mask_digest: sha256 of the mask at its threshold; empty if it cannot be read.
    """

    pair: Pair
    split: str
    findings: tuple[Finding, ...]
    digest: str = ""
    hash: NDArray[np.bool_] | None = None
    mask_digest: str = ""


def difference_hash(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """256 bits, bool (256,): whether brightness rises from each cell of a 16 x 17 grid to the next on its right.

    Survives rescaling, recompression and changes of brightness; not crops and flips.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return (small[:, 1:] > small[:, :-1]).flatten()


def audit(splits: Splits[Pair]) -> list[Finding]:
    """Look at every file of every split.

    Errors: unreadable image or mask, sizes that differ, masks without two clear levels, identical images in two splits.
    Warnings: near-identical images in two splits, empty masks.
    """
    return judge(look_at((pair, name) for name in ("train", "inner", "test") for pair in getattr(splits, name)))


def look_at(labelled: Iterable[tuple[Pair, str]]) -> list[Look]:
    """Read every image and mask once; the second of each tuple is the part of the set."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda item: _look(*item), labelled))


def judge(looks: Sequence[Look]) -> list[Finding]:
    """The findings of one set, see :func:`audit`."""
    return [finding for look in looks for finding in look.findings] + _identical(looks) + _near(looks)


def _look(pair: Pair, split: str) -> Look:
    findings: list[Finding] = []
    image = mask = None
    try:
        image = read_image(pair.image)
    except DataError as error:
        findings.append(Finding("error", str(pair.image), _without_path(error, pair.image)))
    try:
        mask = read_mask_values(pair.mask)
    except DataError as error:
        findings.append(Finding("error", str(pair.mask), _without_path(error, pair.mask)))
    if mask is not None:
        findings += _judge_mask(pair, mask, None if image is None else image.shape[:2])
    if image is None:
        return Look(pair, split, tuple(findings))
    limit = 0 if mask is None or mask.max() <= 1 else MASK_THRESHOLD
    label = "" if mask is None else hashlib.sha256(np.packbits(mask > limit).tobytes()).hexdigest()
    return Look(pair, split, tuple(findings), hashlib.sha256(image.tobytes()).hexdigest(), difference_hash(image), label)


def _without_path(error: DataError, path: object) -> str:
    return str(error).removeprefix(f"{path}: ")


def _judge_mask(pair: Pair, mask: NDArray[np.uint8], image_size: tuple[int, ...] | None) -> Iterable[Finding]:
    name = str(pair.mask)
    if image_size is not None and mask.shape != image_size:
        sizes = f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image {image_size[1]} x {image_size[0]}"
        yield Finding("error", name, sizes)
    if is_ambiguous(mask):
        yield Finding("error", name, "expected two levels, but more than 2 % of the mask is neither black nor white")
    elif mask.max() == 0:
        yield Finding("warning", name, "the mask is empty: a frame without polyp")


def _identical(looks: Sequence[Look]) -> list[Finding]:
    seen: dict[str, Look] = {}
    findings = []
    for look in looks:
        if not look.digest:
            continue
        first = seen.setdefault(look.digest, look)
        if first.split != look.split:
            findings.append(Finding("error", str(look.pair.image),
                                    f"the same picture is in {first.split} ({first.pair.id}) and in {look.split}"))
    return findings


def _near(looks: Sequence[Look]) -> list[Finding]:
    hashed = [look for look in looks if look.hash is not None]
    if len(hashed) < 2:
        return []
    rows, columns = np.nonzero(np.triu(bits_apart(hashed, hashed) <= NEAR_BITS, 1))
    return [
        Finding("warning", str(hashed[b].pair.image),
                f"in {hashed[b].split}, nearly the same picture as {hashed[a].pair.id} in {hashed[a].split}")
        for a, b in zip(rows.tolist(), columns.tolist(), strict=True)
        if hashed[a].split != hashed[b].split and hashed[a].digest != hashed[b].digest
    ]


def bits_apart(a: Sequence[Look], b: Sequence[Look]) -> NDArray[np.float32]:
    """In how many of 256 bits the hashes differ, (len(a), len(b)); every look must have a hash."""
    ours, theirs = (np.array([look.hash for look in looks], np.float32) * 2 - 1 for looks in (a, b))
    return (ours.shape[1] - ours @ theirs.T) / 2


def check_pairs(splits: Splits[Pair], *, near_duplicates: str = "warn") -> list[Finding]:
    """Audit before training; returns the warnings worth saying.

    Args:
        near_duplicates: "warn", "error" or "ignore".

    Raises:
        DataError: any error, all files named (the first ten, then a count).
    """
    findings = audit(splits)
    near = [finding for finding in findings if "nearly the same" in finding.text]
    errors = [finding for finding in findings if finding.level == "error"] + (near if near_duplicates == "error" else [])
    if errors:
        raise DataError(f"{len(errors)} problems in the data: {'; '.join(say(errors))}")
    return near if near_duplicates == "warn" else []


def say(findings: Sequence[Finding], most: int = 10) -> list[str]:
    """A line for each of the first findings, and one that counts the others."""
    lines = [f"{finding.file}: {finding.text}" for finding in findings[:most]]
    return [*lines, f"and {len(findings) - most} more, see gps-seg data check"] if len(findings) > most else lines
