"""``gps-seg compare``: tune, train and score every method, then write ``compare.json``, ``compare.md`` and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gps_seg.commands.compare.cells import Cell, Say, best_cell, failures, final_cells, run_cells, tuning_cells
from gps_seg.commands.compare.costs import costs
from gps_seg.commands.compare.markdown import markdown
from gps_seg.commands.compare.report import means, one_set, provenance
from gps_seg.commands.compare.scores import score_all
from gps_seg.commands.compare.settings import Comparison, load_comparison
from gps_seg.errors import ConfigError
from gps_seg.files import disk_error, write_json, write_text
from gps_seg.metrics.plots.cost import score_against_cost_plot
from gps_seg.metrics.plots.pictures import cost_of_score_plot

Cells = dict[str, list[Cell]]  # by method


def run_comparison(
    path: Path, out: Path, devices: Sequence[str], say: Say = print, *, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run, score and write under ``out``; returns the document.

    Raises:
        ConfigError: the YAML is wrong, or another comparison is at work in ``out``; nothing was run then.
        DataError: a data set is not there; nothing was run then.
    """
    comparison = load_comparison(path, overrides)
    check_inputs(comparison)
    try:  # a folder only now, so that a mistake leaves none behind
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            return _run(comparison, out, devices, say)
    except Timeout:
        raise ConfigError(f"{out}: another gps-seg compare is at work there; wait for it, or choose another --out") from None
    except OSError as error:
        raise disk_error(out, error) from None


def check_inputs(comparison: Comparison) -> None:
    """What every cell would fail for is said once, before hours of cells that fail.

    Raises:
        DataError, ConfigError: a data set or a weight file is not there.
    """
    sources = [source for source in comparison.sets.values() if source is not None]
    for data in comparison.trained:
        configs = [comparison.config(method, data) for method in comparison.page.methods]
        for config in {config.data: config for config in configs}.values():
            comparison.compared.find(config.data, sources)
        for checkpoint in filter(None, {config.model.checkpoint for config in configs}):
            if not checkpoint.is_file():
                raise ConfigError(f"{comparison.path}: model.checkpoint: expected a weight file at {checkpoint}, found none")


def _run(comparison: Comparison, out: Path, devices: Sequence[str], say: Say) -> dict[str, Any]:
    page, score = comparison.page, comparison.compared.score
    trained = {data: train_all(comparison, data, out, devices, say) for data in comparison.trained}
    document: dict[str, Any] = {
        "name": comparison.path.stem, "task": comparison.task, "score": score, "seeds": list(page.seeds),
        "learning_rates": list(page.learning_rates),
        "protocols": {method: comparison.protocol(method, comparison.trained[0]) for method in page.methods},
        "tuning": {comparison.config(comparison.reference, data).data.name: _tuned(tuning, score)
                   for data, (tuning, _) in trained.items()},
        "data": {}, "failed": failures({cell.title: cell.failed for parts in trained.values() for cell in _each(*parts)
                                        if not cell.finished}),
    }
    for name in comparison.sets:
        _, final = trained[name if name in trained else ""]
        documents, failed = score_all(comparison, name, final, out, devices[0], say)
        document["data"][name] = one_set(comparison, name, documents, final)
        document["failed"] |= failed
    document["means"] = means(comparison, document["data"])
    document["costs"] = costs(document["data"])
    document["provenance"] = provenance(cell for _, final in trained.values() for cell in _each(final))
    _write(document, comparison, out)
    return document


def _tuned(tuning: Cells, score: str) -> dict[str, dict[str, float | None]]:
    """Inner validation score by method and rate."""
    return {method: {f"{cell.rate:g}": cell.inner_score(score) for cell in cells} for method, cells in tuning.items()}


def train_all(comparison: Comparison, data: str, out: Path, devices: Sequence[str], say: Say) -> tuple[Cells, Cells]:
    """Tuning and final cells: every method's rates, then with the best of them every seed; none where every rate failed."""
    tuning = {method: tuning_cells(comparison, out, method, data) for method in comparison.page.methods}
    run_cells(_each(tuning), devices, say)
    final = {}
    for method, cells in tuning.items():
        best = best_cell(cells, comparison.compared.score)
        if best or not cells:
            final[method] = final_cells(comparison, out, method, data, best.rate if best else None)
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
            cost_of_score_plot(table["rows"], out / f"{name.replace(' ', '_')}.png", f"{document['name']}: {name}",
                               comparison.compared.title)
