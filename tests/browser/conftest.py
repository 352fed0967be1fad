"""One browser for all tests of the page, and for most of them one window of it; each test opens a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.browser import SWITCHES, chromium, opened, window_of
from support.server import Served


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Closed after the last of these tests: while it is open, no other test of this process could run an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        found = player.chromium.launch(executable_path=chromium(), args=list(SWITCHES))
        yield found
        found.close()


@pytest.fixture(scope="package")
def window(browser: Any) -> Iterator[Any]:
    """Pages of one window share what the browser has kept of Gradio's files."""
    with window_of(browser) as found:
        yield found


@pytest.fixture
def page(window: Any, app: Served) -> Iterator[Any]:
    with opened(window, app.url) as made:
        yield made
