"""A comparison of classification runs: rates chosen on each data set's validation part, the test part read once a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from gps_seg.checkpoint import read_json, write_json
from gps_seg.grid import Cell, GridConfig, Say, best_rate, failures, provenance, run_cells
from gps_seg.statistics import compare, hierarchical, holm, interval
from gps_seg.tables import write_text

Row = dict[str, Any]


def run_class_comparison(grid: GridConfig, name: str, out: Path, devices: Sequence[str], say: Say = print) -> dict[str, Any]:
    """Run, score and write ``compare.json`` and ``compare.md`` under ``out``; returns the document."""
    document: dict[str, Any] = {"name": name, "seeds": list(grid.seeds), "learning_rates": list(grid.learning_rates),
                                "tuning": {}, "data": {}, "failed": {}}
    folders: list[Path] = []
    for data in grid.data:
        tuning = {method: _tuning_cells(grid, method, data, out) for method in grid.methods}
        run_cells(grid, [cell for cells in tuning.values() for cell in cells], devices, say)
        chosen = {method: best_rate(cells) for method, cells in tuning.items()}
        final = {method: [_cell(out, data, method, seed, cell.rate, "final") for seed in grid.seeds]
                 for method, cell in chosen.items() if cell is not None}
        run_cells(grid, [cell for cells in final.values() for cell in cells], devices, say)
        document["tuning"][data] = {method: {f"{cell.rate:g}": cell.inner_score() for cell in cells if cell.rate is not None}
                                    for method, cells in tuning.items()}
        document["data"][data] = one_set(final, grid.reference or next(iter(grid.methods)))
        every = [cell for cells in (*tuning.values(), *final.values()) for cell in cells]
        folders += [cell.folder for cells in final.values() for cell in cells]
        document["failed"] |= failures({f"{data}, {cell.title}": cell.failed for cell in every if not cell.finished})
    document["provenance"] = provenance(folders)
    write_json(out / "compare.json", document)
    write_text(out / "compare.md", markdown(document, grid.columns))
    return document


def _tuning_cells(grid: GridConfig, method: str, data: str, out: Path) -> list[Cell]:
    rates: Sequence[float | None] = grid.learning_rates or (None,)
    return [_cell(out, data, method, grid.seeds[0], rate, "tune") for rate in rates]


def _cell(out: Path, data: str, method: str, seed: int, rate: float | None, protocol: str) -> Cell:
    folder = f"{data}-{method}-{protocol}-seed{seed}" + ("" if rate is None else f"-lr{rate:g}")
    return Cell(method, seed, rate, out / "runs" / folder, (f"data.name={data}", f"data.protocol={protocol}"))


def one_set(final: Mapping[str, Sequence[Cell]], reference: str) -> dict[str, Any]:
    """Accuracy of each method over seeds, with its interval, and tests against the reference; failed runs are left out."""
    results = {method: [read_json(cell.folder / "result.json", "a result") for cell in cells if cell.finished]
               for method, cells in final.items()}
    results = {method: found for method, found in results.items() if found}
    right = {method: np.array([[image["label"] == image["predicted"] for image in result["images"]] for result in found], float)
             for method, found in results.items()}
    rows = {method: _row(method, found, right[method], final[method][0]) for method, found in results.items()}
    others = [method for method in results if method != reference] if reference in results else []
    tests = {method: compare(right[reference], right[method]) for method in others}
    for method, p in zip(others, holm([tests[method].p for method in others]), strict=True):
        rows[method] |= {"difference": -tests[method].mean, "p": p}
    return {"reference": reference, "rows": list(rows.values())}


def _row(method: str, found: Sequence[Mapping[str, Any]], right: Any, cell: Cell) -> Row:
    low, high = interval(hierarchical(right))
    by_seed = [result["accuracy"] for result in found]
    run = found[0]["run"]
    sizes = run["trainable"]
    return {
        "method": method, "rate": cell.rate, "accuracy": mean(by_seed), "accuracy_by_seed": by_seed,
        "sd": stdev(by_seed) if len(by_seed) > 1 else None, "low": low, "high": high, "images": found[0]["n"],
        "trainable": sizes["trainable"] - sizes.get("head", 0), "head": sizes.get("head", 0), "parameters": sizes["parameters"],
        "step_s": min(result["run"]["step_s"] for result in found), "peak_memory_bytes": run["peak_memory_bytes"],
        "selection_s": run["selection_s"],
    }


def markdown(document: Mapping[str, Any], columns: Mapping[str, Mapping[str, float]]) -> str:
    """One table a data set; published numbers stand in columns of their own and were not measured here."""
    extra = sorted({name for values in columns.values() for name in values})
    lines = [f"# {document['name']}", ""]
    for data, found in document["data"].items():
        images = found["rows"][0]["images"] if found["rows"] else 0
        lines += [f"## {data}, {images} test images", "",
                  "| method | lr | accuracy | 95 % interval | sd over seeds | p | encoder weights | % | step s |"
                  + "".join(f" {name} |" for name in extra), "|---|--:|--:|---|--:|--:|--:|--:|--:|" + "--:|" * len(extra)]
        for row in found["rows"]:
            p = "reference" if row["method"] == found["reference"] else f"{row['p']:.4f}" if "p" in row else "-"
            spread = "-" if row["sd"] is None else f"{row['sd']:.4f}"
            rate = "-" if row["rate"] is None else f"{row['rate']:g}"
            published = columns.get(row["method"], {})
            lines.append(
                f"| {row['method']} | {rate} | {row['accuracy']:.4f} | {row['low']:.4f} to {row['high']:.4f} | {spread} | {p} | "
                f"{row['trainable']:,} | {100 * row['trainable'] / row['parameters']:.2f} | {row['step_s']:.3f} |"
                + "".join(f" {published[name]:.4f} |" if name in published else " - |" for name in extra))
        lines += ["", "Intervals: bootstrap over seeds and images. p: Wilcoxon against "
                  f"{found['reference']} over images, Holm over methods.", ""]
    return "\n".join([*lines, *(f"failed: {title}: {why}" for title, why in document["failed"].items())]) + "\n"
