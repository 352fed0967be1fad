"""What a user takes away: mask, overlay, probabilities, JSON, CSV, PDF, or all in one zip.

Every export is built from pixels and numbers alone: no file name (unless the user opts in), no EXIF, no DICOM value can be in
it. Every export carries the disclaimer: PNG files in a text chunk, the overlay also in a strip below the picture, CSV in
lines that begin with ``#``, the others in plain sight.

The JSON document, schema ``gps-seg-result/1`` (a later schema keeps every name that is here, or counts up):

- ``schema``, ``disclaimer``, ``created_utc``, ``software`` {name, version};
- ``input`` {sha256 (of the bytes as uploaded), frame (from 1; null in a file of one), frames, height, width, burnt_in_text, and
  ``name`` if opted in};
- ``model`` {id, base, base_sha256, method, weights_sha256, trained_on, weights_licence};
- ``preprocessing`` {input_size, resize, mean, std (in the units of 0..255 pixels), stretch (to these units, first)};
- ``threshold`` (a pixel belongs to a region if its probability is above), ``calibration`` {calibrated, temperature};
- ``outcome`` {state: found | none | not_assessable, words};
- ``edited``, ``dice_to_model`` (null unless edited), ``visible_field_px``, ``timing_ms`` {pre, model, post} or null;
- ``mask`` {area_px, rle, polygons}: ``rle`` is COCO's {size: [height, width], counts} and exact; ``polygons`` is a list of
  {exterior, holes}, exact too under ``polygon_rule`` (see ``outlines``);
- ``regions``: a row a region, the fields of ``regions.Region``, its ``rle`` and its ``polygon``.

Lengths are in pixels of the picture as uploaded, x to the right and y down; never in millimetres.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from typing import Any

import numpy as np

from gps_seg.data.coco import run_lengths
from gps_seg_app.answer.outlines import Mask, parts, polygon, polygons
from gps_seg_app.answer.render import contours
from gps_seg_app.answer.result import Result, utc_now
from gps_seg_app.export.caption import png, with_strip
from gps_seg_app.export.pdf import report_pdf
from gps_seg_app.export.table import csv_text
from gps_seg_app.inference.model_card import DISCLAIMER, ModelCard
from gps_seg_app.intake.archive import shown_name

__all__ = ["Result", "bundle", "files", "mask_png", "overlay_png", "probability_png", "regions_csv", "report_json", "report_pdf"]

SCHEMA = "gps-seg-result/1"
POLYGON_RULE = "corners at pixel corners; a pixel belongs to the mask if its centre is inside an odd number of rings"
COLUMNS = ("id", "area_px", "field_percent", "x0", "y0", "x1", "y1", "centroid_x", "centroid_y", "diameter_px", "confidence",
           "least_confidence", "boundary_uncertainty", "position")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: no clock of this machine goes into it


def mask_png(result: Result) -> bytes:
    """The mask at the picture's own size, 0 and 255, lossless."""
    return png(np.where(result.finding.mask, np.uint8(255), np.uint8(0)))


def probability_png(result: Result) -> bytes:
    """Probabilities at the picture's own size, 16 bit: 65535 times the probability, never stretched."""
    return png(np.round(np.clip(result.probability, 0, 1) * 65535).astype(np.uint16))


def overlay_png(result: Result) -> bytes:
    """Picture and contour, and below them a strip with answer and disclaimer; the picture keeps its size and its place."""
    drawn = contours(result.picture.pixels, result.finding)
    return png(with_strip(drawn, (_answer(result), DISCLAIMER)))


