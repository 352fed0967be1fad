"""WCAG 2.2 AA by axe-core, on every tab, in light and dark; and the main path by keyboard alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from support.browser import opened, window_of
from support.server import Served
from support.steps import after, expect, wait, with_picture

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
SCROLLS = re.compile("pan-x pan-y pinch-zoom|manipulation")  # two names of one thing
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES = {"runOnly": {"type": "tag", "values": TAGS}, "rules": {"label-content-name-mismatch": {"enabled": True}}}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation_on_any_tab(window: Any, app: Served, theme: str) -> None:
    with opened(window, f"{app.url}/?__theme={theme}") as page:
        with_picture(page)
        told = []
        for tab in ("Image", "Batch", "Video", "Compare", "About"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(200)  # while it fades in, its contrast is low
            found = axe.Axe().run(page, options=RULES).response["violations"]
            told += [f"{tab}: {one['id']}: {node['target']} {node.get('failureSummary', '')}"
                     for one in found for node in one["nodes"]]
        assert not told, "\n".join(told)


def test_the_focus_is_seen_on_every_kind_of_control(page: Any) -> None:
    with_picture(page)
    for place in ("#tool input[type=radio]", ".gs-bar input[type=checkbox]", "#threshold input[type=range]", ".gs-bar button",
                  ".gs-canvas", "#threshold input[type=number]"):
        page.locator(place).first.focus()
        page.keyboard.press("Shift")  # from now on the keyboard is what is used
        style = "(it) => [getComputedStyle(it).outlineStyle, getComputedStyle(it).outlineWidth, getComputedStyle(it).boxShadow]"
        line, width, shadow = page.locator(place).first.evaluate(style)
        assert (line != "none" and width != "0px") or shadow != "none", place


def test_the_first_touch_after_a_tool_is_taken_draws_and_does_not_scroll(browser: Any, app: Served) -> None:
    with window_of(browser, has_touch=True) as window, opened(window, app.url) as page:
        page.set_viewport_size({"width": 768, "height": 1024})
        with_picture(page)
        expect(page.locator(".gs-canvas")).to_have_css("touch-action", SCROLLS)
        page.get_by_label("Brush: add").tap()
        expect(page.locator(".gs-canvas")).to_have_css("touch-action", "none")
        page.locator(".gs-canvas").scroll_into_view_if_needed()
        box, touches = page.locator(".gs-canvas").bounding_box(), page.context.new_cdp_session(page)
        x, y = box["x"] + 200, box["y"] + box["height"] - 60

        def touch(kind: str, *places: tuple[float, float]) -> None:
            touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in places]})

        def drag() -> None:
            touch("touchStart", (x, y))
            for step in range(1, 9):
                touch("touchMove", (x, y - 12 * step))
            touch("touchEnd")

        after(page, drag)
        wait(page, "#words", "Corrected by hand")
        page.wait_for_timeout(400)
        page.get_by_label("Look").tap()
        expect(page.locator(".gs-canvas")).to_have_css("touch-action", SCROLLS)


def test_what_it_is_for_stays_in_sight_when_the_page_is_scrolled(page: Any) -> None:
    with_picture(page)
    page.mouse.wheel(0, 2000)
    page.wait_for_timeout(300)
    place = page.get_by_text("Research use only. Not a medical device.", exact=True).bounding_box()
    assert place["y"] >= 0 and place["y"] + place["height"] <= 900


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
