"""A headless Chromium for the tests of the page, and inputs that are drawn, not taken from anyone."""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.tasks.segmentation.phantom import phantom

SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync")
PATIENCE = 90_000  # ms; machines may be busy


def chromium() -> str | None:
    """Where Debian's or another Chromium is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Console:
    """What a page complained of. Answers of 4xx are expected by no test."""

    lines: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on("console", lambda message: message.type in ("error", "warning") and self._add(message.text))
        page.on("pageerror", lambda error: self._add(str(error)))
        page.on("requestfailed", lambda request: "127.0.0.1" not in request.url and self._add(request.url))
        page.on("request", lambda request: not request.url.startswith(("http://127.0.0.1", "blob:", "data:"))
                and self._add(f"asked for {request.url}"))

    def _add(self, text: str) -> None:
        if not text.startswith(("[svelte-i18n]", "Method not implemented.")):  # Gradio's own: a translation, an upload's end
            self.lines.append(text)


@contextlib.contextmanager
def window_of(browser: Any, **settings: Any) -> Iterator[Any]:
    """A window without a history."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
    yield context
    context.close()


@contextlib.contextmanager
def opened(window: Any, url: str) -> Iterator[Any]:
    """A fresh page of the app, model loaded; at the end its console must be empty and no traceback may stand in it."""
    from playwright.sync_api import expect

    page, console = window.new_page(), Console()
    page.set_default_timeout(PATIENCE)
    console.watch(page)
    page.goto(url)
    expect(page.locator("#status")).to_contain_text("ready", timeout=PATIENCE)
    yield page
    assert not console.lines, console.lines
    if not page.is_closed():
        assert "Traceback" not in page.inner_text("body") and "Error" not in page.inner_text("body")
        page.close()


def png(pixels: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


@functools.cache
def scene(index: int = 2, size: tuple[int, int] = (240, 320)) -> NDArray[np.uint8]:
    return phantom(index, size=size)[0]


def large(width: int, height: int, index: int = 2) -> NDArray[np.uint8]:
    """A picture that keeps the server busy for a while, but not those who draw and pack it."""
    return cv2.resize(scene(index), (width, height), interpolation=cv2.INTER_NEAREST)


@functools.cache
def drawn_zip(scenes: int = 3) -> bytes:
    """A zip of scenes and one file that is no picture."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(scenes):
            archive.writestr(f"patient {number}.png", png(scene(number)))
        archive.writestr("notes.png", b"not a picture")
    return buffer.getvalue()


def drawn_clip(path: Path, frames: int = 24, size: tuple[int, int] = (240, 320), light: float = 1.0) -> Path:
    """A clip that pans over a scene; its first quarter shows another one, without a polyp."""
    import av

    height, width = size
    views = [phantom(index, size=(height + 80, width + 160))[0] for index in (4, 8)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, width=width, height=height, pix_fmt="yuv420p")
        for number in range(frames):
            view = views[number >= frames // 4]
            pixels = (view[40 : 40 + height, 60 + number : 60 + number + width] * light).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path
