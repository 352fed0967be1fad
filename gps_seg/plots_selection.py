"""Pictures of selections: connections by block, and how much several selections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.plots import save


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
