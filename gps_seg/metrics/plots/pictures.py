"""Pictures: contours on images, a sheet of cases, the training curve, what methods cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.files import write_bytes

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
    save(figure, path)


@dataclass(frozen=True)
class Answer:
    """A method's mask of an image, and what it scores."""

    mask: Mask
    dice: float


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet, with an answer for each method; all of (H, W)."""

    id: str
    image: Image
    target: Mask
    answers: Mapping[str, Answer]


def method_sheet(rows: Sequence[SheetRow], path: Path, title: str) -> None:
    """Write one PNG: a row an image, columns image / target / each method with its Dice, the truth's contour under each."""
    from matplotlib.figure import Figure

    methods = list(rows[0].answers)
    figure = Figure(figsize=(2.4 * (2 + len(methods)), 2.3 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(rows), 2 + len(methods), squeeze=False)
    for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
        line[0].set_title(row.id[:24], fontsize=8)
        line[1].set_title("target" if number == 0 else "", fontsize=9)
        shown = [row.image, overlay(row.image, np.zeros_like(row.target), row.target)]
        for axis, method in zip(line[2:], methods, strict=True):
            answer = row.answers[method]
            axis.set_title(f"{method}\n{answer.dice:.3f}" if number == 0 else f"{answer.dice:.3f}", fontsize=9)
            shown.append(overlay(row.image, answer.mask, row.target))
        for axis, picture in zip(line, shown, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    save(figure, path)


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
    save(figure, path)


def cost_of_score_plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str, score: str) -> None:
    """Write a PNG of three panels: a score with its interval against trained encoder weights, step time and memory.

    Args:
        rows: of a comparison: ``method``, ``score``, ``low``, ``high``, ``encoder``, ``step_s``, ``peak_memory_bytes``.
        score: its name.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 3, sharey=True)
    weights = [row["encoder"] for row in rows]
    places = [weights, [row["step_s"] for row in rows], [row["peak_memory_bytes"] / 1e9 for row in rows]]
    looks = [(f"C{number % 10}", "D" if row["method"].startswith("gps") else "os^v"[number // 10 % 4])
             for number, row in enumerate(rows)]
    for axis, xs in zip(panels, places, strict=True):
        for row, x, (color, marker) in zip(rows, xs, looks, strict=True):
            mean = row["score"]
            axis.errorbar([x], [mean], yerr=[[max(0, mean - row["low"])], [max(0, row["high"] - mean)]], color=color, fmt=marker,
                          capsize=3, elinewidth=0.8, label=row["method"])
        axis.grid(alpha=0.25)
        axis.margins(x=0.15)
    panels[0].set(xlabel="trained encoder weights (head not counted)", ylabel=f"{score}, 95 % interval")
    panels[0].set_xscale("symlog", linthresh=10_000)
    panels[0].set_xlim(-3000, 3 * max(weights) + 10_000)
    for axis in panels[1:]:
        axis.xaxis.set_major_locator(MaxNLocator(4))
    panels[1].set(xlabel="step, seconds")
    panels[2].set(xlabel="peak memory, GB")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def save(figure: Any, path: Path) -> None:
    """Write a figure as ``files.write_bytes`` does, by the path's suffix; without one a PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix(".") or "png", dpi=120, bbox_inches="tight")
    write_bytes(path, drawn.getvalue())
