"""Draws docs/app-*.png, each state of the page, on drawn scenes only.

``PYTHONPATH=tests python tests/browser/screenshots.py RUN OTHER_RUN docs``
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from support.browser import SWITCHES, drawn_clip, drawn_zip, png, scene
from support.server import served

LONG = 120_000  # ms
VIEWS = (("dark", 1280, 900, True, 1), ("tablet", 820, 1180, False, 1), ("zoom", 640, 450, False, 2))


def keep(page: Page, folder: Path, name: str, *, whole: bool = True) -> None:
    """A PNG of the page in few colours, below 250 kB."""
    page.wait_for_timeout(700)
    # what is fixed to the window would stand in the middle of a picture of the whole page
    page.evaluate("(whole) => { document.querySelector('.gs-strip').style.visibility = whole ? 'hidden' : 'visible'; }", whole)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    for colors in (256, 128, 64, 32):
        reduced = picture.quantize(colors, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        reduced.save(folder / f"app-{name}.png", optimize=True)
        if (folder / f"app-{name}.png").stat().st_size < 240_000:
            return


def wait(page: Page, place: str, words: str) -> None:
    expect(page.locator(place)).to_contain_text(words, timeout=LONG)


def image_states(page: Page, folder: Path) -> None:
    keep(page, folder, "empty")
    page.get_by_role("button", name="One polyp").click()
    wait(page, "#words", "Polyp-like regions")
    keep(page, folder, "found")
    page.get_by_label("Heat map").check()
    page.get_by_label("Fill").check()
    page.get_by_role("button", name="More").click()
    page.locator("#spread").click()
    expect(page.get_by_label("Disagreement")).to_be_checked(timeout=LONG)
    keep(page, folder, "layers")
    page.get_by_label("Heat map").uncheck()
    page.get_by_label("Disagreement").uncheck()
    drawn = {"name": "scene.png", "mimeType": "image/png", "buffer": png(scene(8, size=(576, 768)))}
    page.locator("#upload input[type=file]").set_input_files(drawn)  # examples are not kept as training pairs
    page.wait_for_timeout(4000)
    page.locator("#save:not([disabled])").wait_for()
    page.get_by_label("Before / after").fill("50")
    page.get_by_label("Add point").check()
    box = page.locator(".gs-canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.3)
    page.wait_for_timeout(800)
    page.get_by_label("Brush: add").check()
    page.mouse.move(box["x"] + 80, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 260, steps=8)
    page.mouse.up()
    wait(page, "#words", "Corrected by hand")
    page.locator("#save").click()
    wait(page, "#saved", "Saved as")
    keep(page, folder, "corrected")
    page.get_by_role("button", name="No polyp").click()
    page.locator("#timing").get_by_text("768").wait_for()
    page.wait_for_timeout(4000)
    page.locator("#threshold input[type=number]").fill("0.99")
    page.locator("#threshold input[type=number]").press("Tab")
    wait(page, "#words", "does not exclude")
    keep(page, folder, "none")
    page.get_by_role("button", name="Too dark").click()
    wait(page, "#words", "Not assessable")
    keep(page, folder, "not-assessable")
    page.locator("#upload input[type=file]").set_input_files({"name": "scan.png", "mimeType": "image/png", "buffer": b"<html>"})
    wait(page, "#words", "Expected")
    keep(page, folder, "invalid", whole=False)


def other_tabs(page: Page, folder: Path, inputs: Path) -> None:
    page.get_by_role("tab", name="Batch").click()
    page.locator("#batch-upload input[type=file]").set_input_files(
        {"name": "scenes.zip", "mimeType": "application/zip", "buffer": drawn_zip(7)})
    page.wait_for_timeout(1500)
    page.locator("#batch-start").click()
    wait(page, "#batch-words", "Done:")
    keep(page, folder, "batch")
    page.get_by_role("tab", name="Video").click()
    page.locator("#video-upload input[type=file]").set_input_files(drawn_clip(inputs / "clip.mp4", 40))
    page.wait_for_timeout(1500)
    page.locator("#video-start").click()
    wait(page, "#video-notes", "frames a second")
    keep(page, folder, "video")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-example").click()
    wait(page, "#compare-words", "one picture")
    keep(page, folder, "compare")
    page.get_by_role("tab", name="About").click()
    keep(page, folder, "about")


def main(run: Path, other: Path, folder: Path) -> None:
    """Light at 1280 px through every state; dark, tablet and 200 % zoom of the main one."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as player:
        inputs = Path(place)
        with served(inputs / "app", f"gps={run}", f"lora={other}", "--save-folder", inputs / "corrected") as app:
            browser = player.chromium.launch(executable_path="/usr/bin/chromium", args=list(SWITCHES))
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(app.url)
            wait(page, "#status", "ready")
            image_states(page, folder)
            other_tabs(page, folder, inputs)
            for name, width, height, dark, scale in VIEWS:
                page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
                page.goto(app.url + ("/?__theme=dark" if dark else "/?__theme=light"))
                page.get_by_role("button", name="One polyp").click()
                wait(page, "#words", "Polyp-like regions")
                keep(page, folder, name)
                wide = page.evaluate("() => document.documentElement.scrollWidth")
                assert wide <= width, f"{name}: {wide} px wide on {width} px"
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
