"""Pictures of a report: box plots, Dice against polyp size, a reliability curve, worst cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import images_by_stem, list_images, read_image, read_mask
from gps_seg.data.maps import MAP_SUFFIXES, empty_prediction, read_prediction
from gps_seg.metrics.folders import mask_folder
from gps_seg.metrics.plots.pictures import Case, case_sheet, save

BOXES = (("dice", "Dice"), ("iou", "IoU"), ("precision", "precision"), ("recall", "recall"), ("f2", "F2"), ("nsd", "NSD"))
SIZE_EDGES = (0.02, 0.1, 0.3)
BLUE, ORANGE, GREY = "#0077aa", "#d1661f", "#7a8ca3"
WORST = 6


def plot_scores(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``boxes.png``, ``size.png`` and, with a calibration block, ``reliability.png``; returns what was written."""
    images = document["images"]
    held = [(key, label) for key, label in BOXES if key in images[0]]
    box_plots({label: [image[key] for image in images] for key, label in held}, folder / "boxes.png",
              title=f"per image, {len(images)} images")
    size_plot([(image["target_fraction"], image["dice"]) for image in images], folder / "size.png")
    written = [folder / "boxes.png", folder / "size.png"]
    if "calibration" in document:
        reliability_plot(document["calibration"], folder / "reliability.png")
        written.append(folder / "reliability.png")
    return written


def plot_folders(
    document: Mapping[str, Any], predicted: Path, target: Path, folder: Path, *, full_scale: bool = False
) -> list[Path]:
    """As :func:`plot_scores`, and ``worst.png``: the images with the lowest Dice, with contours.

    The image shown is the one of the same stem in ``images`` beside the masks; without one, the prediction itself.
    ``full_scale`` says that the predictions hold probability maps, see ``data.maps``.
    """
    masks = images_by_stem(mask_folder(target))
    predictions = images_by_stem(predicted, MAP_SUFFIXES)
    beside = mask_folder(target).parent / "images"
    pictures = {path.stem: path for path in list_images(beside)} if beside.is_dir() else {}
    limit = document["settings"]["threshold"]
    cases = []
    for image in sorted(document["images"], key=lambda image: (image["dice"], image["id"]))[:WORST]:
        stem = image["id"]
        truth = read_mask(masks[stem])
        path = predictions.get(stem)
        found = read_prediction(path, full_scale=full_scale) if path else empty_prediction(truth.shape)
        found = found if found.probability.shape == truth.shape else found.resized(truth.shape)
        shown = read_image(pictures[stem]) if stem in pictures else _backdrop(found.probability)
        shown = shown if shown.shape[:2] == truth.shape else _backdrop(found.probability)
        cases.append(Case(stem, shown, found.probability > limit, truth, image["dice"], "worst"))
    case_sheet(cases, folder / "worst.png")
    return [*plot_scores(document, folder), folder / "worst.png"]


def _backdrop(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey RGB between black and white, so that contours of any colour show."""
    return np.repeat((40 + 120 * probability).astype(np.uint8)[..., None], 3, axis=2)


def box_plots(groups: Mapping[str, Sequence[float]], path: Path, *, title: str = "", label: str = "score") -> None:
    """One horizontal box a group: quartiles, whiskers to 1.5 times their distance, every image a dot, the mean a diamond."""
    figure, axis = _figure(7, 1.1 + 0.5 * len(groups))
    names, values = list(groups), [np.asarray(group, np.float64) for group in groups.values()]
    places = np.arange(len(names), 0, -1)
    axis.boxplot(values, positions=places, orientation="horizontal", widths=0.6, showfliers=False, showmeans=True,
                 medianprops={"color": ORANGE, "linewidth": 1.6}, boxprops={"color": BLUE},
                 whiskerprops={"color": BLUE}, capprops={"color": BLUE},
                 meanprops={"marker": "D", "markerfacecolor": ORANGE, "markeredgecolor": "white", "markersize": 6})
    random = np.random.default_rng(0)
    for place, group in zip(places, values, strict=True):
        axis.scatter(group, place + random.uniform(-0.22, 0.22, group.size), s=6, color=GREY, alpha=0.45, linewidths=0, zorder=0)
    axis.set_yticks(places, [f"{name}\nmean {group.mean():.3f}" for name, group in zip(names, values, strict=True)], fontsize=8)
    largest = max((float(group.max()) for group in values if group.size), default=1.0)
    axis.set(xlim=(-0.02, 1.02) if largest <= 1 else (-0.02 * largest, 1.02 * largest), xlabel=label)
    axis.set_title(title, fontsize=10)
    axis.grid(axis="x", alpha=0.25)
    save(figure, path)


def size_plot(points: Sequence[tuple[float, float]], path: Path) -> None:
    """Dice against the target's part of the image's area, on a log scale; images without a polyp are left out."""
    figure, axis = _figure(7, 4)
    held = np.array([(area, dice) for area, dice in points if area > 0], np.float64).reshape(-1, 2)
    axis.scatter(100 * held[:, 0], held[:, 1], s=14, color=BLUE, alpha=0.6, linewidths=0)
    axis.set_xscale("log")
    low, high = (float(held[:, 0].min()), float(held[:, 0].max())) if len(held) else (0.01, 1.0)
    bounds = [low / 1.3, *SIZE_EDGES, max(high * 1.3, 0.31)]
    for left, right in pairwise(bounds):
        inside = held[(held[:, 0] >= left) & (held[:, 0] < right)]
        if len(inside):
            start, end = max(left, low / 1.3), min(right, high * 1.3)
            axis.plot([100 * start, 100 * end], [inside[:, 1].mean()] * 2, color=ORANGE, linewidth=2)
    for edge in SIZE_EDGES:
        axis.axvline(100 * edge, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xticks([0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 20, 30, 50, 100])
    axis.set_xticks([], minor=True)
    axis.set_xlim(100 * low / 1.3, 100 * high * 1.3)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set(xlabel="target's part of the image (%, log scale)", ylabel="Dice", ylim=(-0.03, 1.03))
    left_out = len(points) - len(held)
    note = f"; {left_out} without a polyp left out" if left_out else ""
    axis.set_title(f"{len(held)} images{note}; orange: mean of a size group", fontsize=10)
    axis.grid(alpha=0.2)
    save(figure, path)


def reliability_plot(calibration: Mapping[str, Any], path: Path) -> None:
    """Share of target pixels against mean probability in each bin, over a bar chart of how many pixels each bin holds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 5.6), layout="constrained")
    axis, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    curve = calibration["curve"]
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    axis.plot([row["probability"] for row in curve], [row["frequency"] for row in curve], color=BLUE, marker="o", markersize=4,
              label="measured")
    axis.set(ylabel="share of target pixels", xlim=(0, 1), ylim=(-0.02, 1.02))
    axis.set_title(f"band around lesions: ECE {calibration['ece']:.4f}, Brier {calibration['brier']:.4f}", fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    axis.grid(alpha=0.25)
    total = max(1, calibration["pixels"])
    below.bar([row["from"] for row in curve], [100 * row["pixels"] / total for row in curve], align="edge", color=BLUE,
              width=[0.92 * (row["to"] - row["from"]) for row in curve])
    below.set(xlabel="predicted probability", ylabel="pixels (%)")
    save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
