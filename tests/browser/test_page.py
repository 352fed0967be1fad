"""The Image tab in a real browser: its whole path, on the real server with a real (tiny) run."""

from __future__ import annotations

import base64
import io
import json
import re
import urllib.request
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gps_seg.data.coco import mask_of
from support.browser import PATIENCE, large, png, scene
from support.dicoms import SECRETS, make
from support.server import Served
from support.steps import PASTE, after, cut, expect, fetch, give, shown, shown_mask, turn, wait, with_picture


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
    page.wait_for_timeout(300)
    drawn = page.locator(".gs-canvas").evaluate("(canvas) => canvas.toDataURL('image/png')").partition(",")[2]
    canvas = np.array(Image.open(io.BytesIO(base64.b64decode(drawn))).convert("RGBA"))
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
    assert np.array_equal(mask_of(report["mask"]["rle"], expected.shape), expected)
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
    page.get_by_role("button", name="One polyp").click()
    wait(page, "#timing", "768 x 576 pixels")
    page.locator("#save").click()
    wait(page, "#saved", "it is not kept as a training pair")
    with_picture(page)
    page.locator("#save").click()
    wait(page, "#saved", "the model's own mask, unchanged: take it as ground truth only if it is right")
    wait(page, "#saved", "Fine-tuning needs at least 3 pairs; there are 1.")
    folder = app.log.parent.parent / "corrected"
    [image], [mask] = (folder / "images").iterdir(), (folder / "masks").iterdir()
    assert image.name == mask.name and np.array_equal(np.array(Image.open(image)), scene())
    assert np.array_equal(np.array(Image.open(mask)) > 0, shown_mask(page, app))
    for index in (5, 6):
        after(page, lambda index=index: give(page, "#upload", png(scene(index))))
        expect(page.locator("#save")).to_be_enabled(timeout=PATIENCE)
        page.locator("#save").click()
        wait(page, "#saved", "Saved as")
    wait(page, "#saved", "To fine-tune on the 3 pairs that were saved: gps-seg train")


