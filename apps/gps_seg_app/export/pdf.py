"""The report to print: one A4 page with picture, answer, regions, settings, model card and disclaimer, whatever the result."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph, Table, TableStyle

from gps_seg_app.answer.render import contours
from gps_seg_app.answer.result import Result, utc_now
from gps_seg_app.inference.model_card import DISCLAIMER, LIMITS, ModelCard

PAGE_WIDTH, PAGE_HEIGHT = A4
MARGIN = 16 * mm
WIDTH = PAGE_WIDTH - 2 * MARGIN
PICTURE_WIDTH, PICTURE_HEIGHT = 0.58 * WIDTH, 88 * mm
GAP = 5 * mm
SHOWN_SIDE = 1400  # pixels of the picture's longer side in the report
INK, MUTED, LINE, AMBER, PALE = (colors.HexColor(code) for code in ("#1b2430", "#5b6776", "#c9d1da", "#8a4b00", "#fff3d6"))
BANNER = "RESEARCH USE ONLY - NOT A MEDICAL DEVICE - NOT FOR DIAGNOSIS OR TREATMENT"
HEADS = ("Region", "Position", "Area, px", "Field, %", "Box x0 y0 x1 y1, px", "Diameter, px", "Confidence", "Least")
COLUMNS = tuple(part * WIDTH for part in (0.09, 0.15, 0.12, 0.1, 0.23, 0.12, 0.11, 0.08))


def report_pdf(result: Result, card: ModelCard, *, created: str | None = None) -> bytes:
    """A PDF of exactly one page. With many regions the largest are listed, and how many more there are.

    Args:
        created: UTC time as :func:`result.utc_now` writes it; default: now.
    """
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=1)  # invariant: no clock and no time zone in the file
    canvas.setTitle("Polyp segmentation report, research use only")
    canvas.setAuthor("gps-seg")
    canvas.setSubject(DISCLAIMER)
    top = _heading(canvas, card, created or utc_now())
    top = _outcome(canvas, result, top)
    top = _picture_and_settings(canvas, result, card, top)
    sentences = _sentences(card)
    bottom = _footer(canvas) + _height(sentences)
    top = _regions(canvas, result, top, bottom)
    _model_card(canvas, sentences, top)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _heading(canvas: Canvas, card: ModelCard, created: str) -> float:
    """Title, time, banner; returns the height at which the next part begins, in points from the bottom."""
    top = PAGE_HEIGHT - MARGIN
    canvas.setFillColor(INK)
    canvas.setFont("Helvetica-Bold", 17)
    canvas.drawString(MARGIN, top - 13, "Polyp segmentation report")
    canvas.setFillColor(MUTED)
    canvas.setFont("Helvetica", 8.5)
    canvas.drawRightString(MARGIN + WIDTH, top - 6, created.replace("T", " ").replace("Z", " UTC"))
    canvas.drawRightString(MARGIN + WIDTH, top - 17, f"gps-seg {card.version}")
    canvas.setFillColor(PALE)
    canvas.setStrokeColor(AMBER)
    canvas.roundRect(MARGIN, top - 44, WIDTH, 19, 3, stroke=1, fill=1)
    canvas.setFillColor(AMBER)
    canvas.setFont("Helvetica-Bold", 10)
    canvas.drawCentredString(PAGE_WIDTH / 2, top - 38, BANNER)
    return top - 44 - GAP


def _outcome(canvas: Canvas, result: Result, top: float) -> float:
    words = _escape(result.finding.words)
    if result.edited:
        dice = "" if result.dice_to_model is None else f"; Dice to the model's mask {result.dice_to_model:.3f}"
        words += f" <font size=9 color='#5b6776'>(mask corrected by hand{dice})</font>"
    if result.assessment.burnt_in_text:
        words += " <font size=9 color='#8a4b00'>Writing seems to be burnt into the picture: check that it names nobody.</font>"
    return _flow(canvas, Paragraph(words, _style(13, 16, bold=True)), MARGIN, top, WIDTH) - 3 * mm


def _picture_and_settings(canvas: Canvas, result: Result, card: ModelCard, top: float) -> float:
    """Side by side; returns the lower end of the longer one."""
    picture = _shrink(result)
    (height, width), native = picture.shape[:2], result.picture.pixels.shape
    scale = min(PICTURE_WIDTH / width, PICTURE_HEIGHT / height)
    canvas.drawImage(ImageReader(Image.fromarray(picture)), MARGIN, top - scale * height, scale * width, scale * height)
    what = "corrected by hand" if result.edited else "where the probability is above the threshold"
    words = f"Picture {native[1]} x {native[0]} px. Contour: outline of the mask, {what}."
    note = Paragraph(words, _style(7.5, 9.5, color=MUTED))
    low = _flow(canvas, note, MARGIN, top - scale * height - 3, PICTURE_WIDTH)
    left = MARGIN + PICTURE_WIDTH + GAP
    grey, plain = _style(7.5, 9.5, color=MUTED), _style(7.5, 9.5)
    cells = [[Paragraph(name, grey), Paragraph(_escape(value), plain)] for name, value in _settings(result, card)]
    width_left = MARGIN + WIDTH - left
    table = Table(cells, colWidths=[0.34 * width_left, 0.66 * width_left], style=TableStyle([
        ("VALIGN", (0, 0), (-1, -1), "TOP"), ("LINEBELOW", (0, 0), (-1, -1), 0.3, LINE), *_tight(1.6)]))
    return min(low, _flow(canvas, table, left, top, width_left)) - GAP


def _settings(result: Result, card: ModelCard) -> Sequence[tuple[str, str]]:
    timing = result.timing
    measured = [] if timing is None else [
        ("Time", f"{timing.total_ms:.0f} ms, of which model {timing.model_ms:.0f} ms")]
    return (
        ("Model", card.model_id), ("Base", card.base), ("Method", card.method),
        ("Weights sha256", f"{card.weights_sha256[:16]}..."), ("Base sha256", f"{card.base_sha256[:16]}..."),
        ("Threshold", f"{result.threshold:g}"), ("Probabilities", card.calibration),
        ("Model input", card.input),
        ("Visible field", f"{np.count_nonzero(result.assessment.field):,} px"),
        *([("Frame", f"{result.picture.frame} of {result.picture.frames}")] if result.picture.frame else []),
        ("Input sha256", " ".join(result.picture.sha256[at : at + 22] for at in range(0, 64, 22))),
        *measured,
    )


def _regions(canvas: Canvas, result: Result, top: float, bottom: float) -> float:
    """As many rows as there is room for above ``bottom``, largest first, and how many more there are; returns the lower end."""
    top = _title(canvas, "Regions", top)
    regions = result.finding.regions
    if not regions:
        return _flow(canvas, Paragraph("None.", _style(8.5, 11)), MARGIN, top, WIDTH) - GAP
    rows = [(f"{one.id}", one.position, f"{one.area_px:,}", f"{one.field_percent:.2f}", " ".join(map(str, one.box)),
             f"{one.diameter_px:.0f}", _part(one.confidence), _part(one.least_confidence)) for one in regions]
    height = 13.0
    room = max(1, int((top - bottom - 12) / height) - 1)
    table = Table([HEADS, *rows[:room]], colWidths=COLUMNS, rowHeights=height, style=TableStyle([
        ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 7.5), ("FONT", (0, 1), (-1, -1), "Helvetica", 8),
        ("TEXTCOLOR", (0, 0), (-1, -1), INK), ("LINEBELOW", (0, 0), (-1, 0), 0.8, INK),
        ("LINEBELOW", (0, 1), (-1, -1), 0.3, LINE), ("ALIGN", (2, 0), (-1, -1), "RIGHT"),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"), *_tight(1)]))
    low = _flow(canvas, table, MARGIN, top, WIDTH)
    if len(rows) > room:
        more = f"{len(rows) - room} smaller regions are not listed here; result.json and regions.csv hold all {len(rows)}."
        low = _flow(canvas, Paragraph(more, _style(8, 10, color=MUTED)), MARGIN, low - 1, WIDTH)
    return low - GAP


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _sentences(card: ModelCard) -> list[Paragraph]:
    """An extract of the model card."""
    trained = f"Trained on {card.data} ({card.data_terms}); weights licence {card.licence}."
    style = _style(7.8, 10)
    return [Paragraph(_escape(sentence), style, bulletText="-") for sentence in (trained, *card.scores, *card.notes, *LIMITS)]


def _height(sentences: Sequence[Paragraph]) -> float:
    """Of the model card with its title and the gap above it."""
    return float(sum(sentence.wrap(WIDTH, PAGE_HEIGHT)[1] for sentence in sentences)) + 15 + GAP


def _model_card(canvas: Canvas, sentences: Sequence[Paragraph], top: float) -> None:
    low = _title(canvas, "Model card", top)
    for sentence in sentences:
        low = _flow(canvas, sentence, MARGIN, low, WIDTH)


def _footer(canvas: Canvas) -> float:
    """The disclaimer, at the foot of the page; returns its upper end."""
    note = Paragraph(f"<b>Disclaimer.</b> {DISCLAIMER}", _style(8, 10.5, color=AMBER))
    _, height = note.wrap(WIDTH - 12, PAGE_HEIGHT)
    canvas.setFillColor(PALE)
    canvas.setStrokeColor(AMBER)
    canvas.roundRect(MARGIN, MARGIN - 4, WIDTH, height + 10, 3, stroke=1, fill=1)
    note.drawOn(canvas, MARGIN + 6, MARGIN + 2)
    return MARGIN + height + 6 + GAP


def _title(canvas: Canvas, text: str, top: float) -> float:
    canvas.setFillColor(INK)
    canvas.setFont("Helvetica-Bold", 10)
    canvas.drawString(MARGIN, top - 10, text)
    return top - 15


def _flow(canvas: Canvas, part: Any, left: float, top: float, width: float) -> float:
    """Draw a paragraph or table with its upper edge at ``top``; returns its lower edge."""
    _, height = part.wrapOn(canvas, width, PAGE_HEIGHT)
    part.drawOn(canvas, left, top - height)
    return float(top - height)


def _style(size: float, leading: float, *, bold: bool = False, color: colors.Color = INK) -> ParagraphStyle:
    return ParagraphStyle("text", fontName="Helvetica-Bold" if bold else "Helvetica", fontSize=size, leading=leading,
                          textColor=color, leftIndent=0, bulletIndent=0, splitLongWords=1)


def _tight(points: float) -> list[tuple[Any, ...]]:
    return [(f"{side}PADDING", (0, 0), (-1, -1), points) for side in ("TOP", "BOTTOM", "LEFT", "RIGHT")]


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _shrink(result: Result) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Contours first, then smaller: their width follows the picture's size."""
    drawn = Image.fromarray(contours(result.picture.pixels, result.finding))
    drawn.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(drawn)
