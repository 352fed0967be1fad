"""Downloads that resume, are checked by sha256 before anybody uses them, and unzip safely."""

from __future__ import annotations

import lzma
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

from tqdm import tqdm

from gps_seg import files
from gps_seg.errors import DataError

TIMEOUT_S = 10
CHUNK = 1 << 16
MAX_UNZIPPED_BYTES = 2 << 30
# What zipfile and its decompressors raise for damaged, encrypted and unknown archives.
BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError, IndexError, EOFError)
KVASIR_URL = "https://datasets.simula.no/downloads/kvasir-seg.zip"
KVASIR_SHA256 = "03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7"


def download(url: str, target: Path, *, sha256: str) -> Path:
    """Fetch a file; an interrupted download goes on where it stopped. Returns ``target``.

    Args:
        url: https, or http on this machine.
        sha256: hexadecimal; a file with another sum never gets the target's name.

    Raises:
        DataError: no network, an HTTP error, the wrong content, or no space.
    """
    place = urlparse(url)
    if place.scheme != "https" and (place.scheme != "http" or place.hostname not in ("127.0.0.1", "localhost")):
        raise DataError(f"{url}: downloads need https")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
        found = files.sha256(part)
        if found != sha256:
            part.unlink()
            raise DataError(f"{url}: expected sha256 {sha256[:16]}..., got {found[:16]}...; thrown away, try again")
        os.replace(part, target)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url}: cannot download ({reason}); check the network, or fetch it elsewhere to {target}") from None
    except OSError as error:
        raise DataError(f"{target}: cannot write the download ({error.strerror})") from None
    return target


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - scheme checked
    try:
        answer: Any = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing left to send; the sum decides
            return
        raise
    with answer:
        resumed = answer.status == 206
        total = int(answer.headers.get("Content-Length") or 0) + (have if resumed else 0)
        with part.open("ab" if resumed else "wb") as file, tqdm(
            total=total or None, initial=have if resumed else 0, unit="B", unit_scale=True, desc=part.stem,
            disable=not sys.stderr.isatty(),
        ) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:
        raise DataError(f"{url}: the connection broke at {part.stat().st_size} of {total} bytes; run again to go on")


def unzip(archive: Path, folder: Path) -> Path:
    """Unpack a zip file into a new folder, whole or not at all.

    Raises:
        DataError: not a zip file, a damaged or encrypted one, a member that would land outside the folder, a link, more than
            2 GiB unpacked, or a folder that cannot be written or is not empty.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unzip-", dir=folder.parent, ignore_cleanup_errors=True) as draft:
            content = Path(draft) / "content"  # a temporary folder itself is closed to other users
            content.mkdir()
            with zipfile.ZipFile(archive) as file:
                _check_members(archive, file)
                _extract(file, content)
            os.replace(content, folder)
    except BAD_ARCHIVE as error:
        raise DataError(f"{archive}: expected a zip file ({error})") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot unpack {archive.name} ({error.strerror or error})") from None
    return folder


def _check_members(archive: Path, file: zipfile.ZipFile) -> None:
    for member in file.infolist():
        parts = Path(member.filename.replace("\\", "/")).parts
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in member.filename or is_link:
            raise DataError(f"{archive}: the member {member.filename!r} would be written outside its folder; not unpacked")
    size = sum(member.file_size for member in file.infolist())
    if size > MAX_UNZIPPED_BYTES:
        raise DataError(f"{archive}: {size / 1e9:.1f} GB unpacked is more than {MAX_UNZIPPED_BYTES / 1e9:.1f} GB; not unpacked")


def _extract(file: zipfile.ZipFile, draft: Path) -> None:
    """Write members, counting real bytes: sizes in the directory of a hostile archive are claims."""
    left = MAX_UNZIPPED_BYTES
    for member in file.infolist():
        path = draft / member.filename
        if member.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with file.open(member) as source, path.open("wb") as sink:
            left -= _copy(source, sink, left)


def _copy(source: IO[bytes], sink: IO[bytes], limit: int) -> int:
    written = 0
    while chunk := source.read(CHUNK):
        written += len(chunk)
        if written > limit:
            raise DataError(f"the archive unpacks to more than {MAX_UNZIPPED_BYTES / 1e9:.1f} GB; not unpacked")
        sink.write(chunk)
    return written


def download_kvasir(root: Path, *, url: str = KVASIR_URL, sha256: str = KVASIR_SHA256) -> Path:
    """Put Kvasir-SEG (1000 images, 46 MB) into ``root/Kvasir-SEG`` unless it is there. Research and education only.

    Raises:
        DataError: ``root/Kvasir-SEG`` holds something else, or as :func:`download` and :func:`unzip`.
    """
    folder = root / "Kvasir-SEG"
    if (folder / "images").is_dir():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: expected nothing, or a data set with images/; remove it and download again")
    archive = download(url, root / "kvasir-seg.zip", sha256=sha256)
    draft = root / ".kvasir-seg"
    shutil.rmtree(draft, ignore_errors=True)  # left by a download that was killed after unpacking
    try:
        unzip(archive, draft)
        inner = next((path.parent for path in sorted(draft.rglob("images")) if (path.parent / "masks").is_dir()), None)
        if inner is None:
            raise DataError(f"{archive}: expected images/ and masks/ inside, found neither")
        os.replace(inner, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    archive.unlink()
    return folder
