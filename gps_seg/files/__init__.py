"""Files that are whole or not there: the one writer of bytes, text and JSON, the one reader of JSON. Needs no torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from gps_seg.errors import CheckpointError, GpsSegError, WriteError


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, making its folder: after a crash at any moment the old or the new content is there.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """As :func:`write_bytes`, for what is too large to be held: what the block writes takes the file's place at its end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def disk_error(path: Path, error: OSError) -> WriteError:
    """The sentence for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(f"no space left for {path}: what was written before is intact; make room and run the same command "
                          "again, a training run with --resume")
    return WriteError(f"cannot write {path}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 as :func:`write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Any) -> None:
    """Write JSON as :func:`write_bytes` does; refuses NaN, which no JSON reader but Python's accepts."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, what: str, kind: type[GpsSegError] = CheckpointError) -> Any:
    """Read JSON. Raises an error of the ``kind`` given that names the file and what it should have been."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise kind(f"expected {what} at {path}, found none") from None
    except OSError as error:
        raise kind(f"{path}: expected {what}, cannot read it ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise kind(f"{path}: expected {what}, the file is damaged or something else") from None


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
