"""The Video tab: a clip in, an annotated clip with its timeline out."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from gps_seg_app.jobs.frames import describe
from gps_seg_app.jobs.video import TABLE, TIMELINE, VIDEO, Progress, Settings, VideoResult, run_video
from gps_seg_app.page.jobs import Job
from gps_seg_app.page.parts import Context, Update, links, model_and_threshold
from gps_seg_app.session import Session

FILES = {VIDEO: "Annotated clip", TABLE: "Table, a row a frame", TIMELINE: "Timeline"}


def build(context: Context) -> gr.Slider:
    """Lay the tab out and wire it. Returns the threshold, which the model sets once it is there."""
    limits = context.limits
    label = f"Clip: MP4, AVI or MOV; at most {limits.video_seconds / 60:.0f} minutes, {limits.video_bytes // 1_000_000} MB"
    with gr.Row(elem_classes=["intake"]):
        upload = gr.File(label=label, height=130, elem_id="video-upload", elem_classes=["upload"], scale=3, min_width=280)
        with gr.Column(scale=2, min_width=280):
            model, threshold = model_and_threshold(context, "video")
            stride = gr.Slider(1, 30, value=2, step=1, label="Look at every n-th frame", elem_id="stride")
            persistence = gr.Slider(1, 10, value=3, step=1, elem_id="persistence",
                                    label="Show a region after so many frames in a row")
            job = Job.build("video", "Choose a clip first.")
    words = gr.Markdown("No clip yet.", elem_id="video-words", elem_classes=["words", "answer"])
    notes = gr.Markdown("", elem_id="video-notes")
    downloads = gr.Markdown("", elem_id="video-downloads")
    gr.Column(elem_id="video-stage")
    mark = gr.Markdown("", elem_id="video-mark", elem_classes=["mark"])

    def work(
        session: Session, cancel: threading.Event, paths: list[Path], name: str, limit: float, stride: float, persistence: float
    ) -> Iterator[Update]:
        _forget(session)
        yield {downloads: "", notes: "", mark: session.changed(),
               words: "Reading the clip ..." if context.models.ready else "The model is loading ..."}
        out = Path(tempfile.mkdtemp(prefix="video-"))
        predictor = context.models.get()
        about = predictor.card(name)
        settings = Settings(stride=int(stride), persistence=int(persistence), delta=name, threshold=limit,
                            model=f"{about.model_id}, gps-seg {about.version}")
        result = None
        for step in run_video(paths[0], predictor, out, settings=settings, limits=limits, cancel=cancel):
            result = step.result
            if step.result is None and step.done % 5 == 1:
                yield {words: progress(step)}
        if result is None:
            yield {words: "Cancelled: nothing was kept."}
            return
        _keep(session, result)
        yield {words: f"## {summary(result)}", notes: details(result), mark: session.changed(),
               downloads: "Take away: " + links(session, FILES)}

    job.wire(context, work, upload, words, ([model, threshold, stride, persistence], [notes, downloads, mark]))
    return threshold


def progress(step: Progress) -> str:
    """How far it is."""
    return f"Frame {step.done} of about {step.total}; about {step.seconds_left:.0f} s left"


def summary(result: VideoResult) -> str:
    """The answer to a clip in a line: found, none, or not assessable; and what it is not an answer to."""
    looked = [row for row in result.rows if row.assessable]
    shown, brief = sum(row.area_px > 0 for row in looked), sum(row.raw_regions > 0 and not row.area_px for row in looked)
    if not looked:
        return f"Not assessable: none of the {len(result.rows)} frames (too dark, too blurred or not endoscopic)."
    answer = f"Polyp-like regions in {shown} of {len(looked)} frames." if shown else (
        f"No lasting polyp-like region in {len(looked)} frames. This does not exclude a polyp.")
    passing = f" In {brief} more a region came up too briefly to be shown." if brief else ""
    left = len(result.rows) - len(looked)
    return answer + passing + (f" {left} frames could not be assessed (too dark, too blurred or not endoscopic)." if left else "")


def details(result: VideoResult) -> str:
    """How fast it went, how steady it is, and what was left out."""
    return (f"{describe(result.settings)}\n\n{result.frames_per_second:.1f} frames a second. Changes between a region and none: "
            f"{result.switches}; unsmoothed: {result.raw_switches}. {result.note}")


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
