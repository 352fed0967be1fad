"""The Compare tab: the same picture under two or three models, side by side."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from gps_seg_app.answer.edits import Edits
from gps_seg_app.answer.render import contours
from gps_seg_app.answer.result import Result, analyse
from gps_seg_app.intake.examples import EXAMPLES, example
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.intake.uploads import read_pictures
from gps_seg_app.limits import AppError
from gps_seg_app.page.layers import alt_text, picture_png
from gps_seg_app.page.parts import MODEL, PRIVATE, Context, Update, reopen, take, told_in
from gps_seg_app.session import Session, Shown

MOST_MODELS = 3
SIDE = 1280  # pixels of a picture in the comparison
HEADERS = ["Model", "Answer", "Threshold", "Regions", "Visible field, %", "Mean confidence, %", "Dice to the first", "Model, ms"]


def build(context: Context) -> None:
    """Lay the tab out and wire it."""
    names = list(context.models.runs)
    with gr.Row(elem_classes=["intake"]):
        upload = gr.File(label="Picture", height=110, elem_id="compare-upload", elem_classes=["upload"], scale=3, min_width=280)
        with gr.Column(scale=2, min_width=280):
            chosen = gr.CheckboxGroup(names, value=names[:MOST_MODELS], label=f"Models, at most {MOST_MODELS}",
                                      elem_id="compare-models")
            with gr.Row():
                current = gr.Button("Picture of the Image tab", size="sm", elem_id="compare-current")
                drawn = gr.Button("Example", size="sm", elem_id="compare-example")
    words = gr.Markdown("No picture yet.", elem_id="compare-words", elem_classes=["words", "answer"])
    gr.Column(elem_id="compare-gallery")
    table = gr.Dataframe(headers=HEADERS, datatype=["str", "str"] + ["number"] * 6, interactive=False, label="Answers", wrap=True,
                         buttons=[], elem_id="compare-table", row_count=(0, "dynamic"))
    mark = gr.Markdown("", elem_id="compare-mark", elem_classes=["mark"])
    guard = told_in(words)

    def compared(session: Session, picture: Picture | None, chosen: list[str]) -> Iterator[Update]:
        if not 2 <= len(chosen) <= MOST_MODELS:
            raise AppError(f"Choose 2 to {MOST_MODELS} models.")
        if picture is None:
            raise AppError("There is no picture yet: drop one, or take the example.")
        session.galleries.pop("compare", None)
        yield {words: "Looking at the picture ...", table: [], mark: session.changed()}
        predictor = context.models.get()
        results = []
        for name in chosen:
            yield {words: f"Looking with {name} ..."}
            results.append(analyse(picture, predictor, delta=name))
        session.galleries["compare"] = [
            Shown(picture_png(contours(picture.pixels, result.finding), SIDE), f"{name}: {result.finding.words}",
                  alt_text(result))
            for name, result in zip(chosen, results, strict=True)]
        rows = [_row(name, result, results[0]) for name, result in zip(chosen, results, strict=True)]
        yield {words: f"## {len(chosen)} models, one picture", table: rows, mark: session.changed()}

    @guard
    def opened(path: str | None, chosen: list[str], request: gr.Request) -> Iterator[Update]:
        if path:
            session = context.session(request)
            session.galleries.pop("compare", None)
            yield {words: "Reading the file ...", table: [], mark: session.changed()}
            picture = read_pictures(take(path, context.limits.upload_bytes), context.limits)[0]
            yield from compared(session, picture, chosen)

    @guard
    def shown(chosen: list[str], request: gr.Request) -> Iterator[Update]:
        yield from compared(context.session(request), example(next(iter(EXAMPLES))), chosen)

    @guard
    def again(chosen: list[str], request: gr.Request) -> Iterator[Update]:
        session = context.session(request)
        yield from compared(session, session.picture, chosen)

    out = [words, table, mark]
    upload.upload(opened, [upload, chosen], out, trigger_mode="multiple", **MODEL, **PRIVATE)
    reopen(context, upload)
    drawn.click(shown, [chosen], out, **MODEL, **PRIVATE)
    current.click(again, [chosen], out, **MODEL, **PRIVATE)


def _row(name: str, result: Result, first: Result) -> list[str | float]:
    dice = Edits.start(first.finding.mask).replace(result.finding.mask).dice
    found = result.finding
    return [name, found.words, round(result.threshold, 3), len(found.regions), round(found.field_percent, 2),
            round(100 * found.confidence, 1), round(dice, 3), round(result.timing.model_ms) if result.timing else 0]
