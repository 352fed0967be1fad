"""The Image tab: a picture in, an answer in words, layers to look at it by, tools to correct it, and files to take away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from gps_seg_app.corrections import finetune_command, save_pair
from gps_seg_app.desk import Desk
from gps_seg_app.examples import EXAMPLES, example
from gps_seg_app.intake import Picture
from gps_seg_app.limits import AppError
from gps_seg_app.loading import LOADING
from gps_seg_app.page_parts import MODEL, PRIVATE, VIEW, Context, Update, links, take, told_in
from gps_seg_app.reading import read_pictures
from gps_seg_app.session import Session

HEADERS = ["Region", "Area, px", "Visible field, %", "Mean confidence, %", "Least confidence, %", "Outline uncertain, px",
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


def build(context: Context) -> gr.Slider:
    """Lay the tab out and wire it. Returns the threshold, which the model sets once it is there."""
    with gr.Row(elem_classes=["intake"]):
        upload = gr.File(label="Picture or DICOM: drop, choose or paste", height=110,
                         elem_id="upload", elem_classes=["upload"], scale=3, min_width=280)
        with gr.Column(scale=2, min_width=280):
            gr.Markdown("Or an example (drawn, not a patient):")
            with gr.Row(elem_id="examples"):
                buttons = [gr.Button(name, size="sm", min_width=90) for name in EXAMPLES]
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320):
            gr.Column(elem_id="image-stage")
            frame = gr.Slider(1, 2, value=1, step=1, label="Frame", visible=False, elem_id="frame")
        with gr.Column(scale=4, min_width=300):
            parts, tools = _panel(context, upload, frame)
    parts.table.render()
    _wire(context, parts, tools, buttons)
    return parts.threshold


@dataclass(frozen=True)
class Tools:
    """The components that only send."""

    gesture: gr.Textbox
    kind: gr.Radio
    radius: gr.Slider
    places: list[gr.Number]
    use: gr.Button


def _panel(context: Context, upload: gr.File, frame: gr.Slider) -> tuple[Parts, Tools]:
    words = gr.Markdown("No picture yet.", elem_id="words", elem_classes=["words", "answer"])
    notes = gr.Markdown(elem_id="notes", elem_classes=["words"])
    model = gr.Dropdown(list(context.models.runs), value=next(iter(context.models.runs)), label="Model",
                        visible=len(context.models.runs) > 1, elem_id="model")
    threshold = gr.Slider(0.01, 0.99, value=THRESHOLD, step=0.01, elem_id="threshold",
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


def view(session: Session, parts: Parts) -> Update:
    """What the page shows of a session's picture."""
    desk = session.desk
    if desk is None:
        return {parts.mark: session.mark}
    with session.lock:
        result = desk.result()
        can = {parts.undo: desk.can_undo, parts.redo: desk.can_redo, parts.reset: desk.step.touched, parts.spread: True,
               parts.save: True}
        mark = session.changed()
    rows = [[one.id, one.area_px, round(one.field_percent, 2), round(100 * one.confidence, 1),
             round(100 * one.least_confidence, 1), round(one.boundary_uncertainty, 1), round(one.diameter_px, 1),
             one.position] for one in result.finding.regions]
    edited = f"Corrected by hand (Dice to the model's mask {result.dice_to_model:.3f}). " if result.edited else ""
    warning = "**Text seems to be burnt into this picture: it may name a patient.** " if result.assessment.burnt_in_text else ""
    return {parts.words: f"### {result.finding.words}", parts.notes: warning + edited, parts.table: rows,
            parts.timing: timing(desk), parts.mark: mark, parts.downloads: "Take away: " + links(session, FILES),
            **{button: gr.Button(interactive=on) for button, on in can.items()}}


def timing(desk: Desk) -> str:
    """The line about time and calibration."""
    height, width = desk.picture.pixels.shape[:2]
    known = "calibrated" if desk.predictor.calibrated else "not calibrated"
    took = desk.timing
    time = "the model was not run" if took is None else (
        f"{took.pre_ms + took.model_ms + took.post_ms:.0f} ms (preparation {took.pre_ms:.0f}, model {took.model_ms:.0f}, "
        f"probability map {took.post_ms:.0f})")
    return f"{width} x {height} pixels; {time}; probabilities {known}."


