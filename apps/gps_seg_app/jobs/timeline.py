"""The timeline of a clip: how much of the visible field is marked, over time."""

from __future__ import annotations

import io
from collections.abc import Sequence

from gps_seg_app.inference.model_card import DISCLAIMER, SHORT_DISCLAIMER
from gps_seg_app.jobs.frames import FrameRow


def timeline_png(rows: Sequence[FrameRow]) -> bytes:
    """A PNG of percent of the visible field over seconds: as the model says, smoothed, and where a finding is shown."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = [row.seconds for row in rows]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(seconds, [row.raw_percent for row in rows], color="#9aa5b1", linewidth=0.9, label="each frame on its own")
    axis.plot(seconds, [row.percent for row in rows], color="#0077aa", linewidth=1.6, label="smoothed, as shown")
    top = axis.get_ylim()[1]
    axis.fill_between(seconds, 0, top, where=[row.shown for row in rows], color="#00e5ff", alpha=0.13, step="post", linewidth=0,
                      label="finding shown")
    axis.fill_between(seconds, 0, top, where=[not row.assessable for row in rows], color="#444444", alpha=0.18, step="post",
                      hatch="//", linewidth=0, label="not assessable")
    axis.set(xlabel="seconds", ylabel="percent of visible field", ylim=(0, top), title=SHORT_DISCLAIMER,
             xlim=(seconds[0], max(seconds[-1], seconds[0] + 1e-3)))
    axis.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None, "Disclaimer": DISCLAIMER})
    return buffer.getvalue()
