"""Pictures of selections and of what they do: connections by block, overlaps, numbers against k, features in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.metrics.plots.pictures import save


def blocks_plot(counts: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Write a PNG of selected connections by block, a line a selection (the paper's Fig. 9).

    Args:
        counts: selection name -> block -> number; blocks in the model's order.
    """
    from matplotlib.figure import Figure

    blocks = list(dict.fromkeys(block for found in counts.values() for block in found))
    figure = Figure(figsize=(max(6, 0.34 * len(blocks)), 4.4), layout="constrained")
    axis = figure.subplots()
    for name, found in counts.items():
        axis.plot(range(len(blocks)), [found.get(block, 0) for block in blocks], marker="o", markersize=4, label=name)
    axis.set_xticks(range(len(blocks)), [_short(block) for block in blocks], rotation=90, fontsize=8)
    axis.set(ylabel="selected connections", ylim=(0, None))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    save(figure, path)


def _short(block: str) -> str:
    return block.removeprefix("image_encoder.").replace("layers.", "l").replace("blocks.", "b")


def overlap_plot(names: Sequence[str], shared: NDArray[np.float64], path: Path) -> None:
    """Write a PNG of the overlap matrix (n, n) with its numbers (the paper's Fig. 12)."""
    from matplotlib.figure import Figure

    side = 2.6 + 0.7 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shared, vmin=0, vmax=1, cmap="viridis")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(shared.shape):
        value = shared[row, column]
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value < 0.6 else "black")
    figure.colorbar(image, label="shared part of the row", shrink=0.8)
    save(figure, path)


def parameters_plot(curves: Mapping[str, Sequence[tuple[int, int]]], points: Mapping[str, tuple[int, int]], path: Path) -> None:
    """Write a PNG of selected connections against k (the paper's Fig. 8).

    Args:
        curves: model -> (k, connections by the formula), a line each.
        points: name -> (k, connections) of tasks and of selections that were made, a mark each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        axis.plot([k for k, _ in curve], [number / 1e6 for _, number in curve], label=name)
    spots: dict[tuple[int, int], list[str]] = {}
    for name, spot in points.items():
        spots.setdefault(spot, []).append(name)
    for (k, number), names in spots.items():
        axis.plot([k], [number / 1e6], "o", color="black", markersize=4)
        text = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        axis.annotate(text, (k, number / 1e6), xytext=(5, -9), textcoords="offset points", fontsize=7)
    axis.set(xlabel="k, connections per neuron", ylabel="selected connections, millions", xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    save(figure, path)


def features_plot(panels: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]], path: Path) -> None:
    """Write a PNG of points in the plane, a panel a method, colored by class (the paper's Fig. 13).

    Args:
        panels: title -> (positions (n, 2), class numbers (n,)).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(panels), 3.8), layout="constrained")
    for axis, (title, (places, labels)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axis.scatter(places[:, 0], places[:, 1], c=labels, cmap="tab20" if labels.max() > 9 else "tab10", s=7, linewidths=0)
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    save(figure, path)
