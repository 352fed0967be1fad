"""Pictures of a measurement under corruptions: a heat map of its cells, and what the corruptions look like. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.metrics.plots.pictures import save

LEAST_SPAN, TILE = 0.1, 200


def plot_corruptions(block: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: mean Dice in every cell of corruption and severity (0 is clean), coloured by the drop from clean.

    Args:
        block: the report's ``corruptions``. Rows are sorted by mean drop, the largest on top.
    """
    from matplotlib.figure import Figure

    ranked = sorted(block["by_corruption"].items(), key=lambda item: -item[1]["drop"])
    clean = block["clean"]["dice"]
    dice = np.array([[clean, *(cell["dice"] for cell in found["severities"])] for _, found in ranked])
    drop = clean - dice
    span = max(LEAST_SPAN, float(drop.max()))
    figure = Figure(figsize=(8.2, 1.5 + 0.42 * len(ranked)), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(drop, cmap="RdBu_r", vmin=-span, vmax=span, aspect="auto")
    for (row, column), value in np.ndenumerate(dice):
        dark = abs(drop[row, column]) > 0.65 * span
        axis.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axis.set_yticks(range(len(ranked)), [_label(name, found) for name, found in ranked], fontsize=8)
    axis.set_xticks(range(dice.shape[1]), ["clean", *map(str, block["severities"])])
    axis.set(xlabel="severity")
    means = f"mCE {block['mce']:.3f}, relative to clean {_signed(block['relative_mce'])}"
    axis.set_title(f"mean Dice of {block['n']} images; {means}", fontsize=10)
    figure.colorbar(shown, ax=axis, label="drop from clean")
    save(figure, path)


def _label(name: str, found: Mapping[str, Any]) -> str:
    ends = found["interval"]
    low_high = f" ({_signed(ends[0])} to {_signed(ends[1])})" if ends else ""
    return f"{name.replace('_', ' ')}\n{_signed(found['drop'])}{low_high}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # never -0.000


def corruption_sheet(pictures: Mapping[str, Sequence[NDArray[np.uint8]]], path: Path) -> None:
    """Write a PNG of one image under corruptions (rows) and severities (columns).

    Args:
        pictures: by corruption, the clean image and then one a severity, from 1; uint8 RGB (H, W, 3), all of one size.
    """
    from matplotlib.figure import Figure

    clean, *severe = next(iter(pictures.values()))
    width, height, columns = TILE, max(1, round(TILE * clean.shape[0] / clean.shape[1])), 1 + len(severe)
    rows = [np.hstack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in row])
            for row in pictures.values()]
    figure = Figure(figsize=(1.2 + columns * width / 120, 0.4 + len(rows) * height / 120))
    axis = figure.subplots()
    axis.imshow(np.vstack(rows))
    axis.set_yticks([(place + 0.5) * height for place in range(len(rows))], [name.replace("_", " ") for name in pictures])
    axis.set_xticks([(place + 0.5) * width for place in range(columns)], ["clean", *map(str, range(1, columns))])
    axis.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=9)
    axis.spines[:].set_visible(False)
    save(figure, path)
