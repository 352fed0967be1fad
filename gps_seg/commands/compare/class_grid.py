"""A comparison of classification runs: rates chosen on each data set's validation part, the test part read once a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from gps_seg.class_config import load_class_config
from gps_seg.commands.compare.cells import (
    MEAN,
    MEAN_OF_GROUPS,
    Cell,
    GridConfig,
    Say,
    best_rate,
    failures,
    provenance,
    run_cells,
    source_of,
)
from gps_seg.errors import ConfigError
from gps_seg.files import read_json, write_json, write_text
from gps_seg.metrics.paired import shown_p
from gps_seg.metrics.statistics import compare, hierarchical, holm, interval
from gps_seg.metrics.tables import markdown_table
from gps_seg.tasks.classification.catalog import ADAPTERS, locate

Row = dict[str, Any]
PUBLISHED = "paper"


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
        document["data"][data] = one_set(final, grid.reference or next(iter(grid.methods)), grid.columns, data)
        every = [cell for cells in (*tuning.values(), *final.values()) for cell in cells]
        folders += [cell.folder for cells in final.values() for cell in cells]
        document["failed"] |= failures({f"{data}, {cell.title}": cell.failed for cell in every if not cell.finished})
    document["provenance"] = provenance(folders)
    document["means"] = _means(document["data"], grid)
    write_json(out / "compare.json", document)
    write_text(out / "compare.md", markdown(document))
    return document


def check_inputs(grid: GridConfig, out: Path) -> None:
    """What every cell would fail for is said once, before hours of cells that fail.

    Raises:
        DataError, ConfigError: a data set or a weight file is not there.
    """
    for data, method in product(grid.data, grid.methods):
        config = load_class_config(*source_of(grid, _tuning_cells(grid, method, data, out)[0]))
        locate(config.data.name, ADAPTERS[config.data.name], config.data.root)
        if config.model.checkpoint is not None and not config.model.checkpoint.is_file():
            raise ConfigError(f"{data}: model.checkpoint: expected a weight file at {config.model.checkpoint}, found none")


def group_means(values: Mapping[str, float], data: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The means that the field reports, of one method: of each group, over all data sets, and over the groups' means.

    Args:
        values: data set -> accuracy; a mean over a set that is not there is left out.
    """
    wanted = {**groups, MEAN: data}
    found = {name: mean(values[one] for one in members) for name, members in wanted.items() if set(members) <= set(values)}
    if groups and set(groups) <= set(found):
        found[MEAN_OF_GROUPS] = mean(found[name] for name in groups)
    return found


def _means(sets: Mapping[str, Any], grid: GridConfig) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> ours and published -> mean -> accuracy; empty for a single data set."""
    if len(grid.data) < 2:
        return {}
    ours: dict[str, dict[str, float]] = {method: {} for method in grid.methods}
    for data, found in sets.items():
        for row in found["rows"]:
            ours[row["method"]][data] = row["accuracy"]
    means = {}
    for method, values in ours.items():
        published = grid.columns.get(method, {})
        known = {name: value for name, value in published.items() if name not in grid.data}
        means[method] = {"ours": group_means(values, grid.data, grid.groups),
                         "published": group_means(published, grid.data, grid.groups) | known}
    return means


def _tuning_cells(grid: GridConfig, method: str, data: str, out: Path) -> list[Cell]:
    rates: Sequence[float | None] = grid.learning_rates or (None,)
    return [_cell(out, data, method, grid.seeds[0], rate, "tune") for rate in rates]


def _cell(out: Path, data: str, method: str, seed: int, rate: float | None, protocol: str) -> Cell:
    folder = f"{data}-{method}-{protocol}-seed{seed}" + ("" if rate is None else f"-lr{rate:g}")
    return Cell(method, seed, rate, out / "runs" / folder, (f"data.name={data}", f"data.protocol={protocol}"), data)


def one_set(
    final: Mapping[str, Sequence[Cell]], reference: str, published: Mapping[str, Mapping[str, float]], data: str
) -> dict[str, Any]:
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
    for method, row in rows.items():
        row["published"] = published.get(method, {}).get(data)
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
        "robustness": {name: mean(result["robustness"][name]["score"] for result in found)
                       for name in found[0].get("robustness", {})},
    }


def markdown(document: Mapping[str, Any]) -> str:
    """One table a data set and one of means; published numbers stand in columns of their own and were not measured here."""
    lines = [f"# {document['name']}", ""]
    for data, found in document["data"].items():
        images = found["rows"][0]["images"] if found["rows"] else 0
        robust = list(dict.fromkeys(name for row in found["rows"] for name in row["robustness"]))
        published = [PUBLISHED] if any(row["published"] is not None for row in found["rows"]) else []
        columns = ("method", "lr", "accuracy", *published, "95 % interval", "sd over seeds", "p", "encoder weights", "%",
                   "step s", *robust)
        rows = [_cells(row, found["reference"], len(published), robust) for row in found["rows"]]
        lines += [f"## {data}, {images} test images", "", *markdown_table(columns, rows, left=("method", "95 % interval")), "",
                  f"Intervals: bootstrap over seeds and images. p: Wilcoxon against {found['reference']} over images, Holm over "
                  "methods.", ""]
    lines += _means_table(document.get("means", {}))
    return "\n".join([*lines, *(f"failed: {title}: {why}" for title, why in document["failed"].items())]) + "\n"


def _cells(row: Row, reference: str, published: int, robust: Sequence[str]) -> list[str]:
    p = "reference" if row["method"] == reference else shown_p(row["p"]) if "p" in row else "-"
    return [row["method"], "-" if row["rate"] is None else f"{row['rate']:g}", f"{row['accuracy']:.4f}",
            *[_number(row["published"])] * published, f"{row['low']:.4f} to {row['high']:.4f}", _number(row["sd"]), p,
            f"{row['trainable']:,}", f"{100 * row['trainable'] / row['parameters']:.2f}", f"{row['step_s']:.3f}",
            *(_number(row["robustness"].get(name)) for name in robust)]


def _means_table(means: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for both in means.values() for values in both.values() for name in values))
    if not names:
        return []
    kinds = [kind for kind in ("ours", "published") if any(both[kind] for both in means.values())]
    titles = {"ours": "", "published": f", {PUBLISHED}"}
    columns = ["method", *(f"{name}{titles[kind]}" for name in names for kind in kinds)]
    rows = [[method, *(_number(both[kind].get(name)) for name in names for kind in kinds)] for method, both in means.items()]
    return ["## Means over data sets", "", *markdown_table(columns, rows, left=("method",)), ""]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
