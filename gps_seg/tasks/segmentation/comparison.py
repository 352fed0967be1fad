"""How methods are compared in segmentation: one run scored on any number of data sets, one Dice an image."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from gps_seg.config import PolypDataConfig
from gps_seg.metrics.contradictions import check_document
from gps_seg.tasks.comparison import Compared, Document, Row
from gps_seg.tasks.segmentation.parts import find_pairs, load_splits
from gps_seg.tasks.segmentation.sets import expand, labels

OWN = "test part"
ROLES = {"selected": "selected", "bias": "bias", "other": "other", "decoder": "head"}  # title -> key of a row


def sets(data: Sequence[str]) -> dict[str, str | None]:
    """Short names of known sets and folders; without any, the test part of what was trained on."""
    found = expand(data)
    return dict(zip((name.replace("/", "_") for name in labels(found)), found, strict=True)) or {OWN: None}


def find(config: PolypDataConfig, data: Sequence[str]) -> None:
    """What is trained on, and the images of each set that is scored."""
    load_splits(config)
    for single in data:
        find_pairs(single, "test", config)


def values(document: Document) -> dict[str, float]:
    """Dice of each image. Raises GpsSegError if the document contradicts itself."""
    check_document(document)
    return {image["id"]: image["dice"] for image in document["images"]}


def facts(documents: Sequence[Document]) -> Row:
    """The other two means, and what the released scorer says of runs under its protocol."""
    found = {"iou": mean(document["per_image"]["iou"] for document in documents),
             "dataset_dice": mean(document["dataset"]["dice"] for document in documents)}
    if legacy := documents[0].get("gps_legacy"):
        note = (f"the released code's protocol and scorer, mDice {legacy['dice']:.4f} mIoU {legacy['iou']:.4f}; trained and "
                f"selected on these images; {legacy['warning']}.")
        return {**found, "gps_legacy": legacy, "note": note}
    return found


def shown(row: Row) -> dict[str, str]:
    """What trains, by role, and what it costs."""
    return {"mIoU": f"{row['iou']:.4f}", **{title: f"{row[key]:,}" for title, key in ROLES.items()},
            "step s": f"{row['step_s']:.2f}", "memory GB": f"{row['peak_memory_bytes'] / 1e9:.2f}",
            "delta MB": f"{row['delta_bytes'] / 1e6:.2f}"}


COMPARED = Compared("dice", "mDice", "tune", False, True, sets, find, lambda _: "", values, facts, shown)
