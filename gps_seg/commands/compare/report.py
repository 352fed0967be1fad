"""The numbers of a comparison: a row a method with its score, its test and its cost, and the means over data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.commands.compare.cells import Cell
from gps_seg.commands.compare.scores import Document, Final
from gps_seg.commands.compare.settings import MEAN, MEAN_OF_GROUPS, Comparison
from gps_seg.errors import DataError
from gps_seg.metrics.paired import compare_values
from gps_seg.tasks.comparison import Compared, Row


def one_set(comparison: Comparison, name: str, documents: Mapping[str, Sequence[Document]], final: Final) -> dict[str, Any]:
    """The ``reference``, a row a method under ``rows``, and every pair of methods under ``pairs``; see ``metrics.paired``."""
    reference = comparison.reference
    if not documents:
        return {"reference": reference, "rows": [], "pairs": []}
    ids, matrices = values(comparison.compared, documents)
    found = compare_values({method: matrices[method] for method in sorted(matrices, key=lambda name: name != reference)}, ids,
                           metric=comparison.compared.score)
    rows = {method: {
        "method": method, "published": comparison.page.columns.get(method, {}).get(name),
        **_score(matrices[method], found["methods"][method]), "images": len(ids), **_cost(final[method]),
        **comparison.compared.facts(seeds)} for method, seeds in documents.items()}
    for pair in found["pairs"]:
        if pair["a"] == reference:
            rows[pair["b"]] |= {"p": pair["p_holm"], "difference": -pair["difference"]}
    return {"reference": reference, "rows": list(rows.values()), "pairs": found["pairs"]}


def values(
    compared: Compared, documents: Mapping[str, Sequence[Document]]
) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """The images' ids, and by method their scores (seeds, n). Raises DataError: the documents are not of the same images."""
    by_id = {method: [compared.values(document) for document in seeds] for method, seeds in documents.items()}
    ids = list(next(iter(by_id.values()))[0])
    for method, seeds in by_id.items():
        if any(set(one) != set(ids) for one in seeds):
            raise DataError(f"{method}: its scores are not of the {len(ids)} images of the first method's; remove the folder "
                            "scores/ to make them again")
    return ids, {method: np.array([[one[id_] for id_ in ids] for one in seeds]) for method, seeds in by_id.items()}


def _score(matrix: NDArray[np.float64], shown: Mapping[str, Any]) -> Row:
    by_seed = matrix.mean(axis=1).tolist()
    return {"score": shown["mean"], "score_by_seed": by_seed, "sd": stdev(by_seed) if len(by_seed) > 1 else None,
            "low": shown["low"], "high": shown["high"]}


def _cost(cells: Sequence[Cell]) -> Row:
    """What a method's runs say of rate, size, time and memory; ``train_s``: seconds of selection and steps."""
    done = [cell for cell in cells if cell.finished]
    runs = [cell.result()["run"] for cell in done]
    sizes = runs[0]["trainable"]
    step, first = min(run["step_s"] for run in runs), runs[0]
    selected, bias, head = (sizes.get(role, 0) for role in ("selected", "bias", "head"))
    return {
        "rate": done[0].rate, "selected": selected, "bias": bias, "head": head, "encoder": sizes["trainable"] - head,
        "other": sizes["trainable"] - selected - bias - head, "parameters": sizes["parameters"],
        "step_s": step, "steps": first["steps"], "train_s": first["selection_s"] + step * first["steps"],
        "peak_memory_bytes": first["peak_memory_bytes"], "selection_s": first["selection_s"],
        "delta_bytes": (done[0].folder / "adapter_model.safetensors").stat().st_size,
    }


def means(comparison: Comparison, tables: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> ours and published -> mean -> score; empty for a single data set."""
    page, found = comparison.page, {}
    if len(comparison.sets) < 2:
        return {}
    for method in page.methods:
        ours = {name: row["score"] for name, table in tables.items() for row in table["rows"] if row["method"] == method}
        published = page.columns.get(method, {})
        known = {name: value for name, value in published.items() if name not in comparison.sets}
        found[method] = {"ours": group_means(ours, list(comparison.sets), page.groups),
                         "published": group_means(published, list(comparison.sets), page.groups) | known}
    return found


def group_means(values: Mapping[str, float], data: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The means that the field reports, of one method: of each group, over all data sets, and over the groups' means.

    Args:
        values: data set -> score; a mean over a set that is not there is left out.
    """
    wanted = {**groups, MEAN: data}
    found = {name: mean(values[one] for one in members) for name, members in wanted.items() if set(members) <= set(values)}
    if groups and set(groups) <= set(found):
        found[MEAN_OF_GROUPS] = mean(found[name] for name in groups)
    return found


def provenance(cells: Iterable[Cell]) -> dict[str, list[Any]]:
    """Revisions, hardware, precisions and package versions that finished runs name in their results, each once."""
    found: dict[str, list[Any]] = {name: [] for name in ("revision", "hardware", "precision", "versions")}
    for run in (cell.result()["run"] for cell in cells if cell.finished):
        for name, values in found.items():
            if run.get(name) and run[name] not in values:
                values.append(run[name])
    return found
