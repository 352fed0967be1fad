"""The Batch tab: many files or a zip in, a gallery by confidence and one zip out."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from gps_seg_app.answer.result import analyse
from gps_seg_app.jobs.batch import Item, Progress, by_confidence, run_batch
from gps_seg_app.page.jobs import Job
from gps_seg_app.page.layers import picture_png
from gps_seg_app.page.parts import Context, Update, links, model_and_threshold
from gps_seg_app.session import Session, Shown

PRODUCT = "batch.zip"
EVERY = 4  # the gallery is shown anew after so many pictures


def build(context: Context) -> gr.Slider:
    """Lay the tab out and wire it. Returns the threshold, which the model sets once it is there."""
    limits = context.limits
    with gr.Row(elem_classes=["intake"]):
        upload = gr.File(label=f"Pictures, or one zip; at most {limits.batch_files}", file_count="multiple", height=130,
                         elem_id="batch-upload", elem_classes=["upload"], scale=3, min_width=280)
        with gr.Column(scale=2, min_width=280):
            model, threshold = model_and_threshold(context, "batch")
            names = gr.Checkbox(value=False, elem_id="batch-names",
                                label="Put file names into results (a name may tell who the patient is)")
            job = Job.build("batch", "Choose pictures or a zip first.")
    words = gr.Markdown("No pictures yet.", elem_id="batch-words", elem_classes=["words", "answer"])
    downloads = gr.Markdown("", elem_id="batch-downloads")
    gr.Column(elem_id="batch-gallery")
    mark = gr.Markdown("", elem_id="batch-mark", elem_classes=["mark"])

    def work(
        session: Session, cancel: threading.Event, paths: list[Path], name: str, limit: float, named: object
    ) -> Iterator[Update]:
        _forget(session)
        yield {downloads: "", mark: session.changed(),
               words: "Reading the files ..." if context.models.ready else "The model is loading ..."}
        predictor = context.models.get()
        out = Path(tempfile.mkdtemp(prefix="batch-")) / PRODUCT
        steps = run_batch(paths, functools.partial(analyse, model=predictor, delta=name, threshold=limit),
                          predictor.card(name), out, limits=limits, names=bool(named), cancel=cancel)
        items: list[Item] = []
        for step in steps:
            items.append(step.item)
            if step.done % EVERY == 1 or step.done == step.total:
                session.galleries["batch"] = [_shown(item) for item in by_confidence(items)]
                yield {words: _progress(step), mark: session.changed()}
            else:
                yield {words: _progress(step)}
        session.galleries["batch"] = [_shown(item) for item in by_confidence(items)]
        session.products[PRODUCT] = out
        yield {words: f"## {_summary(items, stopped=cancel.is_set())}", mark: session.changed(),
               downloads: "Take away: " + links(session, {PRODUCT: "All results in one zip"})}

    job.wire(context, work, upload, words, ([model, threshold, names], [downloads, mark]))
    return threshold


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
    number = Counter("unreadable" if item.failed else item.state for item in items)
    begin = "Cancelled after" if stopped else "Done:"
    return (f"{begin} {len(items)} pictures: {number['found']} with polyp-like regions, {number['none']} without, which does not "
            f"exclude a polyp, {number['not_assessable']} not assessable, {number['unreadable']} unreadable")


def _shown(item: Item) -> Shown:
    words = f"{item.label}: {item.words}" + (f", confidence {100 * item.confidence:.0f} %" if item.regions else "")
    return Shown(b"" if item.thumbnail is None else picture_png(item.thumbnail), words, words)
