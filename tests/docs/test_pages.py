"""What README and docs say of files, tests, settings and commands is so."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gps_seg.cli import app
from gps_seg.config import OPTIONS, PAGES, page_of
from gps_seg.settings import known_keys

ROOT = Path(__file__).parents[2]
FILES = sorted(file for pattern in ("*.md", "docs/*.md", "*/README.md", "gps_seg/core/README.md") for file in ROOT.glob(pattern))
TEXTS = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}
KEYS = {key for task in PAGES for method in OPTIONS for key in known_keys(page_of(task, method))}
SHOWN = [(name, line.split("  #")[0].strip()) for name, text in TEXTS.items()
         for line in re.findall(r"^(?:OMP_NUM_THREADS=1 )?(gps-seg .*)$", text, re.MULTILINE)]


def test_the_page_of_settings_is_the_page_of_settings() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))["page"]()
    assert TEXTS["docs/settings.md"] == written, "run make docs and commit docs/settings.md"
    sections = {"model", "data", "data.augment", "selection", "train", "evaluate"}
    assert {key for key in KEYS if f"`{key}`" not in written} <= sections


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len(TEXTS["README.md"].splitlines()) < 150


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_a_page_names_are_there(name: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXTS[name])
    folders, kinds = "apps|configs|docs|gps_seg|notebooks|results|tests", "yaml|py|md|ipynb|sh"
    paths = re.findall(rf"\b((?:{folders})/[\w/.-]+\.(?:{kinds}))", TEXTS[name])
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / "tests" / path).exists()] == []


def test_laws_have_the_tests_that_the_page_names() -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", TEXTS["docs/architecture.md"].split("## Laws")[1].split("\n## ")[0])
    assert len(named) > 10
    for file, test in named:
        assert not test or f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, test)
        assert (ROOT / "tests" / file).is_file(), file


@pytest.mark.parametrize(("name", "line"), SHOWN)
def test_a_command_that_a_page_shows_is_one_of_the_programs(name: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.context_class(command, ignore_unknown_options=False)
    command.make_parser(context).parse_args(list(words))  # raises for an option that it does not have
    overrides = [word.split("=")[0] for word in words if re.match(r"[a-z_]+(\.[a-z_]+)*=", word)]
    if command.name in ("train", "classify"):
        assert [key for key in overrides if key not in KEYS] == [], line


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])  # which names former ones
def test_settings_that_a_page_names_exist(name: str) -> None:
    sections = "model|data|selection|train|evaluate"
    named = set(re.findall(rf"`((?:{sections})\.[a-z_.]+)(?:=[^`]*)?`", TEXTS[name])) - KEYS
    assert {key for key in named if Path(key).suffix not in (".txt", ".json", ".bin", ".py", ".safetensors", ".onnx")} == set()
