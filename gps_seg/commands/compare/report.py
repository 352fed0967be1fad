"""The end of a comparison: which rate each method got, its scores, and what it costs, as table, JSON, Markdown and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gps_seg.commands.compare.class_grid import check_inputs, run_class_comparison
from gps_seg.commands.compare.cells import (
    Cell,
    GridConfig,
    best_rate,
    cells,
    failures,
    load_grid,
    provenance,
    run_cells,
    score_cell,
    source_of,
)
from gps_seg.config import load_config
from gps_seg.errors import ConfigError
from gps_seg.files import disk_error, read_json, write_json, write_text
from gps_seg.metrics.paired import compare_methods, read_document, shown_p
from gps_seg.metrics.plots.pictures import cost_of_score_plot
from gps_seg.metrics.statistics import hierarchical, interval
from gps_seg.metrics.tables import markdown_table
from gps_seg.tasks.segmentation.sets import SPLIT, expand, labels, pairs_digest, set_pairs

Row = dict[str, Any]


def run_comparison(path: Path, out: Path, devices: Sequence[str], say: Any = print) -> dict[str, Any]:
    """Run, score and write ``compare.json``, ``compare.md`` and plots under ``out``; returns the document.

    Raises:
        ConfigError: the YAML is wrong, or another comparison is at work in ``out``; nothing was run then.
        DataError: a data set to score on is not there; nothing was run then.
    """
    grid = load_grid(path)
    if grid.task == "classification":
        check_inputs(grid, out)
    else:
        for known in expand(grid.data):
            if known not in SPLIT:
                set_pairs(known)
    try:  # a folder only now, so that a mistake leaves none behind
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            return _run(path, grid, out, devices, say)
    except Timeout:
        raise ConfigError(f"{out}: another gps-seg compare is at work there; wait for it, or choose another --out") from None
    except OSError as error:
        raise disk_error(out, error) from None


def _run(path: Path, grid: GridConfig, out: Path, devices: Sequence[str], say: Any) -> dict[str, Any]:
    if grid.task == "classification":
        return run_class_comparison(grid, path.stem, out, devices, say)
    sets = expand(grid.data)
    plans = {method: cells(grid, out, method) for method in grid.methods}
    run_cells(grid, [cell for tuning, _ in plans.values() for cell in tuning], devices, say)
    chosen = {method: best_rate(tuning) for method, (tuning, _) in plans.items()}
    final = {method: plans[method][1](cell.rate) for method, cell in chosen.items() if cell is not None}
    run_cells(grid, [cell for group in final.values() for cell in group], devices, say)
    document: dict[str, Any] = {"name": path.stem, "seeds": list(grid.seeds), "learning_rates": list(grid.learning_rates),
                                "tuning": _tuning(plans), "data": {}, "failed": _failed(plans, final)}
    names = [name.replace("/", "_") for name in labels(sets)] or ["test list"]
    for name, data in zip(names, sets or (None,), strict=True):
        folder = out / "scores" / "-".join([name.replace(" ", "_"), *sorted(grid.blocks)])
        document["data"][name] = _one_set(grid, final, data, folder, devices[0], say)
        document["failed"] |= failures({f"scoring {cell.title} on {name}": _score_file(folder, cell).with_suffix(".failed.txt")
                                        for group in final.values() for cell in group})
    document["provenance"] = provenance(cell.folder for group in final.values() for cell in group)
    write_json(out / "compare.json", document)
    write_text(out / "compare.md", markdown(document, grid.columns))
    for name, found in document["data"].items():
        if found["rows"]:
            cost_of_score_plot(found["rows"], out / f"{name.replace(' ', '_')}.png", f"{path.stem}: {name}")
    return document


def _tuning(plans: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {method: {f"{cell.rate:g}": cell.inner_score() for cell in tuning if cell.rate is not None}
            for method, (tuning, _) in plans.items()}


def _failed(plans: Mapping[str, Any], final: Mapping[str, Sequence[Cell]]) -> dict[str, str]:
    every = [cell for tuning, _ in plans.values() for cell in tuning] + [cell for group in final.values() for cell in group]
    return failures({cell.title: cell.failed for cell in every if not cell.finished})


def _digest(grid: GridConfig, final: Mapping[str, Sequence[Cell]], data: str | None) -> str:
    """Of the files that scores on a data set are of."""
    from gps_seg.runs.load import find_pairs

    cell = next((cell for group in final.values() for cell in group), None)
    if cell is None:
        return ""
    return pairs_digest(find_pairs(data, "test", load_config(*source_of(grid, cell)).data))


def _one_set(
    grid: GridConfig, final: Mapping[str, Sequence[Cell]], data: str | None, folder: Path, device: str, say: Any
) -> dict[str, Any]:
    documents: dict[str, list[dict[str, Any]]] = {}
    digest = _digest(grid, final, data)
    for method, group in final.items():
        files = [(cell, _score_file(folder, cell)) for cell in group]
        there = [file for cell, file in files if score_cell(cell, data, file, grid.blocks, device, say, digest=digest)]
        if there:
            documents[method] = [read_document(file) for file in there]
    rows = {method: {"method": method, "seeds": len(found), **_scores(found), **_cost(final[method])}
            for method, found in documents.items()}
    reference = grid.reference or next(iter(grid.methods))
    pairs: list[Any] = []
    if len(documents) == 1:
        (method, only), = documents.items()
        dices = np.array([[image["dice"] for image in document["images"]] for document in only])
        rows[method] |= dict(zip(("low", "high"), interval(hierarchical(dices)), strict=True))
    if len(documents) > 1:
        compared = compare_methods({name: documents[name] for name in sorted(documents, key=lambda name: name != reference)})
        for method, shown in compared["methods"].items():
            rows[method] |= {"low": shown["low"], "high": shown["high"]}
        pairs = compared["pairs"]
        for pair in pairs:
            if pair["a"] == reference:
                rows[pair["b"]] |= {"p": pair["p_holm"], "difference": -pair["difference"]}
    return {"reference": reference, "rows": list(rows.values()), "pairs": pairs}


def _score_file(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.folder.name}.json"


def _scores(documents: Sequence[Mapping[str, Any]]) -> Row:
    dices = [document["per_image"]["dice"] for document in documents]
    return {"dice": mean(dices), "iou": mean(document["per_image"]["iou"] for document in documents), "dice_by_seed": dices,
            "dataset_dice": mean(document["dataset"]["dice"] for document in documents),
            "images": documents[0]["n"], "rate": None, "gps_legacy": documents[0].get("gps_legacy")}


def _cost(group: Sequence[Cell]) -> Row:
    results = [read_json(cell.folder / "result.json", "a result")["run"] for cell in group if cell.finished]
    sizes = results[0]["trainable"]
    head = sizes.get("head", 0)
    delta = (group[0].folder / "adapter_model.safetensors").stat().st_size
    return {
        "selected": sizes.get("selected", 0), "bias": sizes.get("bias", 0), "head": head,
        "other": sizes["trainable"] - sizes.get("selected", 0) - sizes.get("bias", 0) - head, "rate": group[0].rate,
        "step_s": min(result["step_s"] for result in results), "peak_memory_bytes": results[0]["peak_memory_bytes"],
        "delta_bytes": delta, "inner_dice": mean(result["best_inner_dice"] for result in results),
    }


def markdown(document: Mapping[str, Any], columns: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """One table a data set; published numbers, if any, stand in columns of their own and were not measured here."""
    columns = columns or {}
    extra = sorted({name for values in columns.values() for name in values})
    lines = [f"# {document['name']}", ""]
    for name, found in document["data"].items():
        images = found["rows"][0]["images"] if found["rows"] else 0
        columns_shown = ("method", "lr", "mDice", "95 % interval", "p", "mIoU", "selected", "bias", "other", "decoder", "step s",
                         "memory GB", "delta MB", *extra)
        rows = [_cells(row, found["reference"], columns.get(row["method"], {}), extra) for row in found["rows"]]
        lines += [f"## {name}, {images} images, mean over images", "",
                  *markdown_table(columns_shown, rows, left=("method", "95 % interval"))]
        lines += [f"\n{row['method']}: the released code's protocol and scorer, mDice {row['gps_legacy']['dice']:.4f} "
                  f"mIoU {row['gps_legacy']['iou']:.4f}; trained and selected on these images; {row['gps_legacy']['warning']}."
                  for row in found["rows"] if row["gps_legacy"]]
        lines += ["", "Intervals: bootstrap over seeds and images. "
                  f"p: Wilcoxon against {found['reference']}, Holm over all pairs.", ""]
    lines += [f"failed: {title}: {why}" for title, why in document["failed"].items()]
    return "\n".join(lines) + "\n"


def _cells(row: Row, reference: str, published: Mapping[str, float], extra: Sequence[str]) -> list[str]:
    interval = f"{row['low']:.3f} to {row['high']:.3f}" if "low" in row else "-"
    p = "reference" if row["method"] == reference else ("-" if "p" not in row else shown_p(row["p"]))
    rate = "-" if row["rate"] is None else f"{row['rate']:g}"
    return [row["method"], rate, f"{row['dice']:.4f}", interval, p, f"{row['iou']:.4f}",
            *(f"{row[kind]:,}" for kind in ("selected", "bias", "other", "head")), f"{row['step_s']:.2f}",
            f"{row['peak_memory_bytes'] / 1e9:.2f}", f"{row['delta_bytes'] / 1e6:.2f}",
            *(f"{published[column]:.3f}" if column in published else "-" for column in extra)]
