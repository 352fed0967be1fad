"""The Batch tab: many files or a zip in, a gallery by confidence and one zip out."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from gps_seg_app.batch import Item, Progress, by_confidence, run_batch
from gps_seg_app.layers import picture_png
from gps_seg_app.model_card import card
from gps_seg_app.page_parts import JOB, PRIVATE, VIEW, Context, Update, gone, links, told_in
from gps_seg_app.result import analyse
from gps_seg_app.session import Session, Shown

PRODUCT = "batch.zip"
EVERY = 4  # the gallery is shown anew after so many pictures


def build(context: Context) -> None:
    """Lay the tab out and wire it."""
    limits = context.limits
    with gr.Row(elem_classes=["intake"]):
        upload = gr.File(label=f"Pictures, or one zip; at most {limits.batch_files}", file_count="multiple", height=130,
                         elem_id="batch-upload", elem_classes=["upload"], scale=3, min_width=280)
        with gr.Column(scale=2, min_width=280):
            threshold = gr.Slider(0.01, 0.99, value=0.5, step=0.01, label="Threshold", elem_id="batch-threshold")
            names = gr.Checkbox(value=False, elem_id="batch-names",
                                label="Put file names into results (a name may tell who the patient is)")
            with gr.Row():
                start = gr.Button("Start", variant="primary", elem_id="batch-start", min_width=90)
                stop = gr.Button("Cancel", interactive=False, elem_id="batch-stop", min_width=90)
    words = gr.Markdown("No pictures yet.", elem_id="batch-words", elem_classes=["words", "answer"])
    downloads = gr.Markdown("", elem_id="batch-downloads")
    gr.Column(elem_id="batch-gallery")
    mark = gr.Markdown("", elem_id="batch-mark", elem_classes=["mark"])

    def idle() -> Update:
        return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}

    @told_in(words, also=idle)
    def started(paths: list[str] | None, limit: float, named: object, request: gr.Request) -> Iterator[Update]:
        if not paths:
            yield {words: "Choose pictures or a zip first."}
            return
        session = context.session(request)
        if PRODUCT in session.products and gone(paths):
            return  # the second click of a double click: the first one's answer stays
        cancel = session.jobs["batch"] = threading.Event()
        _forget(session)
        yield {start: gr.Button(interactive=False), stop: gr.Button(interactive=True), downloads: "", mark: session.changed(),
               words: "Reading the files ..." if context.models.ready else "The model is loading ..."}
        predictor = context.models.get()
        out = Path(tempfile.mkdtemp(prefix="batch-")) / PRODUCT
        steps = run_batch(_source(paths), functools.partial(analyse, predictor=predictor, threshold=limit),
                          card(predictor.folder(predictor.names[0])), out, limits=limits, names=bool(named), cancel=cancel)
        items: list[Item] = []
        try:
            for step in steps:
                items.append(step.item)
                last = step.done == step.total
                if step.done % EVERY == 1 or last:
                    session.galleries["batch"] = [_shown(item) for item in by_confidence(items)]
                    yield {words: _progress(step), mark: session.changed()}
                else:
                    yield {words: _progress(step)}
        finally:
            for path in paths:
                Path(path).unlink(missing_ok=True)
        session.galleries["batch"] = [_shown(item) for item in by_confidence(items)]
        session.products[PRODUCT] = out
        yield {upload: None, words: f"### {_summary(items, stopped=cancel.is_set())}", mark: session.changed(),
               downloads: "Take away: " + links(session, {PRODUCT: "All results in one zip"}), **idle()}

    def stopped(request: gr.Request) -> Update:
        session = context.session(request)
        if "batch" in session.jobs:
            session.jobs["batch"].set()
        return {stop: gr.Button(interactive=False)}

    out = [upload, words, downloads, mark, start, stop]
    start.click(started, [upload, threshold, names], out, **JOB, **PRIVATE)
    stop.click(stopped, None, [stop], **VIEW, **PRIVATE)


def _source(paths: list[str]) -> Path | list[Path]:
    """One zip, known by its content, or files."""
    found = [Path(path) for path in paths]
    if len(found) == 1:
        with found[0].open("rb") as file:
            if file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
                return found[0]
    return found


def _forget(session: Session) -> None:
    product = session.products.pop(PRODUCT, None)
    if isinstance(product, Path):
        product.unlink(missing_ok=True)
    session.galleries.pop("batch", None)


def _progress(step: Progress) -> str:
    left = "" if step.done == step.total else f"; about {_duration(step.seconds_left)} left"
    return f"{step.done} of {step.total} pictures{left}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _summary(items: list[Item], *, stopped: bool) -> str:
    found, failed = sum(item.regions > 0 for item in items), sum(item.failed for item in items)
    begin = "Cancelled after" if stopped else "Done:"
    rest = len(items) - found - failed
    return (f"{begin} {len(items)} pictures, {found} with polyp-like regions, {rest} without or not assessable, "
            f"{failed} unreadable")


def _shown(item: Item) -> Shown:
    words = f"{item.label}: {item.words}" + (f", confidence {100 * item.confidence:.0f} %" if item.regions else "")
    return Shown(b"" if item.thumbnail is None else picture_png(item.thumbnail), words, words)
