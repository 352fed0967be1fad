"""The Image tab: a picture in, an answer in words, layers to look at it by, tools to correct it, and files to take away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from gps_seg_app.inference.loading import LOADING
from gps_seg_app.intake.examples import EXAMPLES, example
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.intake.uploads import read_pictures
from gps_seg_app.limits import AppError
from gps_seg_app.page.correct import wire_rest, wire_tools
from gps_seg_app.page.image_parts import Parts, Tools, panel, threshold_of, view
from gps_seg_app.page.parts import MODEL, PRIVATE, Context, Update, reopen, take, told_in
from gps_seg_app.session import Session


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
            frame = gr.Slider(1, 2, value=1, step=1, label="Frame", visible=False, elem_id="frame", buttons=[])
        with gr.Column(scale=4, min_width=300):
            parts, tools = panel(context, upload, frame)
    parts.table.render()
    _wire(context, parts, tools, buttons)
    return parts.threshold


def _wire(context: Context, parts: Parts, tools: Tools, buttons: list[gr.Button]) -> None:
    out = [part for part in parts.all() if part is not parts.upload]
    guard = told_in(parts.words)

    @guard
    def opened(path: str | None, name: str, request: gr.Request) -> Iterator[Update]:
        if not path:
            return
        session = context.session(request)
        session.frames, session.corrected = [], {}
        yield {**_cleared(session, parts, None), parts.words: "Reading the file ..."}
        try:
            frames = read_pictures(take(path, context.limits.upload_bytes), context.limits)
        except AppError:
            yield {parts.frame: gr.Slider(visible=False)}
            raise
        session.frames = frames if len(frames) > 1 else []
        bounds: dict[str, Any] = {"maximum": max(2, len(frames)), "visible": len(frames) > 1}
        yield from _put(context, session, parts, frames[0], name, gr.Slider(value=1, **bounds))

    @guard
    def shown(label: str, name: str, request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        session.frames, session.corrected = [], {}
        yield from _put(context, session, parts, example(label), name, gr.Slider(visible=False))

    @guard
    def turned(number: float, name: str, request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        if 0 < number <= len(session.frames):
            session.lay_aside()
            yield from _put(context, session, parts, session.frames[int(number) - 1], name, number)

    parts.upload.upload(opened, [parts.upload, parts.model], out, trigger_mode="multiple", **MODEL, **PRIVATE)
    reopen(context, parts.upload)
    parts.frame.input(turned, [parts.frame, parts.model], out, trigger_mode="always_last", **MODEL, **PRIVATE)
    for button in buttons:
        button.click(shown, [button, parts.model], out, trigger_mode="multiple", **MODEL, **PRIVATE)
    wire_tools(context, parts, tools)
    wire_rest(context, parts)


def _put(
    context: Context, session: Session, parts: Parts, picture: Picture, name: str, frame: Any
) -> Iterator[Update]:
    """Show the picture and the frame's slider at once, then the model's answer, during which the slider may move on."""
    waiting = "Looking at the picture ..." if context.models.ready else LOADING
    yield {**_cleared(session, parts, picture), parts.words: waiting, parts.frame: frame}
    session.place(picture, context.models.get(), name)
    yield {**view(session, parts), **threshold_of(session, parts)}


def _cleared(session: Session, parts: Parts, picture: Picture | None) -> Update:
    """Another picture, or none, and no word left of the one before: an answer never stands beside a picture it is not of."""
    with session.lock:
        session.picture, session.desk = picture, None
        mark = session.changed()
    buttons = (parts.undo, parts.redo, parts.reset, parts.spread, parts.save)
    return {parts.notes: "", parts.table: [], parts.timing: "", parts.downloads: "", parts.saved: "", parts.mark: mark,
            **{button: gr.Button(interactive=False) for button in buttons}}
