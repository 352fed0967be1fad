"""The other tabs in a real browser, two pages at once, and what every page must keep."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.browser import drawn_clip, drawn_zip, opened, png, scene
from support.server import Served
from support.steps import PASTE, after, expect, give, lies_in, mark, shown, shown_mask, wait, with_picture


def test_a_batch_is_worked_through_and_packed(page: Any) -> None:
    page.get_by_role("tab", name="Batch").click()
    page.locator("#batch-start").click()
    wait(page, "#batch-words", "Choose pictures or a zip first.")
    give(page, "#batch-upload", drawn_zip(), "all.zip")
    lies_in(page, "batch", "all.zip")
    page.locator("#batch-start").click()
    wait(page, "#batch-words", "Done: 4 pictures")
    expect(page.locator("#batch-gallery figure")).to_have_count(4)
    assert "patient" not in page.locator("#batch-gallery").inner_text()
    assert "1 unreadable" in page.locator("#batch-words").inner_text()
    with page.expect_download() as waiting:
        page.locator("#batch-downloads a").click()
    names = zipfile.ZipFile(waiting.value.path()).namelist()
    assert "summary.csv" in names and sum(name.endswith("mask.png") for name in names) == 3
    give(page, "#batch-upload", b"PK\x03\x04 broken", "broken.zip")
    lies_in(page, "batch", "broken.zip")
    page.locator("#batch-start").click()
    wait(page, "#batch-words", re.compile("zip"))
    expect(page.locator("#batch-start")).to_be_enabled()


def test_a_batch_can_be_cancelled(page: Any) -> None:
    page.get_by_role("tab", name="Batch").click()
    give(page, "#batch-upload", drawn_zip(60), "all.zip")
    lies_in(page, "batch", "all.zip")
    page.locator("#batch-start").click()
    wait(page, "#batch-words", " of 61 pictures")
    give(page, "#batch-upload", drawn_zip(), "next.zip")  # lined up meanwhile, and still there afterwards
    lies_in(page, "batch", "next.zip")
    page.locator("#batch-stop").click()
    wait(page, "#batch-words", "Cancelled after")
    lies_in(page, "batch", "next.zip")
    page.locator("#batch-start").click()
    wait(page, "#batch-words", "Done: 4 pictures")


def test_a_clip_is_played_with_its_timeline_and_a_click_seeks(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Video").click()
    give(page, "#video-upload", drawn_clip(tmp_path / "clip.mp4"))
    lies_in(page, "video", "clip.mp4")
    page.locator("#video-start").click()
    wait(page, "#video-notes", "frames a second")
    page.locator(".gs-clip video").wait_for(state="visible")
    assert page.evaluate("""() => new Promise((done) => { const v = document.querySelector('.gs-clip video');
        if (v.readyState > 0) done(v.videoWidth);
        v.onloadedmetadata = () => done(v.videoWidth);
        v.onerror = () => done(-1); })""") > 0
    timeline = page.locator(".gs-timeline").bounding_box()
    page.locator(".gs-timeline").click(position={"x": 0.75 * timeline["width"], "y": timeline["height"] / 2})
    assert page.evaluate("() => document.querySelector('.gs-clip video').currentTime") == pytest.approx(1.7, abs=0.3)
    with page.expect_download() as waiting:
        page.locator("#video-downloads").get_by_role("link", name="Table, a row a frame").click()
    assert Path(waiting.value.path()).read_text().startswith("# Research use only")
    give(page, "#video-upload", b"no clip at all", "clip.mov")
    lies_in(page, "video", "clip.mov")
    page.locator("#video-start").click()
    wait(page, "#video-words", "Expected")


def test_a_double_click_on_start_works_once_and_its_answer_stays(page: Any, tmp_path: Path) -> None:
    jobs: list[tuple[str, bytes | Path, str, str, str]] = [
        ("Batch", drawn_zip(), "all.zip", "#batch-words", "Done: 4 pictures"),
        ("Video", drawn_clip(tmp_path / "clip.mp4", frames=6), "clip.mp4", "#video-words", "frames"),
        ("Video", b"no clip at all", "broken.mov", "#video-words", "Expected"),
    ]
    for tab, data, name, place, words in jobs:
        page.get_by_role("tab", name=tab).click()
        job = tab.lower()
        give(page, f"#{job}-upload", data, name)
        lies_in(page, job, name)
        page.locator(f"#{job}-start").dblclick()
        wait(page, place, words)
        page.wait_for_timeout(700)
        wait(page, place, words)
        expect(page.locator(f"#{job}-start")).to_be_enabled()
        expect(page.locator(f"#{job}-stop")).to_be_disabled()


def test_a_job_waits_for_anothers_says_so_and_can_be_cancelled_meanwhile(window: Any, app: Served) -> None:
    with opened(window, app.url) as first, opened(window, app.url) as second:
        for page, data in ((first, drawn_zip(60)), (second, drawn_zip(1))):
            page.get_by_role("tab", name="Batch").click()
            give(page, "#batch-upload", data, "all.zip")
            lies_in(page, "batch", "all.zip")
            page.locator("#batch-start").click()
            wait(page, "#batch-words", " of 61 pictures" if page is first else "Waiting for its turn")
        second.locator("#batch-stop").click()
        wait(second, "#batch-words", "Cancelled: it will not begin.")
        first.locator("#batch-stop").click()
        wait(first, "#batch-words", "Cancelled after")
        wait(second, "#batch-words", "Cancelled before it began.")
        expect(second.locator("#batch-start")).to_be_enabled()


def test_a_choice_before_there_is_a_picture_changes_nothing_but_itself(page: Any, app: Served) -> None:
    page.locator("#threshold input[type=number]").fill("0.03")
    page.locator("#threshold input[type=number]").press("Tab")
    page.locator("#model input").click()
    page.get_by_role("option", name="second").click()
    page.wait_for_timeout(400)
    assert page.locator("#model input").input_value() == "second" and page.locator("#undo").inner_text() == "Undo"
    wait(page, "#words", "No picture yet.")
    page.get_by_role("button", name="One polyp").click()
    wait(page, "#timing", "768 x 576 pixels")
    assert "Traceback" not in app.written


def test_corrections_wait_for_the_model_whose_answer_they_corrected(page: Any, app: Served) -> None:
    with_picture(page)
    page.get_by_label("Add point").check()
    canvas = page.locator(".gs-canvas").bounding_box()
    after(page, lambda: page.mouse.click(canvas["x"] + 50, canvas["y"] + 50))
    corrected = shown_mask(page, app)
    first = page.locator("#model input").input_value()
    for name, points in (("second", 0), (first, 1)):
        page.locator("#model input").click()
        after(page, lambda name=name: page.get_by_role("option", name=name, exact=True).click())
        page.wait_for_timeout(300)
        assert len(shown(page, app)["points"]) == points
        if name == "second":
            wait(page, "#notes", f"Your corrections of the answer of {first} are kept")
    assert np.array_equal(shown_mask(page, app), corrected)
    expect(page.locator("#undo")).to_be_enabled()


def test_keys_and_pastes_are_for_the_tab_that_is_open(page: Any, app: Served) -> None:
    with_picture(page)
    page.get_by_label("Add point").check()
    canvas = page.locator(".gs-canvas").bounding_box()
    after(page, lambda: page.mouse.click(canvas["x"] + 50, canvas["y"] + 50))
    page.get_by_role("tab", name="About").click()
    page.keyboard.press("Control+z")
    page.evaluate(PASTE, list(png(scene(size=(96, 128)))))
    page.wait_for_timeout(500)
    found = shown(page, app)
    assert len(found["points"]) == 1 and found["width"] == 320


def test_files_that_were_never_started_go_with_the_page(window: Any, app: Served, tmp_path: Path) -> None:
    uploads = app.log.parent / "temp"
    with opened(window, app.url) as page:
        page.get_by_role("tab", name="Batch").click()
        give(page, "#batch-upload", png(scene()), "never started.png")
        lies_in(page, "batch", "never started.png")
        waited = 0
        while not list(uploads.rglob("never*started.png")):
            waited += 1
            assert waited < 100
            page.wait_for_timeout(100)
        page.wait_for_timeout(500)
    waited = 0
    while list(uploads.rglob("never*started.png")):
        waited += 1
        assert waited < 300, "the file is still there"
        time.sleep(0.1)


def test_a_clip_in_which_nothing_can_be_assessed_is_said_to_be_so(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Video").click()
    give(page, "#video-upload", drawn_clip(tmp_path / "dark.mp4", frames=8, light=0.03))
    lies_in(page, "video", "dark.mp4")
    page.locator("#video-start").click()
    wait(page, "#video-words", "Not assessable: none of the 4 frames")


def test_two_models_are_compared_on_one_picture(page: Any) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-current").click()
    wait(page, "#compare-words", "There is no picture yet")
    give(page, "#compare-upload", png(scene()))
    wait(page, "#compare-words", "2 models, one picture")
    expect(page.locator("#compare-gallery figure")).to_have_count(2)
    expect(page.locator("#compare-table")).to_contain_text("second")


def test_the_model_card_and_the_limits_are_on_the_page(page: Any) -> None:
    page.get_by_role("tab", name="About").click()
    text = page.inner_text("body")
    assert "Model card" in text and "Limits of this page" in text and "Privacy" in text


def test_two_tabs_do_not_see_each_other_and_closing_one_forgets_it(window: Any, app: Served) -> None:
    with opened(window, app.url) as first, opened(window, app.url) as second:
        with_picture(first)
        give(second, "#upload", png(scene(size=(96, 128))))
        wait(second, "#timing", "128 x 96 pixels")
        assert "320 x 240 pixels" in first.locator("#timing").inner_text()
        assert shown(first, app)["width"] == 320 and shown(second, app)["width"] == 128
        token = mark(first).partition(":")[0]
        first.close()
        waited = 0
        while _status(f"{app.url}/scene/{token}/image") != 404:
            waited += 1
            assert waited < 300, "the closed page is still remembered"
            second.wait_for_timeout(100)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(("theme", "widths"), [("light", (1280, 640)), ("dark", (820,))])
def test_nothing_is_wider_than_the_window(window: Any, app: Served, theme: str, widths: tuple[int, ...]) -> None:
    with opened(window, f"{app.url}/?__theme={theme}") as page:
        with_picture(page)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 800})
            for tab in ("Image", "Batch", "Video", "Compare", "About"):
                page.get_by_role("tab", name=tab).click()
                assert page.evaluate("() => document.documentElement.scrollWidth") <= width, (tab, width)
