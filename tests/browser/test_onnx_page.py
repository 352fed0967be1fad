"""The page of ``gps-seg export --page`` in Chromium, with a tiny model: masks are those of ``gps-seg predict``."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gps_seg.commands.export import Exports, export_run
from gps_seg.commands.onnx.page import RUNTIME, find_runtime
from gps_seg.data.images import read_mask, write_image
from gps_seg.errors import DataError
from gps_seg.runs.exported import Exported, load_exported
from gps_seg.tasks.segmentation.phantom import phantom
from support.browser import opened, window_of
from support.commands import gps_seg
from support.steps import expect

for package in ("onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="pip install 'gps-seg[onnx]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
SIZES = ((72, 100), (150, 90), (480, 640), (41, 53), (200, 64))
DROP = """([name, bytes]) => {
    const parcel = new DataTransfer();
    parcel.items.add(new File([new Uint8Array(bytes)], name));
    document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: parcel, bubbles: true, cancelable: true}));
}"""
RESIZED = """async ([bytes, ...sizes]) => {
    const { resized } = await import('./numbers.js');
    return [...resized(new Uint8Array(bytes), ...sizes)];
}"""


class Quiet(SimpleHTTPRequestHandler):
    """What python -m http.server serves with, without a word."""

    def log_message(self, format: str, *args: Any) -> None:
        return


@dataclass(frozen=True)
class Site:
    """Folders below one local server."""

    root: Path
    url: str

    def variant(self, name: str, **changes: Any) -> Path:
        """A copy whose onnx.json says something else; the word ``picture`` changes parts of that section."""
        folder = self.root / name
        if not folder.exists():
            shutil.copytree(self.root / "plain", folder, copy_function=os.link)
        path = folder / "onnx.json"
        about = json.loads((self.root / "plain/onnx.json").read_text())
        about["picture"] |= changes.pop("picture", {})
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(about | changes))
        return folder

    def of(self, folder: Path) -> str:
        return f"{self.url}/{folder.name}/"


@pytest.fixture(scope="module")
def site(trained: Callable[..., Path], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(cache))
        try:
            find_runtime()
        except DataError as error:
            pytest.skip(f"browser tests of the page skipped: {error}")
    lines = list(export_run(trained("train.quality=true"), Exports(onnx=root / "plain", page=True, runtime=cache / RUNTIME)))
    assert len(lines) == 2 and lines[1].startswith(f"{root / 'plain/index.html'}: run python -m http.server")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Site(root, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{height} x {width}.png" for height, width in SIZES]
    for index, (path, size) in enumerate(zip(paths, SIZES, strict=True)):
        write_image(path, phantom(index, size=size)[0])
    return paths


def segment(page: Any, picture: Path) -> Path:
    """Choose a picture, and save the mask that is shown."""
    page.get_by_label("Drop a picture here, or choose one").set_input_files(picture)
    expect(page.locator("#status")).to_contain_text(f"{picture.name}: ")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Save the mask").click()
    assert waiting.value.suggested_filename == f"{picture.stem}_mask.png"
    return Path(waiting.value.path())


def middle(export: Exported, pictures: list[Path]) -> float:
    """The threshold at which every pixel counts: half of them are above."""
    return float(np.median(np.concatenate([one.ravel() for _, one in export.predict_files(pictures, batch_size=1)])))


@pytest.mark.parametrize("changes", [
    {}, {"flips": True}, {"picture": {"resize": "squash"}},
    {"picture": {"stretch": True, "mean": [0.0, 9.0, 20.0], "std": [255.0, 200.0, 180.0]}},
], ids=["plain", "flips", "squash", "stretch"])
def test_masks_are_those_of_predict_with_the_same_files(
    window: Any, site: Site, pictures: list[Path], changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.id
    folder = site.variant(f"masks {name}", **changes)
    folder = site.variant(f"masks {name}", **changes, threshold=middle(load_exported(folder, presence=0), pictures))
    assert gps_seg(monkeypatch, "predict", folder, *pictures, "--engine", "onnx", "--out", tmp_path, "--device", "cpu") == 0
    different = {}
    with opened(window, site.of(folder)) as page:
        for picture in pictures:
            ours, theirs = read_mask(segment(page, picture)), read_mask(tmp_path / picture.name)
            assert ours.shape == theirs.shape
            different[picture.stem] = int((ours != theirs).sum())
    assert max(different.values()) <= 10, different  # of 307,200 with half of them at the threshold


def test_pictures_are_resized_as_pillow_resizes_them(window: Any, site: Site) -> None:
    draw = np.random.default_rng(0)
    with opened(window, site.of(site.root / "plain")) as page:
        for *size, height, width in ((37, 53, 64, 64), (200, 311, 41, 64), (64, 90, 64, 20), (5, 7, 5, 7), (3, 1, 1, 9)):
            pixels = draw.integers(0, 256, (*size, 3), np.uint8)
            found = page.evaluate(RESIZED, [pixels.ravel().tolist(), *size, height, width])
            wanted = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            assert np.array_equal(np.array(found).reshape(wanted.shape), wanted)


def test_the_answer_is_said_with_its_probability_quality_and_model(window: Any, site: Site, pictures: list[Path]) -> None:
    plain = load_exported(site.variant("said"), presence=0)
    ((_, probability),) = plain.predict_files(pictures[:1])
    largest = float(probability.max())
    calibrated = 1 / (1 + np.exp(-np.log(largest / (1 - largest)) / 2.5))
    folder = site.variant("said", presence=0.0, calibration={"temperature": 2.5, "threshold": None}, threshold=largest / 2)
    with opened(window, site.of(folder)) as page:
        segment(page, pictures[0])
        facts = page.locator("#facts").inner_text()
        assert f"{100 * calibrated:.1f} %, calibrated" in facts and "tiny_lite, 64 px" in facts and "below 0.00" in facts
        assert re.fullmatch(r"72 x 100.png: polyp, [\d.]+ % of the picture", page.locator("#status").inner_text())
        assert "For research only. Not a medical device" in page.locator("#notice").inner_text()
        picture = np.asarray(Image.open(pictures[0]))
        assert not np.array_equal(drawn(page), picture)
        page.get_by_label("Show the mask").uncheck()
        assert np.array_equal(drawn(page), picture)


def drawn(page: Any) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of what the page shows."""
    data = page.locator("#view").evaluate("(it) => it.toDataURL('image/png')").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_quality_below_the_presence_threshold_is_the_answer_none(window: Any, site: Site, pictures: list[Path]) -> None:
    with opened(window, site.of(site.variant("none", presence=1.0, threshold=0.001))) as page:
        assert not read_mask(segment(page, pictures[0])).any()
        assert page.locator("#status").inner_text() == "72 x 100.png: no polyp"
        assert "below 1.00 the answer is none" in page.locator("#facts").inner_text()


