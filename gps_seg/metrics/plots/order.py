"""A picture of how far scores before training order the change in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gps_seg.metrics.plots.pictures import save

CLAIM = "gradient"


def order_plot(scores: Mapping[str, Any], path: Path, title: str) -> None:
    """Write a PNG of three panels: mean rank of change against rank of each score, correlation by score, and by layer.

    Args:
        scores: score -> what :func:`gps_seg.metrics.order.agreement` says of it and the change; ``gradient`` is among them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 5), layout="constrained")
    figure.suptitle(title)
    curves, bars, layers = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    _curves(curves, scores)
    _bars(bars, scores)
    _layers(layers, scores[CLAIM]["layers"])
    save(figure, path)


def _curves(axis: Any, scores: Mapping[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1, label="the same order")
    for name, found in scores.items():
        places = (np.arange(len(found["curve"])) + 0.5) / len(found["curve"])
        axis.plot(places, found["curve"], label=name, linewidth=2.4 if name == CLAIM else 1.2)
    axis.set(xlabel="rank by score before training", ylabel="mean rank by |change|", xlim=(0, 1), ylim=(0, 1))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)


def _bars(axis: Any, scores: Mapping[str, Any]) -> None:
    places = np.arange(len(scores))
    for shift, (key, label) in zip((0.2, -0.2), (("correlation", "all weights"), ("correlation_in_neuron", "in a neuron")),
                                   strict=True):
        axis.barh(places + shift, [found["total"][key] or 0 for found in scores.values()], height=0.36, label=label)
    axis.set_yticks(places, list(scores), fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="rank correlation of score and |change|")
    axis.grid(axis="x", alpha=0.25)
    axis.legend(frameon=False, fontsize=8)


def _layers(axis: Any, layers: Mapping[str, Any]) -> None:
    places = np.arange(len(layers))
    for key, label in (("correlation", "all weights of the layer"), ("correlation_in_neuron", "in a neuron"),
                       ("neuron_top", "neuron's best in both")):
        axis.plot(places, [np.nan if found[key] is None else found[key] for found in layers.values()], marker="o", markersize=3,
                  linewidth=1, label=label)
    drawn = [found["neuron_top_chance"] for found in layers.values()]
    axis.plot(places, drawn, color="grey", linestyle=":", label="a draw of them")
    shown = places[:: max(1, len(places) // 24)]
    names = list(layers)
    axis.set_xticks(shown, [_short(names[place]) for place in shown], rotation=90, fontsize=7)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(title=f"layer by layer, {CLAIM}")
    axis.title.set_fontsize(10)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)


def _short(name: str) -> str:
    return name.removesuffix(".weight").removeprefix("sam.").removeprefix("image_encoder.")
