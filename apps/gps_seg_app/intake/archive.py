"""The files of a batch: several uploads, or what is in one zip. Nothing is unpacked to disk and no size is believed."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gps_seg_app.intake.pictures import GONE, file_kind
from gps_seg_app.limits import AppError, Limits

WANTED = "Expected pictures, or one zip of pictures"
DAMAGED = "This zip is cut short or damaged: pack it again."
ADDED_BY_SYSTEMS = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
# Deflate packs at most about 1000 : 1. Pictures hardly pack at all; only BMP and TIFF do, seldom over 100 : 1.
MOST_RATIO, SMALL = 200, 1_000_000
CHUNK = 1 << 20
LONGEST_NAME = 120
MOST_DIRECTORY = 4_000_000  # bytes of a zip's table of contents; 200 entries with the longest usual names have 60,000
END_SIZE, LOCATOR_SIZE = 22, 20  # of the records at a zip's end; the locator is there in zip64 only, meant for over 4 GB
BROKEN = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, KeyError, IndexError)


@dataclass(frozen=True)
class Entry:
    """A file to read: ``path`` on disk, or ``inside`` the zip at ``path``. ``name`` is to be shown only if opted in."""

    path: Path
    name: str
    inside: zipfile.ZipInfo | None = None


def shown_name(name: str) -> str:
    """A file's name as an export may show it: without folders and control signs, at most 120 signs."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(sign for sign in last if sign.isprintable())[:LONGEST_NAME]


def is_zip(path: Path) -> bool:
    """By content. Raises AppError if the file cannot be read any more."""
    return file_kind(_head(path)) == "ZIP archive"


def entries(source: Path | Sequence[Path], limits: Limits) -> list[Entry]:
    """What there is to read, in order; checks numbers and announced sizes, reads no picture.

    Raises:
        AppError: nothing, too many, or a zip that is too large, damaged or encrypted.
    """
    paths = [source] if isinstance(source, Path) else list(source)
    if not paths:
        raise AppError(f"{WANTED}; nothing came: choose some files.")
    found = []
    for path in paths:
        found += _inside(path, limits) if is_zip(path) else [Entry(path, shown_name(path.name))]
    if not found:
        raise AppError(f"{WANTED}; this zip holds no file: choose another.")
    if len(found) > limits.batch_files:
        raise AppError(f"{WANTED}, at most {limits.batch_files}; these are {len(found)}: send them in parts.")
    return found


def read_entry(entry: Entry, limits: Limits) -> bytes:
    """The bytes of one file, never more than one byte over the limit for a picture, whatever the zip says of it.

    Raises:
        AppError: damaged, too large, packed suspiciously well, or a zip in a batch.
    """
    inside, most = entry.inside, limits.upload_bytes + 1
    data = _head(entry.path, most) if inside is None else _unpack(entry.path, inside, limits)
    if file_kind(data[:512]) == "ZIP archive":
        raise AppError(f"{WANTED}; this file is a zip among other files or within a zip: send it on its own.")
    return data


def _inside(path: Path, limits: Limits) -> list[Entry]:
    try:
        if path.stat().st_size > limits.batch_bytes:
            raise AppError(f"{WANTED} of at most {limits.batch_bytes / 1e6:.0f} MB: send it in parts.")
        _check_directory(path, limits)
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and not _added(info.filename)]
    except BROKEN:
        raise AppError(DAMAGED) from None
    if any(info.flag_bits & 0x1 for info in infos):
        raise AppError("This zip is encrypted: pack it again without a password.")
    if sum(info.file_size for info in infos) > limits.unpacked_bytes:
        raise AppError(f"{WANTED} of at most {limits.unpacked_bytes / 1e6:.0f} MB once unpacked: send it in parts.")
    return [Entry(path, shown_name(info.filename), info) for info in infos]


def _check_directory(path: Path, limits: Limits) -> None:
    """Refuse a table of contents of millions of entries before it is parsed: each costs far more memory than its bytes."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_SIZE - 0xFFFF - LOCATOR_SIZE))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + END_SIZE:
        raise AppError(DAMAGED)
    size, before = struct.unpack_from("<I", tail, end + 12)[0], tail[max(0, end - LOCATOR_SIZE) : end]
    if size > MOST_DIRECTORY or before[:4] == b"PK\x06\x07":
        raise AppError(f"{WANTED}, at most {limits.batch_files}; this zip is made for far more: send them in parts.")


def _added(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any(part in ADDED_BY_SYSTEMS or part.startswith("._") for part in parts)


def _unpack(path: Path, info: zipfile.ZipInfo, limits: Limits) -> bytes:
    """In pieces, and no further than the limit: the announced size may be a lie."""
    if info.file_size > max(SMALL, MOST_RATIO * info.compress_size):
        raise AppError("This file in the zip is packed far more tightly than a picture can be: it was not opened.")
    held, size = [], 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            while size <= limits.upload_bytes and (piece := file.read(CHUNK)):
                held.append(piece)
                size += len(piece)
    except BROKEN:
        raise AppError("This file in the zip is cut short or damaged: pack it again.") from None
    return b"".join(held)


def _head(path: Path, most: int = 512) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        raise AppError(GONE) from None
