"""Pictures: contours on images, a sheet of cases, the training curve. matplotlib is imported only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
# Cyan and yellow stay apart on mucosa for colour-blind readers too; red and green do not. RGB.
PREDICTED, TARGET, HALO = (0, 229, 255), (255, 214, 0), (16, 16, 16)


@dataclass(frozen=True)
class Case:
    """One image to show. ``label`` says why: best, median or worst. Masks and image share (H, W)."""

    id: str
    image: Image
    predicted: Mask
    target: Mask
    dice: float
    label: str


def overlay(image: Image, predicted: Mask, target: Mask | None = None) -> Image:
    """A copy of the image (H, W, 3) with the predicted contour in cyan and the target's, if given, in yellow."""
    drawn = np.ascontiguousarray(image).copy()
    width = max(1, round(min(image.shape[:2]) / 200))
    layers = [(target, TARGET)] if target is not None else []
    for mask, color in [*layers, (predicted, PREDICTED)]:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, HALO, 2 * width + 1, cv2.LINE_AA)
        cv2.drawContours(drawn, contours, -1, color, width, cv2.LINE_AA)
    return drawn


def case_sheet(cases: Sequence[Case], path: Path) -> None:
    """Write one PNG: a row a case, columns image / target / predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.7 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        empty = np.zeros_like(case.predicted)
        shown = (case.image, overlay(case.image, empty, case.target), overlay(case.image, case.predicted))
        for axis, picture in zip(row, shown, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
        row[0].set_title(f"{case.label}: {case.id[:24]}", fontsize=9)
        row[1].set_title("target", fontsize=9)
        row[2].set_title(f"predicted, Dice {case.dice:.3f}", fontsize=9)
    _save(figure, path)




def training_curve(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a PNG of the loss of every step and the inner validation Dice, from the rows of log.jsonl."""
    from matplotlib.figure import Figure

    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    scores = [(row["step"], row["validation_dice"]) for row in rows if "validation_dice" in row]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(*_columns(losses), color="#7a8ca3", linewidth=0.8, label="training loss")
    axis.set(xlabel="step", ylabel="loss")
    axis.grid(alpha=0.25)
    right = axis.twinx()
    right.plot(*_columns(scores), color="#0077aa", marker="o", markersize=4, label="inner validation Dice")
    right.set(ylabel="Dice", ylim=(0, 1))
    handles = axis.get_lines() + right.get_lines()
    axis.legend(handles, [str(line.get_label()) for line in handles], loc="center right", frameon=False)
    _save(figure, path)


def cost_plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write a PNG of step time against memory, a dot a method, with the floor's time and memory drawn as lines.

    Args:
        rows: of the cost benchmark: ``method``, ``step_s``, and ``peak_bytes`` or, where that is zero, ``saved_bytes``.
    """
    from matplotlib.figure import Figure

    key = "peak_bytes" if all(row["peak_bytes"] for row in rows) else "saved_bytes"
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        is_ours = row["method"] == "gps"
        axis.scatter(row[key] / 1e9, row["step_s"], s=70 if is_ours else 36, color="#d1495b" if is_ours else "#7a8ca3", zorder=3)
        axis.annotate(row["method"], (row[key] / 1e9, row["step_s"]), xytext=(6, 4), textcoords="offset points", fontsize=9)
        if row["method"] == "floor":
            axis.axhline(row["step_s"], color="#0077aa", linewidth=0.9, linestyle="--", zorder=1)
            axis.axvline(row[key] / 1e9, color="#0077aa", linewidth=0.9, linestyle="--", zorder=1)
    what = "peak memory of a step" if key == "peak_bytes" else "kept for the backward"
    axis.set(xlabel=f"{what}, GB", ylabel="step, seconds", title=title, xlim=(0, None), ylim=(0, None))
    axis.margins(0.12)
    axis.grid(alpha=0.25)
    _save(figure, path)


def cost_of_score_plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write a PNG of two panels: mean Dice with its interval against trained encoder weights, and against step time.

    Args:
        rows: of a comparison: ``method``, ``dice``, ``low``, ``high``, ``selected``, ``bias``, ``other``, ``step_s``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True)
    for row in rows:
        color = "#d1495b" if row["method"].startswith("gps") else "#7a8ca3"
        error = [[row["dice"] - row.get("low", row["dice"])], [row.get("high", row["dice"]) - row["dice"]]]
        places = (row["selected"] + row["bias"] + row["other"], row["step_s"])
        for axis, x in zip((left, right), places, strict=True):
            axis.errorbar([x], [row["dice"]], yerr=error, fmt="o", color=color, capsize=3, elinewidth=0.8)
            axis.annotate(row["method"], (x, row["dice"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    left.set(xlabel="trained encoder weights, the decoder not counted", ylabel="mean Dice, 95 % interval")
    left.set_xscale("symlog", linthresh=1000)
    left.set_xlim(-300, 3 * max(row["selected"] + row["bias"] + row["other"] for row in rows) + 1000)
    right.set(xlabel="seconds a step")
    right.margins(x=0.2)
    for axis in (left, right):
        axis.grid(alpha=0.25)
    _save(figure, path)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
