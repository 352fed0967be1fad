"""How methods are compared in classification: runs of their own on each data set, right or wrong an image."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from gps_seg.config import ClassDataConfig
from gps_seg.errors import ConfigError
from gps_seg.tasks.classification.catalog import ADAPTERS, RANGE, adapter_of, class_range, locate
from gps_seg.tasks.classification.shifted_scores import find_robustness
from gps_seg.tasks.comparison import Compared, Document, Row


def sets(data: Sequence[str]) -> dict[str, str | None]:
    """Names of the catalog; each is the own test part of what trains on it."""
    if not data:
        raise ConfigError("data: expected the names of classification data sets, got none")
    for name in data:
        if name.partition(RANGE)[0] not in ADAPTERS:
            raise ConfigError(f"data: expected one of {', '.join(ADAPTERS)}, got {name!r}")
        class_range(name)
    if len(set(data)) < len(data):
        raise ConfigError(f"data: expected different names, got {', '.join(data)}")
    return dict.fromkeys(data)


def find(config: ClassDataConfig, _: Sequence[str]) -> None:
    """The data set's folder, and those of the shifted test sets."""
    locate(config.name, adapter_of(config.name), config.root)
    if config.robustness:
        find_robustness(config)


def validation(config: ClassDataConfig) -> str:
    """Few-shot runs that choose by the few."""
    if config.few_shot_validation != "few":
        return ""
    return "; what validates is a quarter of the few images of each class, at least one: no other label was read"


def values(document: Document) -> dict[str, float]:
    """1 where the label was predicted, else 0."""
    return {image["id"]: float(image["label"] == image["predicted"]) for image in document["images"]}


def facts(documents: Sequence[Document]) -> Row:
    """Scores on the shifted test sets."""
    return {"robustness": {name: mean(document["robustness"][name]["score"] for document in documents)
                           for name in documents[0].get("robustness", {})}}


def shown(row: Row) -> dict[str, str]:
    """What trains, what it costs, and a column for each shifted test set."""
    return {"encoder weights": f"{row['encoder']:,}", "%": f"{100 * row['encoder'] / row['parameters']:.2f}",
            "step s": f"{row['step_s']:.3f}", **{name: f"{score:.4f}" for name, score in row["robustness"].items()}}


COMPARED = Compared("accuracy", "accuracy", "final", True, False, sets, find, validation, values, facts, shown)
