"""``gps-seg compare``: tune, train and score every method, then write ``compare.json``, ``compare.md`` and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gps_seg.commands.compare.cells import Cell, Say, best_cell, failures, final_cells, run_cells, tuning_cells
from gps_seg.commands.compare.costs import costs
from gps_seg.commands.compare.edges import grids_of
from gps_seg.commands.compare.markdown import markdown
from gps_seg.commands.compare.report import means, one_set, provenance
from gps_seg.commands.compare.scores import score_all
from gps_seg.commands.compare.settings import RATE, Comparison, load_comparison
from gps_seg.commands.compare.sheet import draw_sheet
from gps_seg.config import RunConfig
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import disk_error, write_json, write_text
from gps_seg.metrics.plots.cost import score_against_cost_plot
from gps_seg.metrics.plots.pictures import cost_of_score_plot

Cells = dict[str, list[Cell]]  # by method


def run_comparison(
    path: Path, out: Path, devices: Sequence[str], say: Say = print, *, overrides: Sequence[str] = (),
    sheet: bool = False,
) -> dict[str, Any]:
    """Run, score and write under ``out``; returns the document. A data set that is not there is named, and the others go on.

    Args:
        sheet: also draw the same images across methods, a picture a data set.

    Raises:
        ConfigError: the YAML is wrong, or another comparison is at work in ``out``; nothing was run then.
        DataError: what all cells need is not there; nothing was run then.
    """
    comparison = load_comparison(path, overrides)
    if sheet and comparison.task != "segmentation":
        raise ConfigError(f"--sheet: only masks can be shown side by side, {path} is of {comparison.task}")
    missing = check_inputs(comparison)
    for name, why in missing.items():
        say(f"left out: {name}: {why}")
    try:  # a folder only now, so that a mistake leaves none behind
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            return _run(comparison, missing, out, devices, say, sheet=sheet)
    except Timeout:
        raise ConfigError(f"{out}: another gps-seg compare is at work there; wait for it, or choose another --out") from None
    except OSError as error:
        raise disk_error(out, error) from None


def check_inputs(comparison: Comparison) -> dict[str, str]:
    """What cells would fail for is said once, before hours of cells that fail.

    Returns:
        Why, by name, of each data set that is not there; the others can go on without it.

    Raises:
        DataError, ConfigError: a weight file, or all data sets, or the one that all methods train on, is not there.
    """
    missing: dict[str, str] = {}
    for data in comparison.trained:
        configs = [comparison.config(method, data) for method in comparison.page.methods]
        for config in {config.data: config for config in configs}.values():
            if why := _why_missing(comparison, config, ()):
                missing[data or config.data.name] = why
        for checkpoint in filter(None, {config.model.checkpoint for config in configs}):
            if not checkpoint.is_file():
                raise ConfigError(f"{comparison.path}: model.checkpoint: expected a weight file at {checkpoint}, found none")
    if not comparison.compared.trains_on_each and missing:
        raise DataError(next(iter(missing.values())))
    first = comparison.config(comparison.reference, comparison.trained[0])
    missing |= {name: why for name, source in comparison.sets.items()
                if source is not None and (why := _why_missing(comparison, first, (source,)))}
    if set(comparison.sets) <= set(missing):
        raise DataError("; ".join(missing.values()))
    return missing


def _why_missing(comparison: Comparison, config: RunConfig, sources: Sequence[str]) -> str:
    try:
        comparison.compared.find(config.data, sources)
    except DataError as error:
        return str(error)
    return ""


def _run(
    comparison: Comparison, missing: Mapping[str, str], out: Path, devices: Sequence[str], say: Say, *, sheet: bool
) -> dict[str, Any]:
    trained = {data: train_all(comparison, data, out, devices, say) for data in comparison.trained if data not in missing}
    document = _begun(comparison, trained)
    document["failed"] |= missing
    for name in comparison.sets:
        if name in missing:
            document["data"][name] = one_set(comparison, name, {}, {})
            continue
        _, final = trained[name if name in trained else ""]
        documents, failed = score_all(comparison, name, final, out, devices[0], say)
        document["data"][name] = {**one_set(comparison, name, documents, final), "grids": grids_of(comparison, final)}
        document["failed"] |= failed
        if sheet and documents:
            draw_sheet(comparison, name, documents, final, out / f"{_stem(name)}_sheet.png", device=devices[0])
    document["means"] = means(comparison, document["data"])
    document["costs"] = costs(document["data"])
    document["provenance"] = provenance(cell for _, final in trained.values() for cell in _each(final))
    _write(document, comparison, out)
    return document


def _begun(comparison: Comparison, trained: Mapping[str, tuple[Cells, Cells]]) -> dict[str, Any]:
    """The document before anything is scored."""
    page, score = comparison.page, comparison.compared.score
    return {
        "name": comparison.path.stem, "task": comparison.task, "score": score, "seeds": list(page.seeds),
        "learning_rates": list(page.learning_rates), "rates": {method: list(rates) for method, rates in page.rates.items()},
        "grid": {method: {key: list(values) for key, values in own.items()} for method, own in page.grid.items()},
        "rates_of": dict(page.rates_of),
        "protocols": {method: comparison.protocol(method, comparison.trained[0]) for method in page.methods},
        "tuning": {comparison.config(comparison.reference, data).data.name: _tuned(tuning, score)
                   for data, (tuning, _) in trained.items()},
        "validation": _validation(comparison),
        "data": {}, "failed": failures({cell.title: cell.failed for parts in trained.values() for cell in _each(*parts)
                                        if not cell.finished}),
    }


def _validation(comparison: Comparison) -> str:
    """What the methods that choose for themselves validate on, where it is not the data set's own part."""
    page, data = comparison.page, comparison.trained[0]
    found = (comparison.compared.validation(comparison.config(method, data).data) for method in page.methods)
    return next(filter(None, found), "")