def report_json(result: Result, card: ModelCard, *, name: str | None = None, created: str | None = None) -> str:
    """The JSON document described at the top of this module.

    Args:
        name: of the uploaded file, only where the user has opted in.
        created: default: now.
    """
    height, width = result.finding.mask.shape
    document = {
        "schema": SCHEMA, "disclaimer": DISCLAIMER, "created_utc": created or utc_now(),
        "software": {"name": "gps-seg", "version": card.version},
        "input": {"sha256": result.picture.sha256, "frame": result.picture.frame or None, "frames": result.picture.frames,
                  "height": height, "width": width,
                  "burnt_in_text": result.assessment.burnt_in_text, **({"name": shown_name(name)} if name else {})},
        **_model(card), "threshold": result.threshold,
        "outcome": {"state": result.finding.state, "words": result.finding.words},
        "edited": result.edited, "dice_to_model": result.dice_to_model if result.edited else None,
        "visible_field_px": int(np.count_nonzero(result.assessment.field)), "timing_ms": _timing(result),
        "polygon_rule": POLYGON_RULE,
        "mask": {"area_px": int(np.count_nonzero(result.finding.mask)), "rle": run_lengths(result.finding.mask),
                 "polygons": polygons(result.finding.mask)},
        "regions": _regions(result),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def regions_csv(result: Result) -> str:
    """A row a region, after ``#`` lines with the disclaimer and the answer and a row of column names."""
    rows = [(one.id, one.area_px, f"{one.field_percent:.4f}", *one.box, *(f"{value:.2f}" for value in one.centroid),
             f"{one.diameter_px:.2f}", _part(one.confidence), _part(one.least_confidence), f"{one.boundary_uncertainty:.2f}",
             one.position) for one in result.finding.regions]
    return csv_text((_answer(result),), COLUMNS, rows)


def _part(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def files(result: Result, card: ModelCard, *, name: str | None = None) -> dict[str, bytes]:
    """Every export by its file name; all bear the same time."""
    created = utc_now()
    return {
        "mask.png": mask_png(result), "overlay.png": overlay_png(result), "probability.png": probability_png(result),
        "result.json": report_json(result, card, name=name, created=created).encode(),
        "regions.csv": regions_csv(result).encode(), "report.pdf": report_pdf(result, card, created=created),
        "README.txt": readme(card).encode(),
    }


def bundle(result: Result, card: ModelCard, *, name: str | None = None) -> bytes:
    """One zip of :func:`files`; it names neither the picture nor this machine's time zone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files(result, card, name=name).items():
            add(archive, path, data)
    return buffer.getvalue()


def add(archive: zipfile.ZipFile, path: str, data: bytes) -> None:
    """Write one file into a zip, without a time and without rights of this machine; PNG and PDF are not packed again."""
    entry = zipfile.ZipInfo(path, ZIP_TIME)
    entry.compress_type = zipfile.ZIP_STORED if path.endswith((".png", ".pdf", ".mp4")) else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def readme(card: ModelCard) -> str:
    """What the files of a bundle are, the disclaimer and the model card, as plain text."""
    return (
        f"{DISCLAIMER}\n\n"
        "mask.png         0 and 255, at the size of the picture\n"
        "overlay.png      the picture with the contours of the mask\n"
        "probability.png  16 bit: 65535 times the model's own probability of polyp, whatever was corrected\n"
        "result.json      everything in numbers; the mask as COCO run lengths (exact) and polygons\n"
        "regions.csv      a row a region\n"
        "report.pdf       one page to read\n\n"
        f"{card.text()}"
    )


def _answer(result: Result) -> str:
    frame = f" Frame {result.picture.frame} of {result.picture.frames}." if result.picture.frame else ""
    return result.finding.words + (" Mask corrected by hand." if result.edited else "") + frame


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "model": {"id": card.model_id, "base": card.base, "base_sha256": card.base_sha256, "method": card.method,
                  "weights_sha256": card.weights_sha256, "trained_on": card.data, "weights_licence": card.licence},
        "preprocessing": {"input_size": card.input_size, "resize": card.resize, "mean": list(card.mean), "std": list(card.std),
                          "stretch": card.stretch},
        "calibration": {"calibrated": card.calibrated, "temperature": card.temperature},
    }


def _timing(result: Result) -> dict[str, float] | None:
    timing = result.timing
    return None if timing is None else {"pre": timing.pre_ms, "model": timing.model_ms, "post": timing.post_ms}


def _regions(result: Result) -> list[dict[str, Any]]:
    """Two parts never share box and area: both would reach all four sides of the box, and so touch."""
    mask = result.finding.mask
    found = {(box, int(np.count_nonzero(cut))): cut for box, cut in parts(mask)}
    rows = []
    for region in result.finding.regions:
        cut = found[region.box, region.area_px]
        rows.append({**asdict(region), "rle": run_lengths(_placed(cut, region.box, mask.shape)),
                     "polygon": polygon(cut, offset=(region.box[0], region.box[1]))})
    return rows


def _placed(cut: Mask, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Mask:
    whole = np.zeros(shape, np.bool_)
    whole[box[1] : box[3], box[0] : box[2]] = cut
    return whole
