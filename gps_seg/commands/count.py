"""``gps-seg count``: what trains for each task by the formula alone, and against k (the paper's Table 7 and Fig. 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gps_seg.commands.conventions import ALL, SELECTED, Count, conventions, percent
from gps_seg.config import GPSConfig, RunConfig, load_config
from gps_seg.core.overlap import size_of
from gps_seg.core.roles import Assignment, assign
from gps_seg.errors import ConfigError
from gps_seg.methods.gps import policy_of
from gps_seg.methods.selection_file import load_selection
from gps_seg.metrics.plots.selections import parameters_plot
from gps_seg.metrics.tables import markdown_table
from gps_seg.models.classifiers import load_backbone
from gps_seg.models.sam_zoo import MODELS
from gps_seg.tasks.classification.catalog import class_number

LARGEST_K = 20  # of the curves; the paper's own largest k


def report_counts(arguments: Sequence[str], plot: Path | None = None) -> str:
    """A Markdown table with one line a configuration, and a picture with the saved selections of ``NAME=FILE`` marked too.

    Args:
        arguments: YAML files for gps-seg classify, and NAME=FILE of selections, whose k and size are measured.

    Raises:
        ConfigError: no configuration, another method than gps, k=auto, or a data set of unknown class number.
    """
    paths = [Path(text) for text in arguments if "=" not in text]
    if not paths:
        raise ConfigError("expected at least one configuration for gps-seg classify, such as configs/classification/nabirds.yaml")
    plans = {path: _plan(load_config(path, task="classification")) for path in paths}
    found = [_count(path.stem, load_config(path, task="classification"), plan) for path, plan in plans.items()]
    measured = {}
    for text in (text for text in arguments if "=" in text):
        name, _, file = text.partition("=")
        selection = load_selection(Path(file))
        measured[name] = (int(selection.meta.get("k", 0)), size_of(selection))
    if plot:
        curves = {count.model: [(k, selected(plan, k)) for k in range(1, LARGEST_K + 1)]
                  for count, plan in zip(found, plans.values(), strict=True)}
        parameters_plot(curves, {count.title: (count.k, count.selected) for count in found} | measured, plot)
    lines = [[count.title, count.model, str(count.k), *(f"{number:,}" for number in (count.selected, count.bias, count.other,
              count.head)), f"{percent(count, SELECTED):.3f}", f"{percent(count, ALL):.3f}"] for count in found]
    mean = sum(percent(count, ALL) for count in found) / len(found)
    table = markdown_table(("task", "model", "k", "selected", "bias", "other", "head", "selected %", "all %"), lines,
                           left=("task", "model"))
    shown = [f"{name}: k = {k}, {number:,} connections selected" for name, (k, number) in measured.items()]
    return "\n".join([*table, "", f"Percent of the encoder. Mean of all %: {mean:.3f}.", *shown, *conventions(found)])


def _plan(config: RunConfig) -> dict[str, Assignment]:
    """The treatment of every parameter, from the architecture alone: a timm model is made without values."""
    classes = class_number(config.data.name) if config.task == "classification" else None
    if not isinstance(config.selection, GPSConfig) or config.selection.k == "auto" or classes is None:
        raise ConfigError("count: expected method=gps, a number for selection.k and a data set of known class number, got "
                          f"method={config.method} selection.k={getattr(config.selection, 'k', None)} "
                          f"data.name={config.data.name}")
    with torch.device("cpu" if config.model.name in MODELS else "meta"):
        model = load_backbone(config.model.name, classes=classes, input_size=config.model.input_size)
    return assign(model, policy_of(model, config.selection))


def _count(title: str, config: RunConfig, plan: Mapping[str, Assignment]) -> Count:
    trained = Counter[str]()
    for part in plan.values():
        trained[part.role] += part.numel if part.treatment == "train" else 0
    options: Any = config.selection
    k, size = int(options.k), sum(part.numel for part in plan.values() if part.role != "head")
    other = trained.total() - trained["bias"] - trained["head"]
    return Count(title, config.data.name, config.model.name, k, selected(plan, k), trained["bias"], other, trained["head"], size)


def selected(plan: Mapping[str, Assignment], k: int) -> int:
    """Connections that k a neuron select: of a row shorter than k all."""
    return sum(part.neurons * min(k, part.numel // part.neurons) for part in plan.values() if part.treatment == "select")
