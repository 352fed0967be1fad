"""A sheet of the same images across methods: input, truth, and a column a method with its Dice. Each method by its first seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gps_seg.commands.compare.report import values
from gps_seg.commands.compare.scores import Document, Final
from gps_seg.commands.compare.settings import Comparison
from gps_seg.data.images import read_image, read_mask
from gps_seg.data.splits import spread
from gps_seg.metrics.masks import score_image
from gps_seg.metrics.plots.pictures import Answer, SheetRow, method_sheet
from gps_seg.runs.load import load_run, with_presence

ROWS = 6


def draw_sheet(
    comparison: Comparison, name: str, documents: Mapping[str, Sequence[Document]], final: Final, path: Path, *, device: str
) -> None:
    """Write the sheet of a scored data set: at most ROWS images, spread over the methods' mean Dice, the best first.

    Raises:
        CheckpointError: a run of the comparison cannot be loaded any more.
    """
    ids, matrices = values(comparison.compared, documents)
    order = np.argsort(-np.mean([matrix.mean(axis=0) for matrix in matrices.values()], axis=0), kind="stable")
    chosen = spread([ids[index] for index in order], ROWS)
    rows: dict[str, SheetRow] = {}
    for method in documents:
        folder = next(cell.folder for cell in final[method] if cell.finished)
        run = with_presence(load_run(folder, device=device.partition(":")[0]))
        items = {item.id: item for item in run.task.items(comparison.sets[name], "test", run.classes)}
        for id_, found in run.predict([items[id_] for id_ in chosen], batch_size=1):
            row = rows.setdefault(id_, SheetRow(id_, read_image(items[id_].image), read_mask(items[id_].mask), {}))
            mask = found > run.threshold
            rows[id_] = replace(row, answers={**row.answers, method: Answer(mask, score_image(id_, mask, row.target).dice)})
    method_sheet(list(rows.values()), path, f"{comparison.path.stem}: {name}")
