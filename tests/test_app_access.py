"""WCAG 2.2 AA by axe-core, on every tab, in light and dark; and the main path by keyboard alone."""

from __future__ import annotations

from typing import Any

import pytest
from app_browser import opened
from app_server import Served
from app_steps import expect, wait, with_picture

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES = {"runOnly": {"type": "tag", "values": TAGS}, "rules": {"label-content-name-mismatch": {"enabled": True}}}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation_on_any_tab(browser: Any, app: Served, theme: str) -> None:
    with opened(browser, f"{app.url}/?__theme={theme}") as page:
        with_picture(page)
        told = []
        for tab in ("Image", "Batch", "Video", "Compare", "About"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(500)
            found = axe.Axe().run(page, options=RULES).response["violations"]
            told += [f"{tab}: {one['id']}: {node['target']} {node.get('failureSummary', '')}"
                     for one in found for node in one["nodes"]]
        assert not told, "\n".join(told)


def test_axe_can_find_a_violation(page: Any) -> None:
    page.evaluate("() => document.querySelector('#words').insertAdjacentHTML('afterend', '<button></button>')")
    assert any(one["id"] == "button-name" for one in axe.Axe().run(page, options=RULES).response["violations"])


def test_an_example_is_reached_and_answered_by_keyboard_alone(page: Any) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.textContent.trim()") == "One polyp":
            break
    else:
        raise AssertionError("the example is not reached")
    page.keyboard.press("Enter")
    wait(page, "#timing", "768 x 576 pixels")
    expect(page.locator("#words")).not_to_contain_text("Looking")
