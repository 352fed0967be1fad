"""A comparison as Markdown: one table a data set, one of means, and how rates and p-values were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gps_seg.commands.compare.costs import costs_table
from gps_seg.commands.compare.edges import LOWER, UPPER, Grids, edge_notes
from gps_seg.metrics.paired import shown_p
from gps_seg.metrics.tables import markdown_table
from gps_seg.tasks.comparison import Compared, Row
from gps_seg.tasks.lookup import COMPARED

PUBLISHED, INTERVAL = "published", "95 % interval"
RATES = {
    "tune": "each rate has the best inner validation score at the first seed; each run keeps its best step on that part, and the "
    "test part was read by the scoring alone",
    "final": "each rate has the best score on the validation part after the last step (data.protocol=tune, train.keep=last) at "
    "the first seed; the final runs (data.protocol=final) train on the validation part too and keep their last step: rates are "
    "judged on what is reported, and those that peak early do not win",
    "released": "rates and steps were chosen on the test images, as the released code does",
}


def markdown(document: Mapping[str, Any]) -> str:
    """The whole document. Published numbers stand in columns of their own and were not measured here."""
    lines = [f"# {document['name']}", ""]
    for name, table in document["data"].items():
        lines += _one_set(name, table, COMPARED[document["task"]])
    title = COMPARED[document["task"]].title
    lines += [*_means(document["means"]), *costs_table(document["costs"], title, len(document["data"])), *_rates(document)]
    return "\n".join([*lines, *(f"failed: {title}: {why}" for title, why in document["failed"].items())]) + "\n"


def _one_set(name: str, table: Mapping[str, Any], compared: Compared) -> list[str]:
    if not table["rows"]:
        return [f"## {name}", "", "No scores; why stands below.", ""]
    grids = table.get("grids", {})
    rows = [_shared(row, compared.title, table["reference"]) | compared.shown(row) for row in table["rows"]]
    for row in rows:
        row["lr"] += _edge(grids.get(row["method"], {}))
    empty = [PUBLISHED] if all(row["published"] is None for row in table["rows"]) else []
    columns = [title for title in dict.fromkeys(title for row in rows for title in row) if title not in empty]
    images = f", {table['rows'][0]['images']} images"
    test = ("p: Wilcoxon signed rank (Pratt) over images, of their means over these seeds, against "
            f"{table['reference']}; Holm over all pairs of methods, {len(table['pairs'])}.") if table["pairs"] else ""
    return [f"## {name}{images}, mean over images", "",
            *markdown_table(columns, [[row.get(title, "-") for title in columns] for row in rows], left=("method", INTERVAL)),
            *(f"\n{row['method']}: {row['note']}" for row in table["rows"] if "note" in row), "",
            f"Intervals: bootstrap over seeds and images. {test}".strip(), "", *(f"{note}.\n" for note in edge_notes(grids))]


def _shared(row: Row, title: str, reference: str) -> dict[str, str]:
    """The columns of every task."""
    return {"method": row["method"], "lr": "-" if row["rate"] is None else f"{row['rate']:g}", title: f"{row['score']:.4f}",
            PUBLISHED: _number(row["published"]), INTERVAL: f"{row['low']:.4f} to {row['high']:.4f}",
            "sd over seeds": _number(row["sd"]),
            "p": "reference" if row["method"] == reference else shown_p(row["p"]) if "p" in row else "-"}


def _edge(grids: Grids) -> str:
    place = grids["train.lr"]["place"] if grids else ""
    return f" ({place})" if place in (LOWER, UPPER) else ""


def _means(means: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for both in means.values() for values in both.values() for name in values))
    if not names:
        return []
    kinds = [kind for kind in ("ours", "published") if any(both[kind] for both in means.values())]
    titles = {"ours": "", "published": f", {PUBLISHED}"}
    columns = ["method", *(f"{name}{titles[kind]}" for name in names for kind in kinds)]
    rows = [[method, *(_number(both[kind].get(name)) for name in names for kind in kinds)] for method, both in means.items()]
    return ["## Means over data sets", "", *markdown_table(columns, rows, left=("method",)), ""]


def _rates(document: Mapping[str, Any]) -> list[str]:
    """How the rates were chosen, for the methods of each protocol."""
    if not document["learning_rates"] and not document.get("rates") and not document.get("grid"):
        return []
    methods: dict[str, list[str]] = {}
    for method, protocol in document["protocols"].items():
        methods.setdefault(protocol, []).append(method)
    return [line for protocol, names in methods.items()
            for line in (f"Learning rates{' of ' + ', '.join(names) if len(methods) > 1 else ''}: {RATES[protocol]}"
                         f"{document.get('validation', '')}.", "")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
