"""Find known data sets on this machine and pair their images with their masks, whatever their folders look like."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gps_seg.config import PolypDataConfig
from gps_seg.data.images import images_by_stem
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.segmentation.known import GROUPS, KNOWN, KnownSet
from gps_seg.tasks.segmentation.pairs import LAYOUTS, Pair, find_root, load_splits, match_stems, pair_folder, search_folder

SPLIT = ("kvasir-seg", "phantom")  # the names that load_splits splits by lists
Folders = list[tuple[Path, Path]]


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
    folder = Path(item)
    if folder.is_dir():
        if _layout_of(folder) is None and item not in KNOWN:
            return [str(child) for child in _subfolders(folder) if _layout_of(child)] or [item]
        return [item]
    if item in GROUPS:
        return list(GROUPS[item])
    if item not in SPLIT and item not in KNOWN:
        raise DataError(unknown(item))
    return [item]


def unknown(name: str) -> str:
    """What to say about a name that is no set and no folder."""
    nearest = difflib.get_close_matches(_plain(name), [*KNOWN, *GROUPS], n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "gps-seg data list shows all names"
    return f"--data: expected kvasir-seg, phantom or a folder with images/ and masks/, or a known name, got {name!r}; {hint}"


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """sha256 over names and bytes of all images and masks: tells whether scores are of these files."""
    found = hashlib.sha256()
    for pair in pairs:
        for path in (pair.image, pair.mask):
            found.update(pair.id.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def set_pairs(data: str) -> list[Pair]:
    """All pairs of a folder or of a known set, sorted by id; the id is the file stem, after the folder's name where stems repeat.

    Raises:
        DataError: not there (the text says where to get it), an unknown name, or images and masks that do not match.
    """
    if Path(data).is_dir() and (data not in KNOWN or _layout_of(Path(data))):
        return _folder_pairs(Path(data))
    if data not in KNOWN:
        raise DataError(unknown(data))
    root = locate(data)
    if root is None:
        known = KNOWN[data]
        raise DataError(f"{known.title} is not here: get it from {known.source} ({known.terms}) and put it in a folder "
                        f"{known.folders[0].strip('*')} under GPS_SEG_DATA or data/")
    return _pairs(KNOWN[data], root, _folders(KNOWN[data], root))


def locate(name: str) -> Path | None:
    """The folder of a known set under $GPS_SEG_DATA, else ./data; None if it is not there.

    Raises:
        DataError: $GPS_SEG_DATA does not exist.
    """
    if name == "kvasir-seg":
        return find_root(name)
    base, known = search_folder(), KNOWN[name]
    roots = [folder for pattern in known.folders for folder in _walk(base, pattern)]
    if identify(base) == name:
        roots.append(base)
    nested = [child for root in roots for child in _subfolders(root)]  # archives often hold a folder of their own name
    return next((root for root in (*roots, *nested) if _folders(known, root)), None)


def identify(folder: Path) -> str | None:
    """The known set whose folder name this is, the longest name first; None if it is no known name."""
    parts = [_plain(part) for part in folder.absolute().parts]
    patterns = [(pattern.split("/"), name) for name, known in KNOWN.items() for pattern in known.folders]
    for pattern, name in sorted(patterns, key=lambda item: -len(item[0])):
        tail = parts[-len(pattern) :]
        if len(tail) == len(pattern) and all(fnmatchcase(part, wanted) for part, wanted in zip(tail, pattern, strict=True)):
            return name
    return None


def known_name(data: str) -> str | None:
    """The known set that a name or a folder stands for, if any."""
    return identify(Path(data)) if Path(data).is_dir() else data if data in KNOWN else None


def number_warning(data: str, images: int) -> str:
    """What to say if a whole known set has another number of images than published; empty if it has as many."""
    known = KNOWN.get(known_name(data) or "")
    if known is None or images == known.images:
        return ""
    published = f"{known.images}" if known.sure else f"{known.images} (unverified)"
    return f"{label(data)} holds {images} images, {known.title} as published {published}: not the whole set, or another one"


def label(data: str) -> str:
    """A short name for tables: the name, or the folder's own."""
    return Path(data).name or Path(data).resolve().name if Path(data).is_dir() else data


