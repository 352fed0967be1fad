"""The documentation as a site: ``make docs``. Needs no network."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network at import otherwise

project, author = "gps-seg", "The gps-seg developers"
copyright = f"{author}, Apache-2.0"
release = metadata.version("gps-seg")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"
html_title = "gps-seg"


def _links_of_elsewhere(_: Any, path: Path, __: str, content: list[str]) -> None:
    """Relative links of an included file are relative to that file, not to the page that includes it."""
    folder = os.path.relpath((HERE / path).resolve().parent, HERE)

    def moved(link: re.Match[str]) -> str:
        target = os.path.normpath(f"{folder}/{link[1]}")
        return f"](path:{target})" if target.startswith("..") else f"]({target})"  # a file to download, or a page

    if folder != ".":
        content[0] = re.sub(r"\]\((?!https?:|#)([^)]+)\)", moved, content[0])


def _bars(_: Any, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """|w| in a docstring is an absolute value, not a substitution."""
    lines[:] = [re.sub(r"(?<![\w`|])\|([^|`]+)\|", r"\\|\1\\|", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("include-read", _links_of_elsewhere)
    app.connect("autodoc-process-docstring", _bars)
