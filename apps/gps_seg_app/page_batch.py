"""The Batch tab."""

from __future__ import annotations

import gradio as gr

from gps_seg_app.page_parts import Context


def build(context: Context) -> None:
    """Lay the tab out."""
    del context
    gr.Markdown("to come")
