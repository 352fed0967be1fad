"""The Image tab after the answer: tools that correct the mask, the threshold, another model, and training pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from gps_seg_app.answer.desk import Desk
from gps_seg_app.export.training_pairs import LEAST_PAIRS, count_pairs, finetune_command, save_pair
from gps_seg_app.intake.examples import is_example
from gps_seg_app.limits import AppError
from gps_seg_app.page.image_parts import Parts, Tools, threshold_of, view
from gps_seg_app.page.parts import MODEL, PRIVATE, VIEW, Context, Update, told_in
from gps_seg_app.session import Session


def wire_tools(context: Context, parts: Parts, tools: Tools) -> None:
    """Points, boxes and strokes, drawn or typed, and the steps back."""
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
        try:
            with session.lock:
                desk = _desk(session)
                if gesture.get("key", desk.picture.key) != desk.picture.key:
                    raise AppError("The picture has changed meanwhile: draw it again.")
                use_tool(desk, gesture)
        except AppError as error:
            return {parts.notes: str(error), parts.mark: session.changed()}  # the page draws anew, without the gesture
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


def wire_rest(context: Context, parts: Parts) -> None:
    """Threshold, model, disagreement and training pairs."""
    guard = told_in(parts.words)
    out = [part for part in parts.all() if part not in (parts.upload, parts.threshold)]

    @guard
    def cut(threshold: float, request: gr.Request) -> Update:
        session = context.session(request)
        with session.lock:
            session.threshold = threshold  # of the next picture too, or of the one that is being looked at
            if session.desk is None:
                return {}
            session.desk.set_threshold(threshold)
        return view(session, parts)

    @guard
    def changed(name: str, request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        if session.desk is not None and session.desk.name != name:
            before = session.desk
            yield {parts.words: "Looking at the picture ..."}
            kept = session.lay_aside()
            session.place(before.picture, before.predictor, name)
            shown = view(session, parts)
            aside = f"Your corrections of the answer of {before.name} are kept: choose it again to see them. " if kept else ""
            yield {**shown, **threshold_of(session, parts), parts.notes: aside + shown.get(parts.notes, "")}

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
    parts.model.input(changed, [parts.model], [*out, parts.threshold], trigger_mode="always_last", **MODEL, **PRIVATE)
    parts.spread.click(spread, None, out, **MODEL, **PRIVATE)
    parts.save.click(saved, None, [parts.saved], **VIEW, **PRIVATE)


def save(context: Context, desk: Desk) -> str:
    """Keep the picture and its mask as a training pair, and say how to train on them."""
    if context.save_folder is None:
        raise AppError("Start the app with --save-folder FOLDER to keep training pairs.")
    if is_example(desk.picture):
        raise AppError("An example is drawn, not seen: it is not kept as a training pair.")
    result = desk.result()
    pair = save_pair(context.save_folder, desk.picture.pixels, result.finding.mask)
    command = finetune_command(context.save_folder, config=desk.predictor.folder(desk.name) / "config.yaml",
                               out=context.save_folder.parent / "finetuned")
    again = " (an earlier mask of this picture was replaced)" if pair.replaced else ""
    how = "" if result.edited else " with the model's own mask, unchanged: take it as ground truth only if it is right"
    count = count_pairs(context.save_folder)
    if count < LEAST_PAIRS:
        return f"Saved as {pair.name}{how}{again}. Fine-tuning needs at least {LEAST_PAIRS} pairs; there are {count}."
    return f"Saved as {pair.name}{how}{again}. To fine-tune on the {count} pairs that were saved:\n\n```\n{command}\n```"


def _desk(session: Session) -> Desk:
    if session.desk is None:
        raise AppError("There is no picture yet: drop one, paste one, or take an example.")
    return session.desk
