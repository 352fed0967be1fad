"""A file is written whole or not at all, and what cannot be written or read is one sentence."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from gps_seg.errors import CheckpointError, DataError, WriteError
from gps_seg.files import read_json, sha256, write_bytes, write_json, write_text


def test_what_was_written_reads_back_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"name": "Zürich", "n": 1})
    assert read_json(path, "a result") == {"name": "Zürich", "n": 1} and path.read_bytes().endswith(b"}\n")
    write_text(path, "µ\n")
    assert path.read_bytes() == "µ\n".encode() and sha256(path) == hashlib.sha256("µ\n".encode()).hexdigest()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> None:
        raise OSError(number, "full")

    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="no space left for .*a.bin: what was written before is intact; make room and run"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="cannot write .*a.txt: File exists"):
        write_text(tmp_path / "file" / "a.txt", "text")


def test_json_without_a_meaning_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"dice": float("nan")})
    assert not list(tmp_path.iterdir())


def test_json_that_cannot_be_read_is_named_with_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a result at .*none.json, found none"):
        read_json(tmp_path / "none.json", "a result")
    for damaged in (b"{", b"\xff"):
        (tmp_path / "a.json").write_bytes(damaged)
        with pytest.raises(DataError, match="a.json: expected a report, the file is damaged or something else"):
            read_json(tmp_path / "a.json", "a report", DataError)
    with pytest.raises(CheckpointError, match=r"expected a result, cannot read it \(Is a directory\)"):
        read_json(tmp_path, "a result")
