"""Polyp data sets by name or folder: what a word on the command line stands for, where it lies, and which images it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gps_seg.data.places import candidates, is_called, subfolders, unknown
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.segmentation.known import FOLDER, GROUPS, KNOWN, KnownSet
from gps_seg.tasks.segmentation.listed import is_list, listed_pairs
from gps_seg.tasks.segmentation.pairs import Pair, image_folders, pair_folder

DRAWN = "none: the pictures are drawn"  # terms of the phantoms
# The names that are scored by a part of their split, all others as a whole.
SPLIT = ("phantom", *(name for name, known in KNOWN.items() if known.published))


def expand(data: Sequence[str]) -> list[str]:
    """Every single set of a list of names and folders: groups and folders of data sets become what they hold.

    Raises:
        ConfigError: a set is given twice.
        DataError: no folder and no known name.
    """
    found = [single for item in data for single in _singles(item)]
    places = [str(Path(single).resolve()) if Path(single).is_dir() else single for single in found]
    if twice := [name for name, number in Counter(places).items() if number > 1]:
        raise ConfigError(f"--data: {', '.join(twice)} given twice")
    return found


def _singles(item: str) -> list[str]:
    if folder := as_folder(item):
        return [item] if layout_of(folder) else [str(child) for child in subfolders(folder) if layout_of(child)] or [item]
    if is_list(Path(item)):
        return [item]
    if item in GROUPS:
        return list(GROUPS[item])
    if item not in SPLIT and item not in KNOWN:
        raise unknown_set(item)
    return [item]


def unknown_set(name: str) -> DataError:
    """What to say about a name that is no set and no folder."""
    return unknown("images/ and masks/", name, [*KNOWN, "phantom", *GROUPS])


def as_folder(data: str) -> Path | None:
    """The folder that is meant; None for a name, also where a folder of that name stands here that is no data set."""
    folder = Path(data)
    return folder if folder.is_dir() and (data not in KNOWN or layout_of(folder)) else None


def set_pairs(data: str, root: Path | None = None) -> list[Pair]:
    """All pairs of a folder, of a COCO or CSV file, or of a known set in ``root`` or wherever it is found, sorted by id.

    Raises:
        DataError: not there (the text says where to get it), an unknown name, or images and masks that do not match.
    """
    if root is None and is_list(Path(data)):
        return listed_pairs(Path(data))
    if root is None and (folder := as_folder(data)):
        return pair_folder(folder, layout_of(folder) or FOLDER)
    return pair_folder(folder_of(data, root), KNOWN[data])


def folder_of(name: str, root: Path | None = None) -> Path:
    """Where a known set is. Raises DataError: an unknown name, or it is not there; the text says where to get it."""
    if name not in KNOWN:
        raise unknown_set(name)
    known = KNOWN[name]
    if root is not None and not root.is_dir():
        raise DataError(f"data.root: expected the {name} folder at {root}, found none")
    if found := locate(name, root) or root:
        return found
    raise DataError(f"{known.title} is not here: get it from {known.source} ({known.terms}) and put it in a folder "
                    f"{known.folders[0].strip('*')} under GPS_SEG_DATA or data/; data.name=phantom needs no images")


def locate(name: str, root: Path | None = None) -> Path | None:
    """The folder of a known set: ``root`` or a folder in it, else under $GPS_SEG_DATA, else ./data; None if it is not there.

    A folder that is called as a part of the set that others publish is not taken for the whole.

    Raises:
        DataError: $GPS_SEG_DATA does not exist.
    """
    known = KNOWN[name]
    return next((folder for folder in candidates(known.folders, root)
                 if (folder == root or identify(folder) in (name, None)) and image_folders(folder, known)), None)


def layout_of(folder: Path) -> KnownSet | None:
    """What a folder is laid out as: the set that it is called after, images/ and masks/, or any known set; None if nothing."""
    name = identify(folder)
    first = [KNOWN[name]] if name else []
    return next((known for known in (*first, FOLDER, *KNOWN.values()) if image_folders(folder, known)), None)


def identify(folder: Path) -> str | None:
    """The known set whose folder name this is, the longest name first; None if it is no known name."""
    patterns = [(pattern, name) for name, known in KNOWN.items() for pattern in known.folders]
    longest_first = sorted(patterns, key=lambda item: -item[0].count("/"))
    return next((name for pattern, name in longest_first if is_called(folder, pattern)), None)


def known_name(data: str) -> str | None:
    """The known set that a name or a folder stands for, if any."""
    return identify(folder) if (folder := as_folder(data)) else data if data in KNOWN else None


def known_set(data: str) -> KnownSet | None:
    """The entry of :func:`known_name`."""
    return KNOWN.get(known_name(data) or "")


def number_warning(data: str, images: int) -> str:
    """What to say if a whole known set has another number of images than published; empty if it has as many."""
    known = known_set(data)
    if known is None or images == known.images:
        return ""
    published = f"{known.images}" if known.sure else f"{known.images} (unverified)"
    return f"{label(data)} holds {images} images, {known.title} as published {published}: not the whole set, or another one"


def sequence_warning(data: str) -> str:
    """What to say of scores on one part of a set whose images are frames of few sequences; else empty."""
    known = known_set(data)
    if known is None or not known.sequences:
        return ""
    return (f"{known.title} is made of {known.sequences}: neighbouring frames look alike and stand on both sides of its split, "
            "so its scores are too high; data.train_list and data.test_list can name whole sequences")


def overlap_warning(data: str) -> str:
    """What to say of a model trained on a set that holds images of others; else empty."""
    known = known_set(data)
    if known is None or not known.images_of:
        return ""
    others = " and ".join(KNOWN[name].title for name in known.images_of)
    return f"{known.title} holds images of {others}: what is trained on it has seen them"


def title_of(data: str) -> str:
    """A set's title as its authors write it, else its name."""
    return KNOWN[data].title if data in KNOWN else "drawn phantoms" if data == "phantom" else data


def terms_of(data: str) -> str | None:
    """What the owners of a set allow; None for a set that is not known."""
    return KNOWN[data].terms if data in KNOWN else DRAWN if data == "phantom" else None


def label(data: str) -> str:
    """A short name for tables: the name, or the folder's own."""
    if is_list(Path(data)):
        return Path(data).name
    return Path(data).name or Path(data).resolve().name if Path(data).is_dir() else data


def labels(data: Sequence[str]) -> list[str]:
    """Short names that differ: folders of the same name keep their path."""
    counted = Counter(label(item) for item in data)
    return [label(item) if counted[label(item)] == 1 else item for item in data]
