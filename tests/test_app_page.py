"""The page in a real browser: the whole path of each tab, on the real server with a real (tiny) run."""

from __future__ import annotations

import io
import json
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_browser import PATIENCE, SWITCHES, chromium, drawn_clip, drawn_zip, opened, png, scene
from app_runs import train_tiny
from app_server import Served, served
from PIL import Image

from gps_seg_app.outlines import mask_of_polygons, mask_of_run_lengths

if chromium() is None:
    pytest.skip("browser tests skipped: no Chromium on this machine; apt-get install chromium", allow_module_level=True)
sync = pytest.importorskip("playwright.sync_api", reason="browser tests skipped: pip install playwright")
expect = sync.expect


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("app")
    runs = [train_tiny(place / name, cache, f"seed={seed}") for seed, name in enumerate(("first", "second"))]
    with served(place / "server", *runs, "--save-folder", place / "corrected") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as player:
        found = player.chromium.launch(executable_path=chromium(), args=list(SWITCHES))
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, app: Served) -> Iterator[Any]:
    with opened(browser, app.url) as made:
        yield made


def wait(page: Any, place: str, words: str | re.Pattern[str]) -> None:
    expect(page.locator(place)).to_contain_text(words, timeout=PATIENCE)


def give(page: Any, place: str, data: bytes | Path, name: str = "picture.png") -> None:
    given = data if isinstance(data, Path) else {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator(f"{place} input[type=file]").set_input_files(given)


def cut(page: Any, threshold: str) -> None:
    page.locator("#threshold input[type=number]").fill(threshold)
    page.locator("#threshold input[type=number]").press("Tab")


def mark(page: Any) -> str:
    return str(re.search(r"[\w-]{20,}:\d+", page.locator("#image-mark").inner_text())[0])  # type: ignore[index]


def after(page: Any, act: Callable[[], object]) -> None:
    """Do something, and wait until the page shows something new."""
    before = mark(page)
    act()
    expect(page.locator("#image-mark")).not_to_contain_text(before, timeout=PATIENCE)


def with_picture(page: Any, threshold: str = "0.01") -> None:
    give(page, "#upload", png(scene()))
    wait(page, "#timing", "320 x 240 pixels")
    after(page, lambda: cut(page, threshold))


def shown(page: Any, app: Served) -> dict[str, Any]:
    with urllib.request.urlopen(f"{app.url}/scene/{mark(page).partition(':')[0]}/image") as answer:
        return dict(json.load(answer))


def shown_mask(page: Any, app: Served) -> Any:
    found = shown(page, app)
    parts = [{"exterior": part[0], "holes": part[1:]} for part in found["polygons"]]
    return mask_of_polygons(parts, (found["height"], found["width"]))


def fetch(page: Any, link: str) -> bytes:
    with page.expect_download() as waiting:
        page.locator("#downloads").get_by_role("link", name=link, exact=True).click()
    assert waiting.value.suggested_filename.startswith("gps-seg-")
    return Path(waiting.value.path()).read_bytes()


def test_a_picture_is_answered_in_words_and_numbers_and_the_threshold_moves_both(page: Any, app: Served) -> None:
    assert "Research use only. Not a medical device" in page.locator("#banner").inner_text()
    with_picture(page)
    wait(page, "#words", "Polyp-like regions: 1")
    expect(page.locator("#table")).to_contain_text("centre")
    assert "not calibrated" in page.locator("#timing").inner_text()
    assert shown_mask(page, app).any()
    assert page.locator("#words").get_attribute("aria-live") == "polite"
    expect(page.locator(".gs-canvas")).to_have_attribute("aria-label", re.compile("Polyp-like regions: 1"))
    cut(page, "0.99")
    wait(page, "#words", "No polyp-like region above the threshold. This does not exclude a polyp.")
    expect(page.locator("#table")).not_to_contain_text("centre")


def test_the_contour_on_the_canvas_runs_along_the_mask(page: Any, app: Served) -> None:
    with_picture(page)
    expect(page.locator(".gs-canvas")).to_be_visible()
    page.wait_for_timeout(500)
    width, height, values = page.evaluate("""() => { const c = document.querySelector('.gs-canvas');
        return [c.width, c.height, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]; }""")
    canvas = np.array(values, np.uint8).reshape(height, width, 4)
    cyan = (np.abs(canvas[..., :3].astype(int) - (0, 229, 255)) < 30).all(2) & (canvas[..., 3] > 200)
    mask = np.array(Image.fromarray(shown_mask(page, app)).resize((canvas.shape[1], canvas.shape[0]), Image.Resampling.NEAREST))
    padded = np.pad(mask, 1)  # a contour runs along the picture's border too
    edge = (padded != np.roll(padded, 1, 0)) | (padded != np.roll(padded, 1, 1))
    near = _grown(edge, 4)[1:-1, 1:-1]
    assert cyan.sum() > 200 and (cyan & ~near).sum() < 0.02 * cyan.sum()


def _grown(mask: Any, steps: int) -> Any:
    for _ in range(steps):
        mask = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    return mask


def test_points_box_and_brush_correct_the_mask_and_every_step_can_be_undone(page: Any, app: Served) -> None:
    with_picture(page, "0.99")
    wait(page, "#words", "does not exclude")
    canvas = page.locator(".gs-canvas").bounding_box()
    across, down = canvas["width"] / 320, canvas["height"] / 240

    def place(x: float, y: float) -> tuple[float, float]:
        return canvas["x"] + x * across, canvas["y"] + y * down

    page.get_by_label("Add point").check()
    after(page, lambda: page.mouse.click(*place(100, 80)))
    assert np.allclose(shown(page, app)["points"], [[100, 80, 1]], atol=1)
    page.get_by_label("Remove point").check()
    after(page, lambda: page.mouse.click(*place(200, 160)))
    page.get_by_label("Box").check()
    page.mouse.click(*place(50, 40))
    after(page, lambda: page.mouse.click(*place(250, 200)))
    assert np.allclose(shown(page, app)["box"], [50, 40, 250, 200], atol=1) and len(shown(page, app)["points"]) == 2
    page.get_by_label("Brush: add").check()
    page.mouse.move(*place(60, 120))
    page.mouse.down()
    page.mouse.move(*place(160, 120), steps=6)
    after(page, page.mouse.up)
    wait(page, "#notes", "Corrected by hand")
    painted = shown_mask(page, app)
    assert painted[120, 60:160].all() and painted[112, 110] and not painted[80, 110]
    page.get_by_label("Brush: erase").check()
    after(page, lambda: page.mouse.click(*place(110, 120)))
    assert not shown_mask(page, app)[115:125, 105:115].any()
    after(page, lambda: page.locator("#undo").click())
    assert np.array_equal(shown_mask(page, app), painted)
    after(page, lambda: page.locator("#redo").click())
    after(page, lambda: page.keyboard.press("Control+z"))
    for _ in range(4):
        after(page, lambda: page.locator("#undo").click())
    assert shown(page, app)["points"] == [] and shown(page, app)["box"] is None and not shown_mask(page, app).any()
    expect(page.locator("#undo")).to_be_disabled()


def test_half_a_box_goes_when_another_tool_is_taken(page: Any, app: Served) -> None:
    with_picture(page)
    canvas = page.locator(".gs-canvas").bounding_box()
    page.get_by_label("Box").check()
    page.mouse.click(canvas["x"] + 20, canvas["y"] + 20)
    page.get_by_label("Look").check()
    page.mouse.move(canvas["x"] + 90, canvas["y"] + 90)
    page.get_by_label("Box").check()
    page.mouse.click(canvas["x"] + 100, canvas["y"] + 100)
    after(page, lambda: page.mouse.click(canvas["x"] + 200, canvas["y"] + 200))
    assert np.allclose(shown(page, app)["box"][:2], 2 * [100 * 320 / canvas["width"]], atol=2)


def test_the_keyboard_alone_sets_points_and_boxes(page: Any, app: Served) -> None:
    with_picture(page)
    page.get_by_label("Add point").check()
    page.locator(".gs-canvas").focus()
    page.keyboard.press("ArrowRight")
    after(page, lambda: page.keyboard.press("Enter"))
    assert np.allclose(shown(page, app)["points"], [[163, 120, 1]], atol=2)
    page.get_by_role("button", name="Use a tool by numbers").click()
    page.get_by_label("Box").check()
    for label, value in (("x", "20"), ("y", "30"), ("x, other corner", "200"), ("y, other corner", "180")):
        page.locator("#numbers").get_by_label(label, exact=True).fill(value)
    after(page, lambda: page.locator("#use").click())
    assert shown(page, app)["box"] == [20, 30, 200, 180]
    page.locator("#numbers").get_by_label("x", exact=True).fill("5000")
    page.locator("#use").click()
    wait(page, "#notes", "Expected places within the picture, x from 0 to 319")


def test_every_export_opens_and_holds_the_mask_that_was_shown(page: Any, app: Served) -> None:
    with_picture(page)
    page.get_by_label("Brush: erase").check()
    canvas = page.locator(".gs-canvas").bounding_box()
    after(page, lambda: page.mouse.click(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2))
    wait(page, "#notes", "Corrected by hand")
    expected = shown_mask(page, app)
    mask = np.array(Image.open(io.BytesIO(fetch(page, "Mask"))))
    assert np.array_equal(mask == 255, expected) and set(np.unique(mask)) <= {0, 255}
    assert Image.open(io.BytesIO(fetch(page, "Overlay"))).size[0] >= 320
    assert Image.open(io.BytesIO(fetch(page, "Probability"))).mode.startswith("I;16")
    report = json.loads(fetch(page, "JSON"))
    assert np.array_equal(mask_of_run_lengths(report["mask"]["rle"]), expected)
    assert report["edited"] is True and report["threshold"] == 0.01 and "name" not in report["input"]
    assert fetch(page, "PDF report").startswith(b"%PDF") and b"Research use only" in fetch(page, "CSV")
    names = set(zipfile.ZipFile(io.BytesIO(fetch(page, "All in one zip"))).namelist())
    assert names == {"mask.png", "overlay.png", "probability.png", "result.json", "regions.csv", "report.pdf", "README.txt"}


def test_layers_and_the_disagreement_map_are_drawn_on_demand(page: Any) -> None:
    with_picture(page)
    assert page.locator(".gs-heat:visible").count() == 0
    page.get_by_label("Heat map").check()
    expect(page.locator(".gs-heat").first).to_be_visible()
    page.get_by_role("button", name="More").click()
    page.locator("#spread").click()
    expect(page.get_by_label("Disagreement")).to_be_checked(timeout=PATIENCE)
    page.get_by_label("Before / after").fill("0")
    assert "100%" in page.locator(".gs-layers").get_attribute("style")
    page.get_by_label("One picture pixel per screen pixel").click()
    assert page.locator(".gs-base").bounding_box()["width"] == pytest.approx(320, abs=1)


def test_a_corrected_picture_is_kept_as_a_training_pair(page: Any, app: Served) -> None:
    with_picture(page)
    page.locator("#save").click()
    wait(page, "#saved", "gps-seg train")
    folder = app.log.parent.parent / "corrected"
    [image], [mask] = (folder / "images").iterdir(), (folder / "masks").iterdir()
    assert image.name == mask.name and np.array_equal(np.array(Image.open(image)), scene())
    assert np.array_equal(np.array(Image.open(mask)) > 0, shown_mask(page, app))


@pytest.mark.parametrize(("data", "words"), [
    (b"", "Expected"), (b"<html><script>alert(1)</script>", "Expected"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Expected"),
    (png(scene())[:2000], "cut short"), (b"MZ" + bytes(3000), "Expected"), (bytes(128) + b"DICM" + bytes(60), "DICOM"),
    (bytes(26_000_000), "at most 25 MB"),
], ids=["empty", "html", "svg", "cut short", "program", "dicom", "huge"])
def test_a_wrong_file_gives_a_sentence_and_the_page_goes_on(page: Any, data: bytes, words: str) -> None:
    give(page, "#upload", data, "x'\"><img src=x onerror=alert(1)>.png")
    if data:
        wait(page, "#words", words)
    with_picture(page)
    wait(page, "#words", "Polyp-like regions")


def test_what_cannot_be_assessed_is_said(page: Any) -> None:
    page.get_by_role("button", name="Too dark").click()
    wait(page, "#words", "Not assessable")
    page.get_by_role("button", name="One polyp").click()
    wait(page, "#timing", "768 x 576 pixels")


def test_a_picture_can_be_pasted(page: Any) -> None:
    page.evaluate("""(bytes) => {
        const parcel = new DataTransfer();
        parcel.items.add(new File([new Uint8Array(bytes)], 'pasted.png', {type: 'image/png'}));
        document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: parcel, bubbles: true}));
    }""", list(png(scene(size=(96, 128)))))
    wait(page, "#timing", "128 x 96 pixels")


def test_a_batch_is_worked_through_and_packed(page: Any) -> None:
    page.get_by_role("tab", name="Batch").click()
    page.locator("#batch-start").click()
    wait(page, "#batch-words", "Choose pictures or a zip first.")
    give(page, "#batch-upload", drawn_zip(), "all.zip")
    expect(page.locator("#batch-upload")).to_contain_text("all.zip", timeout=PATIENCE)
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
    expect(page.locator("#batch-upload")).to_contain_text("broken.zip", timeout=PATIENCE)
    page.locator("#batch-start").click()
    wait(page, "#batch-words", re.compile("zip"))
    expect(page.locator("#batch-start")).to_be_enabled()


def test_a_batch_can_be_cancelled(page: Any) -> None:
    page.get_by_role("tab", name="Batch").click()
    give(page, "#batch-upload", drawn_zip(60), "all.zip")
    expect(page.locator("#batch-upload")).to_contain_text("all.zip", timeout=PATIENCE)
    page.locator("#batch-start").click()
    wait(page, "#batch-words", " of 61 pictures")
    page.locator("#batch-stop").click()
    wait(page, "#batch-words", "Cancelled after")


def test_a_clip_is_played_with_its_timeline_and_a_click_seeks(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Video").click()
    give(page, "#video-upload", drawn_clip(tmp_path / "clip.mp4"))
    expect(page.locator("#video-upload").get_by_role("cell", name="clip.mp4")).to_be_visible(timeout=PATIENCE)
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
    expect(page.locator("#video-upload")).to_contain_text("clip.mov", timeout=PATIENCE)
    page.locator("#video-start").click()
    wait(page, "#video-words", "Expected")


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


def test_two_tabs_do_not_see_each_other_and_closing_one_forgets_it(browser: Any, app: Served) -> None:
    with opened(browser, app.url) as first, opened(browser, app.url) as second:
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
            assert waited < 60, "the closed page is still remembered"
            second.wait_for_timeout(500)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (820, "dark"), (640, "light")])
def test_nothing_is_wider_than_the_window(browser: Any, app: Served, width: int, theme: str) -> None:
    with opened(browser, f"{app.url}/?__theme={theme}") as page:
        page.set_viewport_size({"width": width, "height": 800})
        with_picture(page)
        for tab in ("Image", "Batch", "Video", "Compare", "About"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, tab
