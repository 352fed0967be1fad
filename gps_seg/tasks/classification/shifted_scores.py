"""A classifier of ImageNet on ImageNet-A, -R and -C (the paper's Table 8), after its one reading of the test part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from gps_seg.config import ClassDataConfig
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.classification.catalog import ADAPTERS, locate
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.shifted import ALEXNET_ERRORS, SETS, SEVERITIES, load_robustness, mce
from gps_seg.tasks.task import Predict


def find_robustness(config: ClassDataConfig) -> tuple[Path, dict[str, Path]]:
    """ImageNet's folder, and those of the configured sets beside it: imagenet_a or imagenet-a.

    Raises:
        ConfigError: another data set.
        DataError: a folder is not there.
    """
    if config.name != "imagenet":
        raise ConfigError(f"data.robustness: expected data.name=imagenet, whose labels these sets have, got {config.name}")
    imagenet = locate("imagenet", ADAPTERS["imagenet"], config.root)
    found: dict[str, Path] = {}
    for name in config.robustness:
        places = [imagenet.parent / folder for folder in (name, name.replace("_", "-"))]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise DataError(f"{name}: expected its folder at {places[1]}, found none; get it: {SETS[name][2]}")
        found[name] = folder
    return imagenet, found


def score_robustness(config: ClassDataConfig, predict: Predict) -> dict[str, dict[str, Any]]:
    """By set: ``score``, which is accuracy over the classes that occur for A and R, and the mean corruption error for C."""
    imagenet, folders = find_robustness(config)
    scored: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        if name == "imagenet_c":
            errors = {corruption: _error(config, folder, imagenet, corruption, predict) for corruption in ALEXNET_ERRORS}
            scored[name] = {"score": mce(errors), "what": "mCE", "errors": errors}
        else:
            found = load_robustness(name, folder, imagenet, check_counts=config.check_counts)
            scored[name] = {"score": accuracy_among(found.items, found.classes, predict), "what": "accuracy"}
    return scored


def _error(config: ClassDataConfig, folder: Path, imagenet: Path, corruption: str, predict: Predict) -> float:
    """Top-1 error, the mean over severities."""
    sets = (load_robustness("imagenet_c", folder, imagenet, corruption=corruption, severity=severity,
                            check_counts=config.check_counts) for severity in range(1, SEVERITIES + 1))
    return mean(1 - accuracy_among(found.items, found.classes, predict) for found in sets)


def accuracy_among(items: Sequence[Item], classes: Sequence[int], predict: Predict) -> float:
    """Part of the items whose class is the likeliest of those in ``classes``, 0..1."""
    allowed = np.asarray(classes)
    found = [int(allowed[probabilities[allowed].argmax()]) for _, probabilities in predict(items)]
    return float(np.mean([label == item.label for label, item in zip(found, items, strict=True)]))
