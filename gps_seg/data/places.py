"""Where things lie on this machine: the folder searched for data sets, folders recognised by their names, the cache. No torch.

In a pattern ``*`` stands for any letters and ``/`` separates folders; letters' case does not matter, and ``_``, blank and ``-``
count as the same sign.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from gps_seg.errors import DataError


def search_folder() -> Path:
    """$GPS_SEG_DATA, else ./data, which need not be there. Raises DataError if $GPS_SEG_DATA does not exist."""
    setting = os.environ.get("GPS_SEG_DATA")
    if setting and not Path(setting).is_dir():
        raise DataError(f"GPS_SEG_DATA: expected a folder at {setting}, found none")
    return Path(setting or "data")


def cache_folder() -> Path:
    """$GPS_SEG_CACHE, else ~/.cache/gps_seg: downloaded weights, drawn phantoms, the user's own ready models."""
    return Path(os.environ.get("GPS_SEG_CACHE") or Path.home() / ".cache" / "gps_seg")


def candidates(patterns: Iterable[str], root: Path | None = None) -> Iterator[Path]:
    """Folders in which a data set may lie, the likeliest first.

    ``root`` and the folders of these names in it; without ``root`` the search folder, if it has such a name itself, and the
    folders of these names in it. Then what stands in all these, because archives often hold a folder of their own name.
    """
    patterns = list(patterns)
    base = search_folder() if root is None else root
    itself = root is not None or any(is_called(base, pattern) for pattern in patterns)
    found = [*([base] if itself else []), *(folder for pattern in patterns for folder in below(base, pattern))]
    yield from found
    for folder in found:
        yield from subfolders(folder)


def below(base: Path, pattern: str) -> list[Path]:
    """The folders below ``base`` that a pattern names, in their order."""
    found = [base]
    for wanted in _plain(pattern).split("/"):
        found = [child for folder in found for child in subfolders(folder) if fnmatchcase(_plain(child.name), wanted)]
    return found


def is_called(folder: Path, pattern: str) -> bool:
    """Whether the end of a folder's path is what a pattern names."""
    wanted = _plain(pattern).split("/")
    tail = folder.absolute().parts[-len(wanted) :]
    return len(tail) == len(wanted) and all(fnmatchcase(_plain(part), one) for part, one in zip(tail, wanted, strict=True))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, hidden ones left out; none if it is not there. Raises DataError: it is closed."""
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot look into {folder}: {error.strerror}") from None


def unknown(kind: str, name: str, names: Iterable[str]) -> DataError:
    """What to say, wherever a user may write it, of a name that is neither a data set's nor a folder's."""
    plain = {_plain(known): known for known in names}
    close = difflib.get_close_matches(_plain(name), plain, n=3)
    near = dict.fromkeys([*close, *(known for known in plain if _plain(name) in known)])
    shown = " or ".join(repr(plain[known]) for known in list(near)[:3])
    hint = f"did you mean {shown}?" if shown else "gps-seg data list shows all names"
    return DataError(f"expected the name of a data set or a folder with {kind}, got {name!r}; {hint}")


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
