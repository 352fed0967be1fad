"""``gps-seg evaluate --corruptions``: how much a run's model loses under the artefacts of ``data.corruptions``.

Every image is corrupted at its native size, before the model's resizing, and scored against its unchanged mask with the same
threshold. With Dice(c, s) the mean over images under corruption c at severity s, and the empty-mask convention of ``metrics``:

- drop(c, s) = clean Dice - Dice(c, s); its interval is a paired bootstrap, of each image's own drop.
- mCE, mean corruption error: the mean over corruptions of the mean over severities of 1 - Dice(c, s).
- Relative mCE: mCE - (1 - clean Dice), the mean drop of all cells.

Both are named after Hendrycks & Dietterich (ICLR 2019), but errors are not divided by those of a reference model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gps_seg.data.splits import spread
from gps_seg.errors import ConfigError
from gps_seg.metrics.masks import ImageScore
from gps_seg.metrics.statistics import LEVEL, RESAMPLES, clusters, interval, resample
from gps_seg.runs.task_model import TaskModel
from gps_seg.tasks.segmentation.corruptions import CORRUPTIONS, SEVERITIES, check_name, corrupt
from gps_seg.tasks.segmentation.pairs import Pair

DEFINITION = ("dice: mean over images; drop: clean Dice - corrupted Dice of the same images; mce: mean over corruptions of the "
              "mean over severities of 1 - Dice; relative_mce: mce - (1 - clean Dice)")
Float = NDArray[np.float64]
BATCH = 8  # images per forward pass


def measure(
    run: TaskModel, pairs: Sequence[Pair], clean: Sequence[ImageScore] | None = None, *,
    names: Sequence[str] = tuple(CORRUPTIONS), groups: Sequence[str] | None = None, seed: int = 0,
    progress: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Score the pairs under every corruption and severity.

    Args:
        run: its task with the threshold and prompt of the clean evaluation.
        clean: the clean scores of the same pairs; measured here if not given.
        names: which corruptions.
        groups: a name an image; the bootstrap then draws whole groups.
        progress: called once an image and cell.

    Returns:
        The ``corruptions`` block of the document, see :func:`summarise`.

    Raises:
        ConfigError: an unknown corruption, or none.
        DataError: an image or mask is missing or unreadable.
    """
    chosen = [check_name(name) for name in names]
    if not chosen:
        raise ConfigError("expected at least one corruption, got none")

    def scored(name: str | None = None, severity: int = 0) -> list[ImageScore]:
        change = partial(_corrupt, name, severity, seed) if name else None
        return run.score(pairs, run.loader(pairs, BATCH, change=change), progress=progress if name else None)

    start = scored() if clean is None else clean
    cells = {(name, severity): scored(name, severity) for name in chosen for severity in SEVERITIES}
    return {**summarise(start, cells, groups), "seed": seed}


def _corrupt(name: str, severity: int, seed: int, image: NDArray[np.uint8], id_: str) -> NDArray[np.uint8]:
    return corrupt(image, name, severity, id_, seed)