WRONG = {
    "empty": (b"", "Expected"), "html": (b"<html><script>alert(1)</script>", "Expected"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Expected"), "cut short": (png(scene())[:2000], "cut short"),
    "program": (b"MZ" + bytes(3000), "Expected"), "dicom": (bytes(128) + b"DICM" + bytes(60), "DICOM"),
    "huge": (bytes(26_000_000), "at most 25 MB"),
}


def test_a_wrong_file_gives_a_sentence_and_the_page_goes_on(page: Any, tmp_path: Path) -> None:
    with_picture(page)
    for kind, (data, words) in WRONG.items():
        file = tmp_path / kind / "x'\"><img src=x onerror=alert(1)>.png"
        file.parent.mkdir()
        file.write_bytes(data)
        give(page, "#upload", file)
        if data:
            wait(page, "#words", words)
            expect(page.locator("#timing")).to_have_text("", timeout=PATIENCE)
        give(page, "#upload", png(scene()))
        wait(page, "#timing", "320 x 240 pixels")
        wait(page, "#words", "Polyp-like regions")


def test_what_cannot_be_assessed_is_said(page: Any) -> None:
    page.get_by_role("button", name="Too dark").click()
    wait(page, "#words", "Not assessable")
    page.get_by_role("button", name="One polyp").click()
    wait(page, "#timing", "768 x 576 pixels")


def test_a_picture_can_be_pasted(page: Any) -> None:
    page.evaluate(PASTE, list(png(scene(size=(96, 128)))))
    wait(page, "#timing", "128 x 96 pixels")


def test_a_dicom_object_opens_frame_by_frame_and_names_nobody(page: Any, app: Served) -> None:
    views = np.stack([scene(4), scene(5), scene(6)])
    give(page, "#upload", make(views), "Secretname.dcm")
    wait(page, "#timing", "320 x 240 pixels")
    expect(page.locator("#frame")).to_be_visible()
    assert np.array_equal(picture(page, app), views[0])
    after(page, lambda: turn(page, "3"))
    wait(page, "#timing", "320 x 240 pixels")
    assert np.array_equal(picture(page, app), views[2])
    report = fetch(page, "JSON").decode()
    for secret in SECRETS.values():
        assert secret not in page.content() and secret not in report and secret not in app.written
    give(page, "#upload", make(views[:1]), "one.dcm")
    expect(page.locator("#frame")).to_be_hidden(timeout=PATIENCE)
    wait(page, "#timing", "320 x 240 pixels")


def test_a_frame_chosen_while_the_first_is_at_work_is_the_one_that_is_shown(
    page: Any, app: Served, tmp_path: Path
) -> None:
    views, file = np.stack([large(1200, 900, index) for index in (4, 5, 6)]), tmp_path / "three.dcm"
    file.write_bytes(make(views))
    give(page, "#upload", file)
    turn(page, "3")
    wait(page, "#timing", "1200 x 900 pixels")
    for _ in range(PATIENCE // 100):
        if np.array_equal(picture(page, app), views[2]):
            break
        page.wait_for_timeout(100)
    wait(page, "#timing", "1200 x 900 pixels")
    page.wait_for_timeout(500)
    assert page.locator("#frame input[type=number]").input_value() == "3"
    assert np.array_equal(picture(page, app), views[2])


def picture(page: Any, app: Served) -> Any:
    with urllib.request.urlopen(app.url + shown(page, app)["base"]) as answer:
        return np.array(Image.open(answer))


def test_a_second_picture_given_while_the_first_is_at_work_is_the_one_that_is_answered(page: Any, app: Served) -> None:
    give(page, "#upload", png(large(2600, 2000)), "first.png")
    give(page, "#upload", png(scene(5)), "second.png")
    wait(page, "#timing", "320 x 240 pixels")
    page.wait_for_timeout(800)
    wait(page, "#timing", "320 x 240 pixels")
    assert np.array_equal(picture(page, app), scene(5))


def test_a_threshold_moved_while_the_picture_is_at_work_is_the_one_that_cuts_it(page: Any) -> None:
    give(page, "#upload", png(large(2600, 2000)))
    cut(page, "0.97")
    wait(page, "#timing", "2600 x 2000 pixels")
    assert json.loads(fetch(page, "JSON"))["threshold"] == 0.97
    page.get_by_role("button", name="One polyp").click()
    wait(page, "#timing", "768 x 576 pixels")
    assert json.loads(fetch(page, "JSON"))["threshold"] == 0.97


def test_a_gesture_made_on_another_picture_is_refused(page: Any, app: Served) -> None:
    with_picture(page)
    page.get_by_label("Add point").check()
    canvas = page.locator(".gs-canvas").bounding_box()
    give(page, "#upload", png(large(3000, 2400, 5)))
    page.mouse.click(canvas["x"] + 30, canvas["y"] + 30)
    wait(page, "#timing", "3000 x 2400 pixels")
    page.wait_for_timeout(500)
    assert shown(page, app)["points"] == [] and "Corrected" not in page.locator("#notes").inner_text()


def test_corrections_of_a_frame_are_there_again_when_it_is_turned_back_to(page: Any, app: Served) -> None:
    give(page, "#upload", make(np.stack([scene(4), scene(5)])), "two.dcm")
    expect(page.locator("#frame")).to_be_visible(timeout=PATIENCE)
    wait(page, "#timing", "320 x 240 pixels")
    page.get_by_label("Add point").check()
    canvas = page.locator(".gs-canvas").bounding_box()
    after(page, lambda: page.mouse.click(canvas["x"] + 50, canvas["y"] + 50))
    points = shown(page, app)["points"]
    assert len(points) == 1
    for frame in ("2", "1"):
        after(page, partial(turn, page, frame))
        wait(page, "#timing", "320 x 240 pixels")
    assert shown(page, app)["points"] == points
    expect(page.locator("#undo")).to_be_enabled()


def test_a_wrong_file_after_a_dicom_object_leaves_no_frame_of_it(page: Any) -> None:
    give(page, "#upload", make(np.stack([scene(4), scene(5)])), "two.dcm")
    expect(page.locator("#frame")).to_be_visible(timeout=PATIENCE)
    wait(page, "#timing", "320 x 240 pixels")
    page.locator("#frame input[type=range]").focus()
    after(page, lambda: page.keyboard.press("ArrowRight"))
    wait(page, "#timing", "320 x 240 pixels")
    assert json.loads(fetch(page, "JSON"))["input"]["frame"] == 2
    give(page, "#upload", b"no picture", "none.png")
    wait(page, "#words", "Expected")
    expect(page.locator("#frame")).to_be_hidden()
