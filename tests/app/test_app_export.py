from __future__ import annotations

import csv
import io
import json
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from pypdf import PdfReader

from gps_seg.data.coco import mask_of, run_lengths
from gps_seg_app.answer.outlines import mask_of_polygons, polygons
from gps_seg_app.answer.render import contours
from gps_seg_app.answer.result import Result
from gps_seg_app.export.caption import with_strip
from gps_seg_app.export.files import bundle, files, mask_png, overlay_png, probability_png, regions_csv, report_json, report_pdf
from gps_seg_app.inference.model import Timing
from gps_seg_app.inference.model_card import DISCLAIMER, ModelCard, card
from support.answers import answer, discs, run_folder, scene

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return card(run_folder(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def found() -> Result:
    return answer(*scene(), timing=Timing(12.0, 400.0, 30.0))


def read_png(data: bytes) -> NDArray[np.generic]:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened)


def words(pdf: bytes) -> tuple[int, str]:
    pages = PdfReader(io.BytesIO(pdf)).pages
    return len(pages), " ".join(" ".join(page.extract_text().split()) for page in pages)


@given(MASKS)
def test_run_lengths_and_polygons_come_back_as_exactly_the_same_mask(mask: NDArray[np.bool_]) -> None:
    size = (mask.shape[0], mask.shape[1])
    assert np.array_equal(mask_of(run_lengths(mask), size), mask)
    assert np.array_equal(mask_of_polygons(json.loads(json.dumps(polygons(mask))), size), mask)


@given(MASKS)
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools under numpy 2
def test_pycocotools_reads_the_same_mask_from_the_run_lengths(mask: NDArray[np.bool_]) -> None:
    encoded = run_lengths(mask)
    assert np.array_equal(coco.decode({"size": encoded["size"], "counts": encoded["counts"].encode()}) > 0, mask)


def test_run_lengths_that_do_not_fill_the_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="the runs do not fill 5 x 5 pixels"):
        mask_of({**run_lengths(np.ones((4, 4), np.bool_)), "size": [5, 5]}, (5, 5))


@given(MASKS, st.integers(0, 11), st.integers(0, 11))
def test_the_even_odd_rule_at_a_pixels_centre_is_what_the_polygons_mean(mask: NDArray[np.bool_], row: int, column: int) -> None:
    row, column = row % mask.shape[0], column % mask.shape[1]
    crossed = 0
    for one in polygons(mask):
        for ring in (one["exterior"], *one["holes"]):
            for (x, y), (other_x, other_y) in zip(ring, [*ring[1:], ring[0]], strict=True):
                crossed += x == other_x and x > column + 0.5 and min(y, other_y) < row + 0.5 < max(y, other_y)
    assert bool(crossed % 2) == bool(mask[row, column])


def test_a_part_has_one_exterior_ring_and_a_ring_for_each_hole() -> None:
    mask = np.ones((6, 8), np.bool_)
    mask[1:3, 1:3] = mask[4, 5] = False
    (only,) = polygons(mask)
    assert only["exterior"] == [[0, 0], [8, 0], [8, 6], [0, 6]]
    assert sorted(len(hole) for hole in only["holes"]) == [4, 4]


def test_the_mask_file_is_lossless_two_valued_and_of_the_pictures_size(found: Result) -> None:
    values = read_png(mask_png(found))
    assert values.dtype == np.uint8 and set(np.unique(values)) == {0, 255}
    assert np.array_equal(values > 0, found.finding.mask)


def test_probabilities_are_kept_to_sixteen_bits_and_not_stretched(found: Result) -> None:
    values = read_png(probability_png(found))
    assert values.dtype == np.uint16 and values.max() == round(0.9 * 65535)
    assert np.abs(values / 65535 - found.probability).max() <= 0.5 / 65535 + 1e-7


def test_the_overlay_is_the_shown_picture_with_a_strip_of_words_below(found: Result) -> None:
    values = read_png(overlay_png(found))
    height, width = found.finding.mask.shape
    assert np.array_equal(values[:height, :width], contours(found.picture.pixels, found.finding))
    assert values.shape[0] > height + 20 and np.unique(values[height:].reshape(-1, 3), axis=0).shape[0] > 2


def test_from_the_exported_mask_the_same_contour_is_drawn(found: Result) -> None:
    again = answer(found.picture.pixels, found.probability, mask=read_png(mask_png(found)) > 0)
    assert np.array_equal(contours(found.picture.pixels, again.finding), contours(found.picture.pixels, found.finding))


def test_the_json_document_holds_the_schema_and_the_exact_mask(found: Result, model: ModelCard) -> None:
    document = json.loads(report_json(found, model))
    assert document["schema"] == "gps-seg-result/1" and document["disclaimer"] == DISCLAIMER
    assert datetime.fromisoformat(document["created_utc"]).utcoffset() is not None and document["created_utc"].endswith("Z")
    assert document["input"] == {"sha256": found.picture.sha256, "frame": None, "frames": 1, "height": 120, "width": 160,
                                 "burnt_in_text": False}
    assert document["model"]["id"] == model.model_id and document["model"]["weights_sha256"] == model.weights_sha256
    assert document["preprocessing"] == {
        "input_size": 256, "resize": "longest_side", "mean": [0.0] * 3, "std": [255.0] * 3, "stretch": False,
    }
    assert document["calibration"] == {"calibrated": False, "temperature": None} and document["threshold"] == 0.5
    assert document["timing_ms"] == {"pre": 12.0, "model": 400.0, "post": 30.0}
    assert document["outcome"] == {"state": "found", "words": found.finding.words} and document["dice_to_model"] is None
    assert np.array_equal(mask_of(document["mask"]["rle"], (120, 160)), found.finding.mask)
    assert np.array_equal(mask_of_polygons(document["mask"]["polygons"], (120, 160)), found.finding.mask)


