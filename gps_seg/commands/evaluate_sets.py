"""Score one run on any number of data sets: one checkpoint, one threshold, a table for each, and their mean at the end.

The JSON of several sets holds ``sets`` (name -> the document of that set alone) and ``macro``:

- ``dice``, ``iou``: for each set the mean over its images with a polyp, then the unweighted mean over sets;
- ``negatives``: the false-positive rate on frames without a polyp, likewise, over the sets that have such frames; of a set some
  of whose centers trained, the frames of all others alone count, here and above;
- ``prompt``: what the masks were asked with, "none" or what was simulated from the truth;
- ``by_set``: what was averaged;
- ``unseen_3``: Dice and IoU over CVC-ColonDB, ETIS-Larib and CVC-300 alone, where all three are among the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from gps_seg.commands.evaluate import Wanted, evaluate_run
from gps_seg.errors import ConfigError
from gps_seg.files import write_json
from gps_seg.metrics.tables import prompt_of
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.known import GROUPS
from gps_seg.tasks.segmentation.sets import expand, labels
from gps_seg.tasks.segmentation.task import Segmentation

Document = Mapping[str, Any]


def evaluate_sets(
    folder: Path, data: Sequence[str], *, device: str = "auto", base: Path | None = None,
    wanted: Wanted = Wanted(), **options: Any,  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Evaluate on each set in turn; with less than two sets as :func:`gps_seg.commands.evaluate.evaluate_run`.

    Args:
        data: known names or folders; none for the run's own data set.
        wanted: what to write: its JSON holds all documents and their mean, its other files get the set's name, such as
            scores-polypgen.csv for scores.csv.
        options: of ``evaluate_run``: split, threshold, prompt.

    Raises:
        ConfigError: a set is given twice, or several to a classifier.
        DataError: a set is not there.
        CheckpointError: the run cannot be loaded.
    """
    run = load_run(folder, device=device, base=base)
    sets = expand(data) if isinstance(run.task, Segmentation) else list(data)
    for single in sets if len(sets) > 1 and isinstance(run.task, Segmentation) else ():
        run.task.items(single, "test", run.classes)  # what is missing is said before hours of scoring
    if len(sets) < 2:
        return evaluate_run(folder, data=sets[0] if sets else None, loaded=run, wanted=wanted, **options)
    if not isinstance(run.task, Segmentation):
        raise ConfigError(f"--data: expected one data set for a run of {run.config.task}, got {len(sets)}")
    documents = {}
    for name, single in zip(labels(sets), sets, strict=True):
        print(f"\n== {name}")
        documents[name] = evaluate_run(folder, data=single, loaded=run, wanted=_apart(wanted, name), **options)
    found = {"sets": documents, "macro": macro(documents)}
    if wanted.json:
        write_json(wanted.json, found)
    print("\n" + macro_line(found["macro"]))
    return found


def _apart(wanted: Wanted, name: str) -> Wanted:
    """What one set writes: its own files beside the others', its JSON with theirs."""
    plain = name.replace("/", "_")
    own = {key: path.with_stem(f"{path.stem}-{plain}") for key in ("csv", "markdown", "latex") if (path := getattr(wanted, key))}
    return replace(wanted, json=None, plots=wanted.plots / plain if wanted.plots else None, **own)


def macro(documents: Mapping[str, Document]) -> dict[str, Any]:
    """Unweighted means over sets, see this module; None where no set has such images."""
    by_set = {name: _one(document) for name, document in documents.items()}
    positive = [row for row in by_set.values() if row["images"]]
    negative = [row for row in by_set.values() if row["negatives"]]

    def over(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
        return mean(row[key] for row in rows) if rows else None

    three = [by_set[name] for name in GROUPS["unseen-3"] if name in by_set]
    unseen = {"unseen_3": {key: over(three, key) for key in ("dice", "iou")}} if len(three) == 3 else {}
    return {
        "aggregation": "unweighted mean over sets of each set's mean over its images with a polyp", "sets": len(positive),
        "dice": over(positive, "dice"), "iou": over(positive, "iou"),
        "negatives": {"sets": len(negative), "frames": sum(row["negatives"] for row in negative),
                      "false_positive_rate": over(negative, "false_positive_rate")},
        "prompt": prompt_of(next(iter(documents.values()), {})), "by_set": by_set, **unseen,
    }


def _one(document: Document) -> dict[str, Any]:
    images = document["images"]
    if unseen := document.get("unseen_centers"):  # frames of the others trained
        images = [image for image in images if image["center"] in unseen["centers"]]
    polyps = [image for image in images if image["tp"] + image["fn"]]
    empty = [image for image in images if not image["tp"] + image["fn"]]
    return {
        "images": len(polyps), "dice": mean(image["dice"] for image in polyps) if polyps else None,
        "iou": mean(image["iou"] for image in polyps) if polyps else None, "negatives": len(empty),
        "false_positive_rate": mean(image["fp"] > 0 for image in empty) if empty else None,
    }


def macro_line(found: Mapping[str, Any]) -> str:
    """One line: the means, what they are means of, and the frames without a polyp apart."""
    negative = found["negatives"]
    apart = (f"frames without a polyp apart: false-positive rate {negative['false_positive_rate']:.4f} "
             f"({negative['frames']} frames, {negative['sets']} sets)" if negative["sets"] else "no frames without a polyp")
    if not found["sets"]:
        return f"macro: no set has images with a polyp; {apart}"
    three = found.get("unseen_3")
    apart += f"; unseen-3 mDice {three['dice']:.4f} mIoU {three['iou']:.4f}" if three else ""
    apart += "" if found["prompt"] == "none" else f"; prompt: {found['prompt']}"
    return (f"macro mDice {found['dice']:.4f} mIoU {found['iou']:.4f} "
            f"(unweighted mean over {found['sets']} sets, images with a polyp); {apart}")