def is_whole(data: str) -> bool:
    """Whether a set is scored whole, not one part of its split."""
    return Path(data).is_dir() or data not in (*SPLIT, "folder")


def find_pairs(data: str | None, split: str, config: PolypDataConfig) -> list[Pair]:
    """The images to evaluate on.

    Args:
        data: a known name or a folder (all of its pairs), or None for the run's own data set.
        split: "test", "inner" or "train" of kvasir-seg, of phantoms and of the run's own data set.

    Raises:
        ConfigError: another split, or one that the run's protocol leaves empty.
    """
    if split not in ("train", "inner", "test"):
        raise ConfigError(f"--split: expected train, inner or test, got {split!r}")
    if data is not None and (Path(data).is_dir() or data not in SPLIT):
        return set_pairs(data)
    chosen = config if data in (None, config.name) else config.model_copy(update={"name": data, "root": None})
    honest = chosen if chosen.protocol == "released" else chosen.model_copy(update={"protocol": "honest"})
    return list(getattr(load_splits(honest), split))


def labels(data: Sequence[str]) -> list[str]:
    """Short names that differ: folders of the same name keep their path."""
    counted = Counter(label(item) for item in data)
    return [label(item) if counted[label(item)] == 1 else item for item in data]


def _folder_pairs(root: Path) -> list[Pair]:
    name = identify(root)
    first = [KNOWN[name]] if name else []
    plain = any((root / images).is_dir() and (root / masks).is_dir() for images, masks in LAYOUTS)
    if not plain or (name and KNOWN[name].mask_name != r"(.+)"):
        for known in (*first, *KNOWN.values()):
            if folders := _folders(known, root):
                return _pairs(known, root, folders)
    return pair_folder(root)


def _layout_of(root: Path) -> str | None:
    """The name of a known set whose layout a folder has, or "plain"; None if it has none."""
    if any((root / images).is_dir() and (root / masks).is_dir() for images, masks in LAYOUTS):
        return "plain"
    return next((name for name, known in KNOWN.items() if _folders(known, root)), None)


def _folders(known: KnownSet, root: Path) -> Folders:
    """Folders of images with their folders of masks, by the first layout that is there."""
    for images, masks in known.layouts:
        ours, theirs = _walk(root, images), _walk(root, masks)
        if ours and theirs:
            if len(ours) != len(theirs):
                raise DataError(f"{root}: {len(ours)} folders of images and {len(theirs)} of masks; they must be as many")
            return list(zip(ours, theirs, strict=True))
    return []


def _pairs(known: KnownSet, root: Path, folders: Folders) -> list[Pair]:
    found = [(images, pair) for images, masks in folders
             for pair in match_stems(images_by_stem(images), _masks_by_image(known, masks), root)]
    often = Counter(pair.id for _, pair in found)
    named = [pair if often[pair.id] == 1 else Pair(f"{images.name}_{pair.id}", pair.image, pair.mask) for images, pair in found]
    return sorted(named, key=lambda pair: pair.id)


def _masks_by_image(known: KnownSet, folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in images_by_stem(folder).items():
        match = re.fullmatch(known.mask_name, stem)
        image = match[1] if match else stem
        if image in found:
            raise DataError(f"{folder}: {found[image].name} and {path.name} are masks of one image; keep one")
        found[image] = path
    return found


def _walk(base: Path, pattern: str) -> list[Path]:
    found = [base]
    for wanted in pattern.split("/"):
        found = [child for folder in found for child in _subfolders(folder) if fnmatchcase(_plain(child.name), wanted)]
    return found


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot look into {folder}: {error.strerror}") from None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