def test_the_masks_of_the_regions_make_up_the_whole_mask(model: ModelCard) -> None:
    probability = discs(7)
    result = answer(np.zeros((*probability.shape, 3), np.uint8), probability)
    rows = json.loads(report_json(result, model))["regions"]
    assert len(rows) == 7 == len(result.finding.regions)
    whole = np.zeros(probability.shape, np.int64)
    for row, region in zip(rows, result.finding.regions, strict=True):
        part = mask_of(row["rle"], tuple(row["rle"]["size"]))
        assert part.sum() == region.area_px == row["area_px"] and row["box"] == list(region.box)
        assert np.array_equal(mask_of_polygons([row["polygon"]], part.shape), part)
        whole += part
    assert np.array_equal(whole, result.finding.mask.astype(np.int64))


def test_a_corrected_mask_is_marked_as_such_everywhere(model: ModelCard) -> None:
    pixels, probability = scene()
    result = answer(pixels, probability, mask=probability > 2, edited=True, dice_to_model=0.25)
    document = json.loads(report_json(result, model))
    assert document["edited"] is True and document["dice_to_model"] == 0.25 and document["regions"] == []
    assert "Mask corrected by hand" in regions_csv(result)
    assert "mask corrected by hand; Dice to the model's mask 0.250" in words(report_pdf(result, model))[1]


def test_a_file_name_is_in_the_document_only_if_opted_in_and_then_without_its_folders(found: Result, model: ModelCard) -> None:
    assert "name" not in json.loads(report_json(found, model))["input"]
    for given_name in ("/home/someone/polyp\n7.png", "C:\\someone\\polyp7.png"):
        assert json.loads(report_json(found, model, name=given_name))["input"]["name"] == "polyp7.png"


def test_the_table_has_a_row_a_region_after_the_disclaimer() -> None:
    probability = discs(3)
    result = answer(np.zeros((*probability.shape, 3), np.uint8), probability)
    lines = regions_csv(result).splitlines()
    assert lines[0] == f"# {DISCLAIMER}" and lines[1] == "# Polyp-like regions: 3"
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [int(row["area_px"]) for row in rows] == [region.area_px for region in result.finding.regions]
    assert float(rows[0]["confidence"]) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_report_is_one_page_however_many_regions_there_are(count: int, model: ModelCard) -> None:
    probability = discs(count)
    result = answer(np.full((*probability.shape, 3), 90, np.uint8), probability)
    pages, text = words(report_pdf(result, model))
    assert pages == 1 and len(result.finding.regions) == count
    for part in (DISCLAIMER, "RESEARCH USE ONLY", result.finding.words, model.model_id, model.weights_sha256[:16],
                 "not calibrated", "UTC", model.data, "gps-seg 0.1.0", result.picture.sha256[:22], "0.5", *model.scores):
        assert part in text
    if count == 30:
        assert "smaller regions are not listed here; result.json and regions.csv hold all 30" in text
        assert f"{result.finding.regions[0].area_px:,}" in text


@pytest.mark.parametrize("size", [(64, 64), (1000, 80), (60, 900)])
def test_a_picture_of_any_shape_that_is_not_assessable_is_one_page_too(size: tuple[int, int], model: ModelCard) -> None:
    result = answer(np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32), reason="too dark")
    pages, text = words(report_pdf(result, model))
    assert pages == 1 and "Not assessable: too dark" in text and DISCLAIMER in text


def test_the_bundle_holds_every_export_and_each_carries_the_disclaimer(found: Result, model: ModelCard) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle(found, model))) as archive:
        assert archive.testzip() is None
        held = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert set(held) == {"mask.png", "overlay.png", "probability.png", "result.json", "regions.csv", "report.pdf", "README.txt"}
    for name, data in held.items():
        assert DISCLAIMER in (words(data)[1] if name.endswith("pdf") else data.decode("utf-8", "replace")), name


def test_exports_hold_no_metadata_but_the_disclaimer(found: Result, model: ModelCard) -> None:
    for name, data in files(found, model).items():
        if name.endswith(".png"):
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                assert opened.info == {"Disclaimer": DISCLAIMER}, name
    about = PdfReader(io.BytesIO(files(found, model)["report.pdf"])).metadata
    assert about is not None and about.title == "Polyp segmentation report, research use only" and about.author == "gps-seg"
    assert about.creation_date is not None and about.creation_date.year == 2000  # not this machine's clock


@pytest.mark.parametrize("width", [1, 90, 700, 3000])
def test_a_strip_never_touches_the_picture_and_is_wide_enough_to_read(width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, width, 3), np.uint8)
    whole = with_strip(pixels, (DISCLAIMER,))
    assert np.array_equal(whole[:20, :width], pixels) and whole.shape[1] == max(width, 320)


def test_results_do_not_depend_on_what_the_upload_was_called(found: Result, model: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "Surname.png").write_bytes(mask_png(found))
    assert b"Surname" not in bundle(found, model)
