"""A classifier of ImageNet on ImageNet-A, -R and -C (the paper's Table 8), after its one reading of the test part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from gps_seg.class_config import ClassDataConfig
from gps_seg.commands.class_bench import Bench, accuracy
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.classification.catalog import ADAPTERS, locate
from gps_seg.tasks.classification.shifted import ALEXNET_ERRORS, SETS, SEVERITIES, load_robustness, mce


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


def score_robustness(bench: Bench, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """By set: ``score``, which is accuracy over the classes that occur for A and R, and the mean corruption error for C."""
    config = bench.config.data
    imagenet, folders = find_robustness(config)
    scored: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        say(f"scoring on {name}")
        if name == "imagenet_c":
            errors = {corruption: _error(bench, folder, imagenet, corruption) for corruption in ALEXNET_ERRORS}
            scored[name] = {"score": mce(errors), "what": "mCE", "errors": errors}
        else:
            found = load_robustness(name, folder, imagenet, check_counts=config.check_counts)
            scored[name] = {"score": accuracy(bench, found.items, found.classes), "what": "accuracy"}
    return scored


def _error(bench: Bench, folder: Path, imagenet: Path, corruption: str) -> float:
    """Top-1 error, the mean over severities."""
    sets = (load_robustness("imagenet_c", folder, imagenet, corruption=corruption, severity=severity,
                            check_counts=bench.config.data.check_counts) for severity in range(1, SEVERITIES + 1))
    return mean(1 - accuracy(bench, found.items, found.classes) for found in sets)
