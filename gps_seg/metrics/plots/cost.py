"""Pictures of what methods cost: time against memory of a training step and of a prediction (the paper's Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gps_seg.metrics.plots.pictures import save

Rows = Sequence[Mapping[str, Any]]


def cost_plot(rows: Rows, path: Path, title: str, predictions: Rows = ()) -> None:
    """Write a PNG of step time against memory, a dot a method, with the floor's time and memory drawn as lines.

    Args:
        rows: of the cost benchmark: ``name``, ``method``, ``step_s``, and ``peak_bytes`` or, where that is zero, ``saved_bytes``.
        predictions: of the same methods: ``name``, ``method``, ``predict_s``, ``peak_bytes``; they get a panel beside.
    """
    from matplotlib.figure import Figure

    panels = 2 if predictions else 1
    figure = Figure(figsize=(6.2 * panels + 1.8, 4.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    key = "peak_bytes" if all(row["peak_bytes"] for row in rows) else "saved_bytes"
    _panel(axes[0], rows, "step_s", key)
    what = "peak memory of a step" if key == "peak_bytes" else "kept for the backward"
    axes[0].set(xlabel=f"{what}, GB", ylabel="step, seconds")
    if predictions:
        _panel(axes[1], predictions, "predict_s", "peak_bytes")
        axes[1].set(xlabel="peak memory of a prediction, GB", ylabel="prediction, seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def _panel(axis: Any, rows: Rows, seconds: str, memory: str) -> None:
    for number, row in enumerate(rows):
        color = f"C{number % 10}"
        axis.scatter(row[memory] / 1e9, row[seconds], s=64, color=color, zorder=3, label=row["name"],
                     marker="D" if row["method"] == "gps" else "os^v"[number // 10 % 4])
        if row["method"] == "floor":
            axis.axhline(row[seconds], color=color, linewidth=0.9, linestyle="--", zorder=1)
            axis.axvline(row[memory] / 1e9, color=color, linewidth=0.9, linestyle="--", zorder=1)
    largest = max(row[memory] for row in rows) or 1
    axis.set(xlim=(0, 1.08 * largest / 1e9), ylim=(0, 1.08 * max(row[seconds] for row in rows)))
    axis.grid(alpha=0.25)


def score_against_cost_plot(rows: Rows, path: Path, title: str, score: str) -> None:
    """Write a PNG of a score against trained weights, and beside it against the time of training (the paper's Fig. 2).

    Args:
        rows: ``method``, ``score``, ``percent`` of the model that trains without its head, ``train_s`` in seconds.
        score: its name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    figure.suptitle(title)
    weights, seconds = figure.subplots(1, 2, sharey=True)
    for axis, key in ((weights, "percent"), (seconds, "train_s")):
        for number, row in enumerate(rows):
            axis.scatter(row[key], row["score"], s=64, color=f"C{number % 10}", zorder=3,
                         marker="D" if row["method"].startswith("gps") else "os^v"[number // 10 % 4])
            axis.annotate(row["method"], (row[key], row["score"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
        axis.grid(alpha=0.25)
        axis.margins(x=0.15, y=0.1)
    weights.set_xscale("symlog", linthresh=0.01)  # a linear probe trains none of the encoder
    weights.set(xlabel="trained weights, % of the model (head not counted)", ylabel=score, xlim=(-0.003, 300))
    seconds.set_xscale("log")
    seconds.set(xlabel="training, seconds (selection included)")
    save(figure, path)
