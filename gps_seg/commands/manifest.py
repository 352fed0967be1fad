"""What ``gps-seg predict`` has done, one line of JSON an image, written as it is done: so a prediction that was killed goes on.

Its first line says what decides the answers. Each of several processes writes a ``manifest.RANK.jsonl`` of its own, which begins
with the same line; they are put into one at the end, or before what was killed goes on. Of two lines about an image the
later one counts, and a last line that a kill has cut off does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from gps_seg.errors import DataError
from gps_seg.files import disk_error, replacing

MANIFEST, FORMAT = "manifest.jsonl", "gps-seg predictions 1"
Line = dict[str, Any]


def manifest_files(folder: Path) -> list[Path]:
    """The manifest, and those of processes that were killed."""
    return [path for path in (folder / MANIFEST, *sorted(folder.glob("manifest.[0-9]*.jsonl"))) if path.is_file()]


def entries(folder: Path) -> Iterator[Line]:
    """The lines about images, one at a time in memory. Raises DataError: a damaged file."""
    if (folder / MANIFEST).is_file():
        yield from (line for _, line in _lines(folder / MANIFEST) if "image" in line)


def check_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Refuse to go on with what another model or other settings began. Raises DataError."""
    for path in manifest_files(folder):
        _, former = next(_lines(path), (0, None))
        changed = [name for name in header if former is not None and former.get(name) != header[name]]
        if former is not None and changed:
            said = ", ".join(name if isinstance(header[name], (dict, list)) else f"{name} {former.get(name)}, now {header[name]}"
                             for name in changed)
            raise DataError(f"--resume: {path} was begun with another {said}: go on with the same, or choose another --out")


def gather(folder: Path, header: Mapping[str, Any], order: Sequence[str]) -> None:
    """Put all manifests of a folder into one: a line an image, in the order of the images' names, then those not among them.

    Raises:
        DataError: a damaged file. WriteError: the disk is full.
    """
    files = manifest_files(folder)
    where: dict[str, tuple[int, int]] = {}  # image -> number of the file, place of the line in it
    for number, path in enumerate(files):
        where |= {line["image"]: (number, at) for at, line in _lines(path) if "image" in line}
    names = {name: None for name in (*order, *where) if name in where}
    opened = [path.open("rb") for path in files]
    try:
        with replacing(folder / MANIFEST) as out:
            out.write(_line(header))
            for name in names:
                number, at = where[name]
                opened[number].seek(at)
                out.write(opened[number].readline())
    finally:
        for file in opened:
            file.close()
    for path in files:
        if path.name != MANIFEST:
            path.unlink()


class Writer:
    """Appends lines to a manifest, each flushed; ``header`` begins a new one. Raises WriteError."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.header = path, header
        self._file: BinaryIO

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise disk_error(self.path, error) from None
        if not self._file.tell():
            self.write(self.header)
        return self

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        try:
            self._file.write(_line(line))
            self._file.flush()
        except OSError as error:
            raise disk_error(self.path, error) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(values), allow_nan=False).encode() + b"\n"


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    """Each whole line and the place where it begins."""
    at = 0
    with path.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                return
            try:
                found = json.loads(text)
            except ValueError:
                found = None
            if not isinstance(found, dict) or (at == 0 and found.get("format") != FORMAT):
                raise DataError(f"{path}: expected the lines that gps-seg predict wrote, the file was edited or damaged: begin "
                                "anew with --overwrite, or choose another --out")
            yield at, found
            at += len(text)
