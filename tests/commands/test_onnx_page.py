"""The page beside exported files: what is refused, and that nothing is left then. What it does in a browser: tests/browser."""

from __future__ import annotations

import shutil
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from gps_seg.commands.onnx.page import PAGE_FILE, RUNTIME, RUNTIME_SHA256, check_weights, find_runtime
from gps_seg.errors import ConfigError, DataError
from support.commands import gps_seg

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))


def test_options_that_nothing_would_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        (["--merged", tmp_path / "all.pth", "--page"], "say where with --onnx DIR"),
        (["--onnx", tmp_path / "out", "--runtime", tmp_path], "only the page of --page reads it"),
        (["--onnx", tmp_path / "out", "--page", "--runtime", tmp_path], f"expected ort.wasm.bundle.min.mjs of {RUNTIME} in"),
    ):
        assert gps_seg(monkeypatch, "export", "polyp", *options) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_npm_the_sentence_says_what_else_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=rf"no npm to fetch it with: .*npm pack {RUNTIME}.* --runtime"):
        find_runtime()


def test_without_a_network_it_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    assert gps_seg(monkeypatch, "export", "polyp", "--onnx", tmp_path / "out", "--page") == 2
    said = capsys.readouterr().err
    assert "which npm cannot fetch (code ECONNREFUSED" in said and "--runtime" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["npm"]


def test_files_of_another_version_are_refused_before_they_are_used(tmp_path: Path) -> None:
    for name in RUNTIME_SHA256:
        (tmp_path / name).write_bytes(b"another version")
    with pytest.raises(ConfigError, match=rf"is not the file of {RUNTIME}: expected sha256"):
        find_runtime(tmp_path)
    archive = tmp_path / "another.tgz"
    archive.write_bytes(b"another archive")
    with pytest.raises(ConfigError, match=rf"is not the archive of npm pack {RUNTIME}"):
        find_runtime(archive)


def test_more_weights_than_a_browser_takes_are_refused() -> None:
    check_weights(40_000_000)
    with pytest.raises(ConfigError, match=r"at most 1\.9 GB of weights, .* got 2\.6 GB"):
        check_weights(2_560_000_000)


def test_the_wheel_takes_every_file_of_the_page() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["gps_seg"]
    files = sorted((ROOT / "gps_seg/commands/onnx/web").iterdir())
    assert PAGE_FILE in [file.name for file in files]
    assert all(any(fnmatchcase(f"commands/onnx/web/{file.name}", one) for one in patterns) for file in files)
