"""What a score costs, over all data sets of a comparison (the paper's Fig. 2): trained weights, and time of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from gps_seg.metrics.tables import markdown_table
from gps_seg.tasks.comparison import Row


def costs(tables: Mapping[str, Any]) -> list[Row]:
    """A row for each method that has a score on every data set: means over the data sets, the largest memory.

    ``encoder`` are trained weights without the head, ``percent`` their part of the model, ``train_s`` seconds of selection and
    steps, without validation, ``step_s`` seconds of a step.
    """
    by_set = [{row["method"]: row for row in table["rows"]} for table in tables.values()]
    methods = [method for method in by_set[0] if all(method in rows for rows in by_set)] if by_set else []
    return [_row(method, [rows[method] for rows in by_set]) for method in methods]


def _row(method: str, rows: Sequence[Row]) -> Row:
    return {"method": method, **{key: mean(row[key] for row in rows) for key in ("score", "encoder", "step_s", "train_s")},
            "percent": mean(100 * row["encoder"] / row["parameters"] for row in rows),
            "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows)}


def costs_table(rows: Sequence[Row], title: str, sets: int) -> list[str]:
    """Lines of Markdown, the best score first; none without rows."""
    if not rows:
        return []
    ranked = sorted(rows, key=lambda row: -row["score"])
    found = [[row["method"], f"{row['score']:.4f}", f"{row['encoder']:,.0f}", f"{row['percent']:.3f}", f"{row['train_s']:,.0f}",
              f"{row['step_s']:.3f}", f"{row['peak_memory_bytes'] / 1e9:.2f}"] for row in ranked]
    columns = ("method", title, "encoder weights", "%", "training s", "step s", "memory GB")
    return [f"## What the score costs, mean over {sets} data set{'s' if sets > 1 else ''}", "",
            *markdown_table(columns, found, left=("method",)), "",
            "Weights of the encoder that train, without the head; training s: the selection pass and all steps, without "
            "validation.", ""]
