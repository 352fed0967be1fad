"""The About tab: model card, settings, limits, privacy."""

from __future__ import annotations

import gradio as gr

from gps_seg.errors import GpsSegError
from gps_seg_app.inference.model_card import card
from gps_seg_app.page.parts import Context

PRIVACY = """## Privacy

This page is served by your own machine, to your own machine alone. No picture, file name or number leaves it. Uploads are read
into memory and deleted at once; results are kept for this page until it is closed, and at most two hours. Metadata (EXIF, GPS,
DICOM tags) is never shown and never exported. Text that is burnt into the pixels stays in them: the page warns if it sees
some, and you must judge it yourself."""


def build(context: Context) -> None:
    """Lay the tab out."""
    for folder in context.models.runs.values():
        try:
            text = card(folder, fast=context.models.fast).markdown()
        except GpsSegError as error:
            text = str(error)
        gr.Markdown(text, elem_classes=["card"])
    limits = context.limits
    gr.Markdown(
        "## Limits of this page\n\n"
        f"- Pictures and DICOM objects: {limits.upload_bytes // 1_000_000} MB, {limits.pixels // 1_000_000} megapixels, "
        f"{limits.dicom_frames:,} frames.\n"
        f"- Batch: {limits.batch_files} pictures, {limits.unpacked_bytes // 1_000_000} MB once unpacked.\n"
        f"- Clips: {limits.video_bytes // 1_000_000} MB, {limits.video_seconds / 60:.0f} minutes, "
        f"{limits.video_frames:,} frames, {limits.video_side:,} pixels a side.\n\n"
        "## Keys\n\n"
        "On the picture: arrow keys move a cross (Shift: pixel by pixel), Enter uses the tool, Escape drops a half-drawn box. "
        "Ctrl-Z and Ctrl-Shift-Z undo and redo; Ctrl-V pastes a picture.\n\n" + PRIVACY
    )