def _tuned(tuning: Cells, score: str) -> dict[str, dict[str, float | None]]:
    """Inner validation score by method and rate, or what else was tried."""
    return {method: {_label(cell): cell.inner_score(score) for cell in cells} for method, cells in tuning.items()}


def _label(cell: Cell) -> str:
    return ", ".join(f"{value:g}" if key == RATE else f"{key}={value:g}" for key, value in cell.point)


def train_all(comparison: Comparison, data: str, out: Path, devices: Sequence[str], say: Say) -> tuple[Cells, Cells]:
    """Tuning and final cells: every method's grid, then with the best of it every seed; none where every point failed."""
    tuning = {method: tuning_cells(comparison, out, method, data) for method in comparison.page.methods}
    run_cells(_each(tuning), devices, say)
    final = {}
    for method in tuning:
        tried = tuning[comparison.chooser(method)]
        best = best_cell(tried, comparison.compared.score)
        if best or not tried:
            final[method] = final_cells(comparison, out, method, data, best.point if best else ())
    run_cells(_each(final), devices, say)
    return tuning, final


def _each(*parts: Cells) -> list[Cell]:
    return [cell for part in parts for cells in part.values() for cell in cells]


def _write(document: dict[str, Any], comparison: Comparison, out: Path) -> None:
    write_json(out / "compare.json", document)
    write_text(out / "compare.md", markdown(document))
    if document["costs"]:
        score_against_cost_plot(document["costs"], out / f"{document['score']}_against_cost.png", document["name"],
                                comparison.compared.title)
    for name, table in document["data"].items():
        if table["rows"]:
            cost_of_score_plot(table["rows"], out / f"{_stem(name)}.png", f"{document['name']}: {name}",
                               comparison.compared.title)


def _stem(name: str) -> str:
    """A data set's name in a file's."""
    return name.replace(" ", "_")