def test_nothing_is_asked_of_anyone_but_the_local_server(browser: Any, site: Site, pictures: list[Path]) -> None:
    asked: list[str] = []
    with window_of(browser) as window:
        window.on("request", lambda request: asked.append(request.url))
        with opened(window, site.of(site.root / "plain")) as page:
            segment(page, pictures[0])
    assert any(url.endswith(".wasm") for url in asked)  # the worker's requests are seen too
    assert all(url.startswith((site.url, "blob:")) for url in asked), asked


def test_a_dropped_picture_is_taken_and_what_is_none_is_said(window: Any, site: Site, pictures: list[Path]) -> None:
    with opened(window, site.of(site.root / "plain")) as page:
        page.evaluate(DROP, ["notes.png", list(b"not a picture")])
        expect(page.locator("#status")).to_have_text(
            "notes.png is not a picture that this browser reads: give PNG, JPEG, WebP or BMP.")
        page.evaluate(DROP, ["dropped.png", list(pictures[0].read_bytes())])
        expect(page.locator("#status")).to_contain_text("dropped.png: ")
        assert page.locator("#view").get_attribute("aria-label").startswith("dropped.png, 100 x 72 pixels. ")


@pytest.mark.parametrize(("name", "spoil", "words"), [
    ("no json", lambda folder: (folder / "onnx.json").unlink(), "onnx.json is missing beside this page (answer 404)"),
    ("wrong json", lambda folder: rewrite(folder / "onnx.json", b'{"format": "another"}'), "onnx.json does not describe a model"),
    ("no model", lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing beside this page (answer 404)"),
    ("other model", lambda folder: rewrite(folder / "model.onnx", b"no network"), "model.onnx is not the file that onnx.json"),
    ("no runtime", lambda folder: shutil.rmtree(folder / "runtime"), "The folder runtime is missing beside this page"),
])
def test_what_is_missing_beside_the_page_is_one_sentence(
    window: Any, site: Site, name: str, spoil: Callable[[Path], object], words: str
) -> None:
    folder = site.variant(name)
    spoil(folder)
    page = window.new_page()
    page.goto(site.of(folder))
    expect(page.locator("#status.wrong")).to_contain_text(words)
    assert page.locator("#status").inner_text().endswith("gps-seg export RUN --onnx DIR --page.")
    page.close()


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # it is a hard link
    path.write_bytes(content)


def test_opened_as_a_file_it_says_how_to_serve_it(window: Any, site: Site) -> None:
    page = window.new_page()
    page.goto((site.root / "plain/index.html").as_uri())
    assert "python -m http.server --bind 127.0.0.1" in page.locator("#status").inner_text()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_a_phone_needs_no_sideways_scrolling(
    browser: Any, site: Site, pictures: list[Path], scheme: str
) -> None:
    with window_of(browser, color_scheme=scheme) as window, opened(window, site.of(site.root / "plain")) as page:
        page.set_viewport_size({"width": 320, "height": 640})
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        segment(page, pictures[2])
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        found = axe.Axe().run(page).response["violations"]
        assert not found, [(one["id"], node["target"]) for one in found for node in one["nodes"]]
