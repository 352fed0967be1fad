"""``gps-seg plot-features``: features of finished classification runs in the plane, a panel a run (the paper's Fig. 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch.utils.data import DataLoader

from gps_seg.commands.class_bench import Bench, load_run
from gps_seg.errors import ConfigError, DataError
from gps_seg.metrics.plots.selections import features_plot
from gps_seg.runs.fit import autocast
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.task import collate, features_of

PERPLEXITY = 30.0  # scikit-learn's own, lower for few images


def report_features(runs: Mapping[str, Path], out: Path, *, images: int = 1000, device: str = "auto") -> str:
    """Draw t-SNE of each run's pooled features on the same images, and say how far apart their classes are.

    Args:
        runs: name -> folder of a finished run; all of one data set and protocol.
        out: PNG to write.
        images: most images, spread evenly over the test part, or over the validation part of runs that tune.

    Raises:
        ConfigError: runs of different data sets or protocols.
        CheckpointError, DataError: a run cannot be loaded.
    """
    benches = {name: load_run(folder, device) for name, folder in runs.items()}
    scored = {name: _scored(bench) for name, bench in benches.items()}
    first = next(iter(scored.values()))
    if any(items != first for items in scored.values()):
        shown = ", ".join(f"{name} {bench.config.data.name} {bench.config.data.protocol}" for name, bench in benches.items())
        raise ConfigError(f"plot-features: expected runs scored on the same images, got {shown}")
    items = [first[index] for index in np.unique(np.linspace(0, len(first) - 1, min(images, len(first))).round().astype(int))]
    labels = np.array([item.label for item in items])
    classes = len(np.unique(labels))
    if classes < 2 or len(items) < 5:
        raise DataError(f"plot-features: expected at least 5 images of 2 classes, got {len(items)} of {classes}")
    lines, panels = [], {}
    for name, bench in benches.items():
        found = features(bench, items)
        apart = float(silhouette_score(found, labels)) if classes < len(items) else float("nan")
        panels[f"{name}, silhouette {apart:.2f}"] = (plane(found), labels)
        lines.append(f"{name}: silhouette {apart:.4f} over {len(items)} images of {bench.config.data.name}")
    features_plot(panels, out)
    return "\n".join([*lines, f"picture in {out}"])


def _scored(bench: Bench) -> tuple[Item, ...]:
    return bench.splits.test if bench.config.data.protocol == "final" else bench.splits.val


def features(bench: Bench, items: Sequence[Item]) -> NDArray[np.float64]:
    """Pooled, L2-normalised features (n, D) before the classifier."""
    loader = DataLoader(bench.dataset(items, training=False), batch_size=bench.config.train.batch_size, collate_fn=collate)
    found = []
    for batch in loader:
        with torch.no_grad(), autocast(bench.device, bench.precision):
            found.append(features_of(bench.model, batch.image.to(bench.device)).double().cpu())
    return torch.nn.functional.normalize(torch.cat(found), dim=1).numpy()


def plane(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions (n, 2) by t-SNE, always the same for the same features.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.
    """
    near = min(PERPLEXITY, (len(found) - 1) / 3)
    return np.asarray(TSNE(perplexity=near, init="pca", random_state=0).fit_transform(found), np.float64)
