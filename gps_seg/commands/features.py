"""``gps-seg plot-features``: features of finished classification runs in the plane, a panel a run (the paper's Fig. 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from gps_seg.data.batches import Batch
from gps_seg.data.splits import spread
from gps_seg.errors import ConfigError, DataError
from gps_seg.metrics.plots.selections import features_plot
from gps_seg.runs.load import Run, load_run
from gps_seg.runs.task_model import TaskModel
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.losses import features_of
from gps_seg.tasks.classification.task import Classification

BATCH = 32  # images per forward pass
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
    loaded = {name: load_run(folder, device=device) for name, folder in runs.items()}
    scored = {name: _scored(run) for name, run in loaded.items()}
    first = next(iter(scored.values()))
    if any(items != first for items in scored.values()):
        shown = ", ".join(f"{name} {run.config.data.name} {run.config.data.protocol}" for name, run in loaded.items())
        raise ConfigError(f"plot-features: expected runs scored on the same images, got {shown}")
    items = spread(first, images)
    labels = np.array([item.label for item in items])
    classes = len(np.unique(labels))
    if classes < 2 or len(items) < 5:
        raise DataError(f"plot-features: expected at least 5 images of 2 classes, got {len(items)} of {classes}")
    lines, panels = [], {}
    for name, run in loaded.items():
        found = features(run, items)
        apart = float(silhouette_score(found, labels)) if classes < len(items) else float("nan")
        panels[f"{name}, silhouette {apart:.2f}"] = (plane(found), labels)
        lines.append(f"{name}: silhouette {apart:.4f} over {len(items)} images of {run.config.data.name}")
    features_plot(panels, out)
    return "\n".join([*lines, f"picture in {out}"])


def _scored(run: Run) -> tuple[Item, ...]:
    """The images that the run's result speaks of. Raises ConfigError for a run that has no features to pool."""
    if not isinstance(run.task, Classification):
        raise ConfigError(f"plot-features: expected runs of classification, the one in {run.folder} is of {run.config.task}")
    splits = run.task.splits()
    return splits.inner if run.config.data.protocol == "tune" else splits.test


def features(run: TaskModel, items: Sequence[Item]) -> NDArray[np.float64]:
    """Pooled, L2-normalised features (n, D) before the classifier."""
    def pooled(model: Any, batch: Batch) -> list[NDArray[np.float64]]:
        return list(features_of(model, batch.image).double().cpu().numpy())

    found = np.stack([feature for _, feature in run.run_through(run.loader(items, BATCH), pooled)])
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)


def plane(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions (n, 2) by t-SNE, always the same for the same features.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.
    """
    near = min(PERPLEXITY, (len(found) - 1) / 3)
    return np.asarray(TSNE(perplexity=near, init="pca", random_state=0).fit_transform(found), np.float64)