def _wire(context: Context, parts: Parts, tools: Tools, buttons: list[gr.Button]) -> None:
    out = parts.all()
    guard = told_in(parts.words)

    @guard
    def opened(path: str | None, name: str, threshold: float, request: gr.Request) -> Iterator[Update]:
        if not path:
            return
        session = context.session(request)
        yield {**_cleared(session, parts, None), parts.words: "Reading the file ...", parts.upload: None}
        frames = read_pictures(take(path, context.limits.upload_bytes), context.limits)
        session.frames = frames if len(frames) > 1 else []
        yield {parts.frame: gr.Slider(maximum=max(2, len(frames)), value=1, visible=len(frames) > 1)}
        yield from _put(context, session, parts, frames[0], (name, threshold))

    @guard
    def shown(label: str, name: str, threshold: float, request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        session.frames = []
        yield {parts.frame: gr.Slider(visible=False)}
        yield from _put(context, session, parts, example(label), (name, threshold))

    @guard
    def turned(number: float, name: str, threshold: float, request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        if 0 < number <= len(session.frames):
            yield from _put(context, session, parts, session.frames[int(number) - 1], (name, threshold))

    settings = [parts.model, parts.threshold]
    parts.upload.upload(opened, [parts.upload, *settings], out, **MODEL, **PRIVATE)
    parts.frame.release(turned, [parts.frame, *settings], out, trigger_mode="always_last", **MODEL, **PRIVATE)
    for button in buttons:
        button.click(shown, [button, *settings], out, **MODEL, **PRIVATE)
    _wire_corrections(context, parts, tools, guard)
    _wire_rest(context, parts, guard)


def _put(context: Context, session: Session, parts: Parts, picture: Picture, settings: tuple[str, float]) -> Iterator[Update]:
    """Show the picture at once, then the model's answer to it."""
    waiting = "Looking at the picture ..." if context.models.ready else LOADING
    yield {**_cleared(session, parts, picture), parts.words: waiting}
    desk = Desk(picture, context.models.get(), *settings)
    with session.lock:
        if session.picture is picture:  # else another one came meanwhile
            session.desk = desk
    yield view(session, parts)


def _cleared(session: Session, parts: Parts, picture: Picture | None) -> Update:
    """Another picture, or none, and no word left of the one before: an answer never stands beside a picture it is not of."""
    with session.lock:
        session.picture, session.desk = picture, None
        mark = session.changed()
    buttons = (parts.undo, parts.redo, parts.reset, parts.spread, parts.save)
    return {parts.notes: "", parts.table: [], parts.timing: "", parts.downloads: "", parts.saved: "", parts.mark: mark,
            **{button: gr.Button(interactive=False) for button in buttons}}


def _desk(session: Session) -> Desk:
    if session.desk is None:
        raise AppError("There is no picture yet: drop one, paste one, or take an example.")
    return session.desk


def _wire_corrections(context: Context, parts: Parts, tools: Tools, guard: Callable[..., Any]) -> None:
    out = [parts.words, *(part for part in parts.all() if part not in (parts.words, parts.upload, parts.threshold))]
    guard = told_in(parts.notes)

    @guard
    def drawn(text: str, request: gr.Request) -> Update:
        return used(context.session(request), json.loads(text))

    @guard
    def typed(kind: str, radius: float, x: float, y: float, x1: float, y1: float, request: gr.Request) -> Update:
        places = [[x or 0, y or 0], [x1 or 0, y1 or 0]] if kind == "box" else [[x or 0, y or 0]]
        return used(context.session(request), {"tool": kind, "radius": radius, "points": places})

    def used(session: Session, gesture: dict[str, Any]) -> Update:
        with session.lock:
            use_tool(_desk(session), gesture)
        return view(session, parts)

    def stepped(act: Callable[[Desk], None]) -> Callable[[gr.Request], Update]:
        @guard
        def step(request: gr.Request) -> Update:
            session = context.session(request)
            with session.lock:
                act(_desk(session))
            return view(session, parts)

        return step

    tools.gesture.change(drawn, [tools.gesture], out, trigger_mode="multiple", **MODEL, **PRIVATE)
    tools.use.click(typed, [tools.kind, tools.radius, *tools.places], out, **MODEL, **PRIVATE)
    for button, act in ((parts.undo, Desk.undo), (parts.redo, Desk.redo), (parts.reset, Desk.reset)):
        button.click(stepped(act), None, out, trigger_mode="multiple", **MODEL, **PRIVATE)


def use_tool(desk: Desk, gesture: dict[str, Any]) -> None:
    """Do to the picture what was drawn or typed. Raises AppError for a gesture that no tool makes."""
    try:
        kind, places = str(gesture["tool"]), [(float(x), float(y)) for x, y in gesture["points"]]
        radius = float(gesture.get("radius") or 1)
    except (KeyError, TypeError, ValueError):
        raise AppError("That gesture could not be read: draw it again.") from None
    if kind in ("point add", "point remove") and places:
        desk.point(*places[0], add=kind == "point add")
    elif kind == "box" and len(places) == 2:
        desk.box(*places)
    elif kind in ("brush add", "brush erase") and places:
        desk.stroke(places, radius, add=kind == "brush add")
    else:
        raise AppError("Choose a tool first: a point, the box or the brush.")


def _wire_rest(context: Context, parts: Parts, guard: Callable[..., Any]) -> None:
    out = [part for part in parts.all() if part not in (parts.upload, parts.threshold)]

    @guard
    def cut(threshold: float, request: gr.Request) -> Update:
        session = context.session(request)
        if session.desk is None:
            return {}
        with session.lock:
            session.desk.set_threshold(threshold)
        return view(session, parts)

    @guard
    def changed(name: str, request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        if session.desk is not None:
            yield {parts.words: "Looking at the picture ..."}
            with session.lock:
                session.desk.set_model(name)
            yield view(session, parts)

    @guard
    def spread(request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        desk = _desk(session)
        yield {parts.notes: "Asking the model several times ..."}
        desk.disagree()
        yield view(session, parts)

    @told_in(parts.saved)
    def saved(request: gr.Request) -> Update:
        return {parts.saved: save(context, _desk(context.session(request)))}

    parts.threshold.input(cut, [parts.threshold], out, trigger_mode="always_last", **VIEW, **PRIVATE)
    parts.model.input(changed, [parts.model], out, **MODEL, **PRIVATE)
    parts.spread.click(spread, None, out, **MODEL, **PRIVATE)
    parts.save.click(saved, None, [parts.saved], **VIEW, **PRIVATE)


def save(context: Context, desk: Desk) -> str:
    """Keep the picture and its mask as a training pair, and say how to train on them."""
    if context.save_folder is None:
        raise AppError("Start the app with --save-folder FOLDER to keep training pairs.")
    pair = save_pair(context.save_folder, desk.picture.pixels, desk.result().finding.mask)
    command = finetune_command(context.save_folder, config=desk.predictor.folder(desk.name) / "config.yaml",
                               out=context.save_folder.parent / "finetuned")
    again = " (an earlier mask of this picture was replaced)" if pair.replaced else ""
    return f"Saved as {pair.name}{again}. To fine-tune on what was saved:\n\n```\n{command}\n```"
