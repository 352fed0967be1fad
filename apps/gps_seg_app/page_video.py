"""The Video tab: a clip in, an annotated clip with its timeline out."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from gps_seg_app.limits import AppError
from gps_seg_app.page_parts import JOB, PRIVATE, VIEW, Context, Update, gone, links, told_in
from gps_seg_app.session import Session
from gps_seg_app.video import TABLE, TIMELINE, VIDEO, Progress, Settings, VideoResult, run_video

FILES = {VIDEO: "Annotated clip", TABLE: "Table, a row a frame", TIMELINE: "Timeline"}
EVERY_SECONDS = 0.5


def build(context: Context) -> None:
    """Lay the tab out and wire it."""
    limits = context.limits
    label = f"Clip: MP4, AVI or MOV; at most {limits.video_seconds / 60:.0f} minutes, {limits.video_bytes // 1_000_000} MB"
    with gr.Row(elem_classes=["intake"]):
        upload = gr.File(label=label, height=130, elem_id="video-upload", elem_classes=["upload"], scale=3, min_width=280)
        with gr.Column(scale=2, min_width=280):
            stride = gr.Slider(1, 30, value=2, step=1, label="Look at every n-th frame", elem_id="stride")
            persistence = gr.Slider(1, 10, value=3, step=1, elem_id="persistence",
                                    label="Show a region after so many frames in a row")
            with gr.Row():
                start = gr.Button("Start", variant="primary", elem_id="video-start", min_width=90)
                stop = gr.Button("Cancel", interactive=False, elem_id="video-stop", min_width=90)
    words = gr.Markdown("No clip yet.", elem_id="video-words", elem_classes=["words", "answer"])
    notes = gr.Markdown("", elem_id="video-notes")
    downloads = gr.Markdown("", elem_id="video-downloads")
    gr.Column(elem_id="video-stage")
    mark = gr.Markdown("", elem_id="video-mark", elem_classes=["mark"])

    def idle() -> Update:
        return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}

    @told_in(words, also=idle)
    def started(path: str | None, stride: float, persistence: float, request: gr.Request) -> Iterator[Update]:
        if not path:
            raise AppError("Choose a clip first.")
        session = context.session(request)
        if TABLE in session.products and gone([path]):
            return  # the second click of a double click: the first one's answer stays
        cancel = session.jobs["video"] = threading.Event()
        _forget(session)
        yield {start: gr.Button(interactive=False), stop: gr.Button(interactive=True), downloads: "", notes: "",
               mark: session.changed(),
               words: "Reading the clip ..." if context.models.ready else "The model is loading ..."}
        out = Path(tempfile.mkdtemp(prefix="video-"))
        settings = Settings(stride=int(stride), persistence=int(persistence))
        steps = run_video(Path(path), context.models.get(), out, settings=settings, limits=limits, cancel=cancel)
        result = None
        try:
            for step in steps:
                result = step.result
                if step.result is None and step.done % 5 == 1:
                    yield {words: progress(step)}
        finally:
            Path(path).unlink(missing_ok=True)
        if result is None:
            yield {upload: None, words: "Cancelled: nothing was kept.", **idle()}
            return
        _keep(session, result)
        yield {upload: None, words: f"### {summary(result)}", notes: details(result), mark: session.changed(),
               downloads: "Take away: " + links(session, FILES), **idle()}

    def stopped(request: gr.Request) -> Update:
        session = context.session(request)
        if "video" in session.jobs:
            session.jobs["video"].set()
        return {stop: gr.Button(interactive=False)}

    start.click(started, [upload, stride, persistence], [upload, words, notes, downloads, mark, start, stop], **JOB, **PRIVATE)
    stop.click(stopped, None, [stop], **VIEW, **PRIVATE)


def progress(step: Progress) -> str:
    """How far it is."""
    return f"Frame {step.done} of about {step.total}; about {step.seconds_left:.0f} s left"


def summary(result: VideoResult) -> str:
    """The answer to a clip in a line."""
    shown = sum(row.area_px > 0 for row in result.rows)
    answer = f"Polyp-like regions in {shown} of {len(result.rows)} frames" if shown else (
        f"No polyp-like region in {len(result.rows)} frames. This does not exclude a polyp.")
    return answer


def details(result: VideoResult) -> str:
    """How fast it went, how steady it is, and what was left out."""
    return (f"{result.frames_per_second:.1f} frames a second. Changes between a region and none: {result.switches}; unsmoothed: "
            f"{result.raw_switches}. {result.note}")


def _keep(session: Session, result: VideoResult) -> None:
    with session.lock:
        session.products.update({TABLE: result.table, TIMELINE: result.timeline})
        if result.video is not None:
            session.products[VIDEO] = result.video
        times = [round(row.seconds, 3) for row in result.rows]
        session.clip = {
            "source": f"/clip/{session.token}/{VIDEO}?version={session.version}", "times": times,
            "seconds": max(times[-1], 0.001),
            "areas": [round(row.percent, 3) for row in result.rows],
        }


def _forget(session: Session) -> None:
    with session.lock:
        session.clip = {}
        for name in FILES:
            product = session.products.pop(name, None)
            if isinstance(product, Path):
                product.unlink(missing_ok=True)
