"""The page of ``gps-seg app --fast``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.browser import opened
from support.server import served
from support.steps import expect


def test_the_page_says_that_the_model_looks_at_less(window: Any, tmp_path: Path, trained: Callable[..., Path]) -> None:
    with served(tmp_path, trained(), "--fast") as app, opened(window, app.url) as page:
        expect(page.locator("#status")).to_contain_text("Fast: it looks at")
        page.get_by_role("tab", name="About").click()
        expect(page.get_by_text("fast: trained and scored at")).to_be_visible()