def measure_subset(
    run: TaskModel, pairs: Sequence[Pair], clean: Sequence[ImageScore], *, most: int | None,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """As :func:`measure`, on at most ``most`` of the pairs, with a progress bar."""
    kept = spread(range(len(pairs)), most)
    total = len(kept) * len(CORRUPTIONS) * len(SEVERITIES)
    with tqdm(total=total, desc="corruptions", unit="image", disable=not sys.stderr.isatty()) as bar:
        found = measure(run, [pairs[index] for index in kept], [clean[index] for index in kept],
                        groups=[groups[index] for index in kept] if groups else None, progress=bar.update)
    return {**found, "n_available": len(pairs)}


def summarise(
    clean: Sequence[ImageScore], cells: Mapping[tuple[str, int], Sequence[ImageScore]], groups: Sequence[str] | None = None, *,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The numbers of scores of the same images, clean and by (corruption, severity).

    Returns:
        ``n``, ``n_negative``, ``ids``, ``severities``; ``clean`` with ``dice``, ``dice_positive`` (of the images with a target
        alone) and ``false_positive_rate`` (the share of the others on which anything is predicted), each None without such
        images; ``by_corruption``, each with ``error``, ``drop``, its ``interval`` and ``severities``, a list of cells with
        ``severity``, ``drop``, ``interval`` and the three of ``clean``; ``mce``, ``relative_mce`` and its interval;
        ``worst``, the cell of the largest drop; ``definition``, ``statistics``. Intervals are [low, high], or None for a
        single image or group.
    """
    base = _dices(clean)
    drops = {key: base - _dices(scores) for key, scores in cells.items()}
    names = list(dict.fromkeys(name for name, _ in cells))
    by_name = {name: np.mean([drop for (other, _), drop in drops.items() if other == name], axis=0) for name in names}
    overall = np.mean(list(by_name.values()), axis=0)
    intervals = _intervals([*drops.values(), *by_name.values(), overall], groups, resamples)
    count = len(drops)  # the last interval is of all together
    of_cell, of_name = dict(zip(drops, intervals[:count], strict=True)), dict(zip(names, intervals[count:-1], strict=True))
    error = 1 - float(base.mean())
    rows: dict[tuple[str, int], dict[str, Any]] = {
        key: {"severity": key[1], "dice": float((base - drop).mean()), "drop": float(drop.mean()), "interval": of_cell[key],
              **_apart(cells[key])} for key, drop in drops.items()}
    worst = max(rows, key=lambda key: rows[key]["drop"])
    return {
        "n": len(clean), "n_negative": sum(_is_negative(score) for score in clean), "ids": [score.id for score in clean],
        "severities": sorted({severity for _, severity in cells}),
        "clean": {"dice": float(base.mean()), **_apart(clean)},
        "by_corruption": {name: {
            "error": error + float(drop.mean()), "drop": float(drop.mean()), "interval": of_name[name],
            "severities": [row for (other, _), row in rows.items() if other == name],
        } for name, drop in by_name.items()},
        "mce": error + float(overall.mean()), "relative_mce": float(overall.mean()), "relative_mce_interval": intervals[-1],
        "worst": {"corruption": worst[0], **rows[worst]}, "definition": DEFINITION,
        "statistics": {"level": LEVEL, "resamples": resamples, "seed": 0, "grouped": groups is not None},
    }


def _dices(scores: Sequence[ImageScore]) -> Float:
    return np.array([score.dice for score in scores], np.float64)


def _is_negative(score: ImageScore) -> bool:
    return score.tp + score.fn == 0


def _apart(scores: Sequence[ImageScore]) -> dict[str, float | None]:
    """Images with and without a target apart: a model that goes blind gains on the second what it loses on the first."""
    positives = [score.dice for score in scores if not _is_negative(score)]
    alarms = [score.fp > 0 for score in scores if _is_negative(score)]
    return {"dice_positive": float(np.mean(positives)) if positives else None,
            "false_positive_rate": float(np.mean(alarms)) if alarms else None}


def _intervals(columns: Sequence[Float], groups: Sequence[str] | None, resamples: int) -> list[list[float] | None]:
    """A 95 % interval of the mean of each column (n,), all from the same bootstrap samples."""
    number = len(columns[0])
    if int(clusters(groups, number).max()) == 0:
        return [None] * len(columns)
    sums = resample(np.stack([*columns, np.ones(number)], axis=1), groups, resamples=resamples)
    return [list(interval(sums[:, index] / sums[:, -1])) for index in range(len(columns))]


def table(block: Mapping[str, Any]) -> str:
    """The block for a terminal: mean Dice, a row a corruption, a column a severity (0 is clean), then the drop."""
    levels = block["severities"]
    clean, alarms = block["clean"]["dice"], block["clean"]["false_positive_rate"]
    head = "".join(f"{level:>8}" for level in (0, *levels))
    text = [f"{f'corruptions (mean Dice, {_count(block)})':<42}", f"  {'severity':<16}{head}    mean drop, 95 % interval"]
    for name, found in block["by_corruption"].items():
        values = "".join(f"{cell['dice']:8.4f}" for cell in found["severities"])
        text.append(f"  {name:<16}{clean:8.4f}{values}    {_drop(found['drop'], found['interval'])}")
    if alarms is not None:
        text.append(f"  {block['n_negative']} images without a polyp count as 1 if nothing is predicted on them, else 0; "
                    "dice_positive in the JSON leaves them out")
        text.append("  false-positive rate on them:")
        for name, found in block["by_corruption"].items():
            rates = "".join(f"{cell['false_positive_rate']:8.4f}" for cell in found["severities"])
            text.append(f"  {name:<16}{alarms:8.4f}{rates}")
    worst = block["worst"]
    text += [
        f"worst: {worst['corruption']} at severity {worst['severity']}, Dice {worst['dice']:.4f}, "
        f"drop {_drop(worst['drop'], worst['interval'])}",
        f"mCE {block['mce']:.4f} (1 - Dice, mean of {len(levels) * len(block['by_corruption'])} cells), "
        f"relative to clean {_drop(block['relative_mce'], block['relative_mce_interval'])}",
    ]
    return "\n".join(line.rstrip() for line in text)


def _count(block: Mapping[str, Any]) -> str:
    available = block.get("n_available", block["n"])
    return f"{block['n']} images" if available == block["n"] else f"{block['n']} of {available} images"


def _drop(value: float, ends: Sequence[float] | None) -> str:
    return f"{value:+.4f}" + (f"  ({ends[0]:+.4f} to {ends[1]:+.4f})" if ends else "")
