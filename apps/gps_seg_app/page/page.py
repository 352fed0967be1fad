"""The page: banner, tabs, and what each of them is told. Text and numbers only in tables; no HTML is ever made from input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from gps_seg.errors import GpsSegError
from gps_seg.metrics.operating_point import nearest_step
from gps_seg_app.access import user_of
from gps_seg_app.inference.loading import Models
from gps_seg_app.inference.model_card import DISCLAIMER
from gps_seg_app.page import about as page_card
from gps_seg_app.page import batch as page_batch
from gps_seg_app.page import compare as page_compare
from gps_seg_app.page import image as page_image
from gps_seg_app.page import video as page_video
from gps_seg_app.page.parts import PRIVATE, VIEW, Context
from gps_seg_app.session import MOST_SESSIONS, Sessions
from gps_seg_app.settings import Settings

WEB = Path(__file__).parent / "web"  # scripts and style
CSS = (WEB / "page.css").read_text(encoding="utf-8")
HEAD = '<script type="module" src="/app/page.js"></script>'
THREADS = 40 + 2 * MOST_SESSIONS  # Gradio's own number, and a place for every page that stays open
QUEUE = 32  # events that may wait; one more is told to come back


def theme() -> gr.themes.Base:
    """Gradio's default with its local fonts (a Google font would call out) and colours of enough contrast."""
    return gr.themes.Default(primary_hue="blue", secondary_hue="slate", neutral_hue="slate", font=["system-ui", "sans-serif"],
                             font_mono=["ui-monospace", "monospace"]).set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_hover_dark="*primary_800")


def build_page(models: Models, sessions: Sessions, settings: Settings) -> gr.Blocks:
    """All tabs, wired to the model and to the sessions."""
    context = Context(models, sessions, settings.limits, settings.save_folder)
    with gr.Blocks(analytics_enabled=False, title="gps-seg", fill_width=True, delete_cache=(600, 7200)) as page:
        gr.Markdown(f"# gps-seg: polyp segmentation\n\n**{DISCLAIMER}**", elem_id="banner")
        status = gr.Markdown(models.status, elem_id="status", elem_classes=["words"])
        with gr.Tabs():
            with gr.Tab("Image", id="image"):
                threshold = page_image.build(context)
            with gr.Tab("Batch", id="batch"):
                batch_threshold = page_batch.build(context)
            with gr.Tab("Video", id="video"):
                video_threshold = page_video.build(context)
            if len(models.runs) > 1:
                with gr.Tab("Compare", id="compare"):
                    page_compare.build(context)
            with gr.Tab("About", id="about"):
                page_card.build(context)
        timer = gr.Timer(0.5)

        def tell(request: gr.Request) -> tuple[Any, ...]:
            return _tell(context, request)

        timer.tick(tell, None, [status, timer, threshold, batch_threshold, video_threshold], **VIEW, **PRIVATE)

        def leave(request: gr.Request) -> None:
            sessions.drop(str(request.session_hash), user_of(request.headers))

        page.load(stay, None, None, concurrency_id="stay", concurrency_limit=None, **PRIVATE)
        page.unload(leave)
        page.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
        page.max_threads = page._queue.max_thread_count = THREADS
    for block in page.blocks.values():  # every one: Gradio looks for files in the input of a slider too
        vars(block)["async_move_resource_to_block_cache"] = only_uploads
    return page


async def stay() -> AsyncIterator[None]:
    """Never ends while the page is open: Gradio's client shuts its stream of answers whenever nothing is under way, and with it
    loses an event that is asked for in just that moment, so that a picture would never be answered."""
    while True:
        await asyncio.sleep(10)
        yield None


async def only_uploads(named: str | Path | None) -> str | None:
    """Let through a file that was uploaded. Of a mounted page Gradio takes any path that a request names, and fetches addresses.

    Raises:
        gr.Error: the path leads elsewhere, or is an address.
    """
    if named is None:
        return None
    path = Path(named).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("Expected a file that was uploaded: drop it on the page.", print_exception=False)
    return str(path)


def _tell(context: Context, request: gr.Request) -> tuple[Any, ...]:
    """The state of the model until there is one; then how it runs and its own threshold on every tab, and no more questions."""
    models = context.models
    if not models.ready:
        return models.status, gr.Timer(active=True), *3 * [gr.skip()]
    try:
        predictor = models.get(wait_seconds=0)
    except GpsSegError as error:
        return str(error), gr.Timer(active=False), *3 * [gr.skip()]
    without = [name for name in predictor.names if predictor.calibration(name) is None]
    known = "calibrated" if not without else "not calibrated: take them as an order, not as chances"
    if 0 < len(without) < len(predictor.names):
        known = f"calibrated, but not those of {', '.join(without)}"
    own = nearest_step(predictor.threshold)
    fast = f" Fast: it looks at {predictor.input_size} pixels a side, less than it was trained on." if predictor.fast else ""
    return (f"The model is ready on {predictor.device}.{fast} Its probabilities are {known}.", gr.Timer(active=False),
            context.session(request).threshold or own, own, own)
