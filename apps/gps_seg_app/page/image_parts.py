"""What the Image tab consists of, and how it shows a session's picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from gps_seg.metrics.operating_point import nearest_step
from gps_seg_app.answer.desk import Desk
from gps_seg_app.page.parts import Context, Update, links
from gps_seg_app.session import Session

HEADERS = ["Region", "Area, px", "Visible field, %", "Model's mean confidence, %", "Least, %", "Outline uncertain, px",
           "Diameter, px", "Position"]
TOOLS = [("Look", "look"), ("Add point", "point add"), ("Remove point", "point remove"), ("Box", "box"),
         ("Brush: add", "brush add"), ("Brush: erase", "brush erase")]
FILES = {"all.zip": "All in one zip", "mask.png": "Mask", "overlay.png": "Overlay", "probability.png": "Probability",
         "result.json": "JSON", "regions.csv": "CSV", "report.pdf": "PDF report"}
THRESHOLD = 0.5  # until the model brings its own
SPREAD = ("Disagreement: the spread of the model's answers to the flipped and resized picture. It shows where the answer is "
          "fragile; it is not a probability of error.")


@dataclass(frozen=True)
class Parts:
    """The components that handlers update."""

    upload: gr.File
    words: gr.Markdown
    notes: gr.Markdown
    table: gr.Dataframe
    timing: gr.Markdown
    mark: gr.Markdown
    threshold: gr.Slider
    frame: gr.Slider
    model: gr.Dropdown
    undo: gr.Button
    redo: gr.Button
    reset: gr.Button
    spread: gr.Button
    downloads: gr.Markdown
    save: gr.Button
    saved: gr.Markdown

    def all(self) -> list[Any]:
        """Every one, as outputs."""
        return list(vars(self).values())


@dataclass(frozen=True)
class Tools:
    """The components that only send."""

    gesture: gr.Textbox
    kind: gr.Radio
    radius: gr.Slider
    places: list[gr.Number]
    use: gr.Button


def panel(context: Context, upload: gr.File, frame: gr.Slider) -> tuple[Parts, Tools]:
    """Lay out all that stands beside the picture."""
    words = gr.Markdown("No picture yet.", elem_id="words", elem_classes=["words", "answer"])
    notes = gr.Markdown(elem_id="notes", elem_classes=["words"])
    model = gr.Dropdown(list(context.models.runs), value=next(iter(context.models.runs)), label="Model",
                        visible=len(context.models.runs) > 1, elem_id="model")
    threshold = gr.Slider(0.01, 0.99, value=THRESHOLD, step=0.01, elem_id="threshold", buttons=[],  # a reset knows no model's own
                          label="Threshold: probability above which a pixel belongs to a region")
    tools, undo, redo, reset = _tools()
    with gr.Accordion("More", open=False):
        spread = gr.Button("Show where the model disagrees with itself", size="sm", interactive=False, elem_id="spread")
        gr.Markdown(SPREAD)
    downloads = gr.Markdown("", elem_id="downloads")
    save = gr.Button("Save as training pair", size="sm", interactive=False, elem_id="save",
                     visible=context.save_folder is not None)
    saved = gr.Markdown("", elem_id="saved", elem_classes=["words"])
    timing = gr.Markdown("", elem_id="timing")
    mark = gr.Markdown("", elem_id="image-mark", elem_classes=["mark"])
    table = gr.Dataframe(headers=HEADERS, datatype=["number"] * 7 + ["str"], interactive=False, label="Regions", elem_id="table",
                         row_count=(0, "dynamic"), wrap=True, buttons=[], render=False)
    return Parts(upload, words, notes, table, timing, mark, threshold, frame, model, undo, redo, reset, spread, downloads, save,
                 saved), tools


def _tools() -> tuple[Tools, gr.Button, gr.Button, gr.Button]:
    kind = gr.Radio(TOOLS, value="look", label="Correct: choose a tool, then use it on the picture", elem_id="tool")
    radius = gr.Slider(1, 100, value=12, step=1, label="Brush radius, pixels of the picture", elem_id="radius")
    with gr.Row():
        undo = gr.Button("Undo", size="sm", interactive=False, elem_id="undo", min_width=70)
        redo = gr.Button("Redo", size="sm", interactive=False, elem_id="redo", min_width=70)
        reset = gr.Button("Reset", size="sm", interactive=False, elem_id="reset", min_width=70)
    with gr.Accordion("Use a tool by numbers", open=False, elem_id="numbers"):
        with gr.Row():
            places = [gr.Number(value=0, precision=0, minimum=0, label=label, min_width=70)
                      for label in ("x", "y", "x, other corner", "y, other corner")]
        use = gr.Button("Use the tool there", size="sm", elem_id="use")
    gesture = gr.Textbox(label="Gesture", elem_id="gesture", elem_classes=["mark"], max_lines=1)
    return Tools(gesture, kind, radius, places, use), undo, redo, reset


def threshold_of(session: Session, parts: Parts) -> Update:
    """The slider at the model's own threshold, until the user has moved it."""
    desk = session.desk
    return {} if desk is None or session.threshold is not None else {parts.threshold: nearest_step(desk.threshold)}


def view(session: Session, parts: Parts) -> Update:
    """What the page shows of a session's picture."""
    with session.lock:
        desk = session.desk
        if desk is None:
            return {parts.mark: session.mark}
        result = desk.result()
        can = {parts.undo: desk.can_undo, parts.redo: desk.can_redo, parts.reset: desk.step.touched, parts.spread: True,
               parts.save: desk.assessment.assessable or desk.step.touched}
        mark = session.changed()
    rows = [[one.id, one.area_px, round(one.field_percent, 2), _percent(one.confidence),
             _percent(one.least_confidence), round(one.boundary_uncertainty, 1), round(one.diameter_px, 1),
             one.position] for one in result.finding.regions]
    edited = f"Corrected by hand (Dice to the model's mask {result.dice_to_model:.3f}). " if result.edited else ""
    warning = "**Text seems to be burnt into this picture: it may name a patient.** " if result.assessment.burnt_in_text else ""
    return {parts.words: f"## {result.finding.words}", parts.notes: warning + edited, parts.table: rows,
            parts.timing: timing(desk), parts.mark: mark, parts.downloads: "Take away: " + links(session, FILES),
            **{button: gr.Button(interactive=on) for button, on in can.items()}}


def _percent(part: float | None) -> float | None:
    return None if part is None else round(100 * part, 1)


def timing(desk: Desk) -> str:
    """The line about time and calibration."""
    height, width = desk.picture.pixels.shape[:2]
    known = "not calibrated" if desk.predictor.calibration(desk.name) is None else "calibrated"
    took = desk.timing
    time = "the model was not run" if took is None else (
        f"{took.total_ms:.0f} ms (preparation {took.pre_ms:.0f}, model {took.model_ms:.0f}, "
        f"probability map {took.post_ms:.0f})")
    return f"{width} x {height} pixels; {time}; probabilities {known}."
