"""Steps of the browser tests: what a user does on the page, and what stands on it afterwards."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gps_seg_app.answer.outlines import mask_of_polygons
from support.browser import PATIENCE, chromium, png, scene
from support.server import Served

if chromium() is None:
    pytest.skip("browser tests skipped: no Chromium on this machine; apt-get install chromium", allow_module_level=True)
expect = pytest.importorskip("playwright.sync_api", reason="browser tests skipped: pip install playwright").expect


PASTE = """(bytes) => {
    const parcel = new DataTransfer();
    parcel.items.add(new File([new Uint8Array(bytes)], 'pasted.png', {type: 'image/png'}));
    document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: parcel, bubbles: true}));
}"""


def wait(page: Any, place: str, words: str | re.Pattern[str]) -> None:
    expect(page.locator(place)).to_contain_text(words, timeout=PATIENCE)


def give(page: Any, place: str, data: bytes | Path, name: str = "picture.png") -> None:
    given = data if isinstance(data, Path) else {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator(f"{place} input[type=file]").set_input_files(given)


def lies_in(page: Any, tab: str, name: str) -> None:
    """A file was uploaded and is shown in the tab's box."""
    expect(page.locator(f"#{tab}-upload").get_by_role("cell", name=name, exact=True)).to_be_visible(timeout=PATIENCE)


def cut(page: Any, threshold: str) -> None:
    page.locator("#threshold input[type=number]").fill(threshold)
    page.locator("#threshold input[type=number]").press("Tab")


def turn(page: Any, frame: str) -> None:
    page.locator("#frame input[type=number]").fill(frame)
    page.locator("#frame input[type=number]").press("Tab")


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
