"""``gps-seg benchmark answers``: which of its three answers the app gives to labelled frames, with and without a polyp.

A count of answers, not of pixels: a frame with a polyp counts as found whatever region was drawn, hence also how many of the
found ones have a region that meets the true mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gps_seg.data.images import read_mask
from gps_seg.files import write_json
from gps_seg.runs.provenance import surroundings
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.sets import set_pairs
from gps_seg_app.answer.regions import find
from gps_seg_app.answer.result import analyse
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.pictures import read_upload
from gps_seg_app.limits import AppError

THRESHOLDS = (0.5, 0.7, 0.9, 0.97)
STATES = ("found", "none", "not_assessable")


def measure_answers(predictor: Predictor, pairs: Sequence[Pair], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """One row a threshold: answers to frames with a polyp (and how many drawn regions meet it) and to frames without.

    Args:
        thresholds: on the scale of the predictor's probabilities.
    """
    counted: dict[float, dict[bool, Counter[str]]] = {limit: {True: Counter(), False: Counter()} for limit in thresholds}
    for pair in tqdm(pairs, desc="frames", unit="frame", disable=None):
        target = read_mask(pair.mask)
        result = analyse(read_upload(pair.image), predictor)
        for limit in thresholds:
            found = find(result.probability, limit, result.assessment)
            counted[limit][bool(target.any())][found.state] += 1
            if found.state == "found" and (found.mask & target).any():
                counted[limit][True]["met"] += 1
    return [{"threshold": limit, **{name: {state: here[has_polyp][state] for state in STATES}
                                    for name, has_polyp in (("with_polyp", True), ("without", False))},
             "found_meeting_the_polyp": here[True]["met"]} for limit, here in counted.items()]


def benchmark(run: Path, data: str, *, device: str = "auto", json_path: Path | None = None) -> str:
    """Answer every frame of a data set; returns a table, and writes the numbers with their provenance.

    Raises:
        AppError: the data set has no frame.
        DataError, CheckpointError: the data set or the run cannot be read.
    """
    pairs = set_pairs(data)
    if not pairs:
        raise AppError(f"--data: expected frames, {data} holds none.")
    predictor = Predictor({"run": run}, device=device)
    limits = sorted({predictor.threshold, *THRESHOLDS})
    rows = measure_answers(predictor, pairs, limits)
    if json_path:
        place = torch.device(predictor.device.partition(" ")[0])
        precision = predictor.device.partition("(")[2].rstrip(")")
        write_json(json_path, {"run": run.name, "data": Path(data).name, "own_threshold": predictor.threshold,
                               "calibrated": predictor.calibrated, "rows": rows, **surroundings(place, precision)})
    return table(rows, predictor.threshold)


def table(rows: Sequence[dict[str, Any]], own: float) -> str:
    """For the terminal; the run's own threshold is marked."""
    lines = ["threshold   with polyp: found (meeting it)  none  not assessable   without: none  found  not assessable"]
    for row in rows:
        seen, free = row["with_polyp"], row["without"]
        mark = "*" if row["threshold"] == own else " "
        lines.append(f"{row['threshold']:>8.3f}{mark}   {seen['found']:>17} ({row['found_meeting_the_polyp']:>5}) "
                     f"{seen['none']:>9} {seen['not_assessable']:>15}   {free['none']:>13} {free['found']:>6} "
                     f"{free['not_assessable']:>15}")
    return "\n".join([*lines, "* the run's own threshold"])
