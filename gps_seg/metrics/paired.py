"""Methods against each other on the same images: from plain numbers, or from the JSON files of score, evaluate or train.

Each method may bring several seeds; then seeds and images are both drawn for the intervals, and the test uses each image's
mean over seeds. All pairs of methods are tested, and Holm's correction counts them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import ConfigError, DataError, GpsSegError
from gps_seg.files import read_json
from gps_seg.metrics.clicks import NEEDED
from gps_seg.metrics.contradictions import check_document
from gps_seg.metrics.groups import read_groups
from gps_seg.metrics.plots.scores import box_plots
from gps_seg.metrics.statistics import RESAMPLES, holm, interval, joint, wilcoxon
from gps_seg.metrics.tables import escape, latex_table, markdown_table, prompt_of, write_forms

Documents = Mapping[str, Sequence[Mapping[str, Any]]]
Float = NDArray[np.float64]
HIGHER_IS_WORSE = frozenset({"hd95", "hd95_of_diagonal", "fp", "fn", "polyps_false", "pranet_mae", "calibration_ece",
                             "calibration_brier", *NEEDED})


def parse_methods(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """``NAME=FILE`` arguments, in order; a name given again is another seed.

    Raises:
        ConfigError: not of this form, or fewer than two methods.
    """
    methods: dict[str, list[Path]] = {}
    for text in arguments:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"expected NAME=FILE, such as gps=runs/gps/result.json, got {text!r}")
        methods.setdefault(name, []).append(Path(path))
    for name, paths in methods.items():
        if len({path.resolve() for path in paths}) < len(paths):
            raise ConfigError(f"{name}: the same file is given twice; each file is another seed")
    if len(methods) < 2:
        raise ConfigError(f"expected at least two methods to compare, got {', '.join(methods) or 'none'}")
    return methods


def read_document(path: Path) -> dict[str, Any]:
    """A report from its JSON file.

    Raises:
        DataError: unreadable, or not a report.
        GpsSegError: its numbers contradict each other.
    """
    document = read_json(path, "the JSON of gps-seg score or evaluate", DataError)
    if not isinstance(document, dict) or not {"n", "per_image", "dataset", "images"} <= set(document) or not document["images"]:
        raise DataError(f"{path}: expected the JSON of gps-seg score or evaluate, with one row an image")
    try:
        check_document(document)
    except GpsSegError as error:
        raise type(error)(f"{path}: {error}") from None
    return document


def compare_methods(
    documents: Documents, *, metric: str = "dice", groups: Path | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """:func:`compare_values` of a column of the images' rows.

    Args:
        documents: by method, one report a seed.

    Raises:
        DataError: the reports are of different images or target masks, or lack the metric.
        ConfigError: the reports are of different prompts, or some of none.
    """
    _check_prompts(documents)
    first = next(iter(documents.values()))[0]
    values = {name: np.array([_column(name, seed, first, metric) for seed in seeds]) for name, seeds in documents.items()}
    return compare_values(values, [image["id"] for image in first["images"]], metric=metric, groups=groups, resamples=resamples)


def compare_values(
    values: Mapping[str, Float], ids: Sequence[str], *, metric: str = "dice", groups: Path | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Every method's mean with its interval, and every pair of methods; a method alone gives no pair.

    Args:
        values: by method, one number a seed and image, (seeds, n).
        ids: of the n images.
        metric: what the numbers are; a name, but for ``higher_is_worse``.
        groups: CSV file of stem,group; intervals then draw whole groups.

    Returns:
        ``metric``, ``n``, ``methods`` (mean, low, high, seeds), ``pairs`` (a, b, mean difference a - b, low, high, p,
        p_holm, effect; positive favours a, or b where higher is worse, see ``higher_is_worse``), ``scores`` by method (n,).

    Raises:
        DataError: a method's numbers are not of these images, or an image has no group.
    """
    for name, matrix in values.items():
        if matrix.ndim != 2 or matrix.shape[1] != len(ids):
            raise DataError(f"{name}: expected numbers of {len(ids)} images for each seed, got the shape {matrix.shape}")
    drawn = joint(list(values.values()), read_groups(groups, ids) if groups else None, resamples=resamples)
    samples = dict(zip(values, drawn, strict=True))
    return {"metric": metric, "higher_is_worse": metric in HIGHER_IS_WORSE, "n": len(ids), "resamples": resamples,
            "grouped": groups is not None,
            "methods": {name: _mean(matrix, samples[name]) for name, matrix in values.items()},
            "pairs": _tested([_difference(values, samples, a, b) for a, b in combinations(values, 2)]),
            "scores": {name: matrix.mean(axis=0).tolist() for name, matrix in values.items()}}


def _check_prompts(documents: Documents) -> None:
    """A prompt that is made from the truth tells of it: its scores compare with scores of the same prompt alone."""
    prompts = {name: {prompt_of(seed) for seed in seeds} for name, seeds in documents.items()}
    if len(set().union(*prompts.values())) > 1:
        found = "; ".join(f"{name}: {', '.join(sorted(own))}" for name, own in prompts.items())
        raise ConfigError(f"expected reports of one prompt, got {found}: evaluate all with the same --prompt")


def _mean(matrix: Float, samples: Float) -> dict[str, Any]:
    low, high = interval(samples)
    return {"mean": float(matrix.mean()), "low": low, "high": high, "seeds": len(matrix)}


def _difference(values: Mapping[str, Float], samples: Mapping[str, Float], a: str, b: str) -> dict[str, Any]:
    low, high = interval(samples[a] - samples[b])
    differences = values[a].mean(axis=0) - values[b].mean(axis=0)
    p, effect = wilcoxon(differences)
    return {"a": a, "b": b, "difference": float(differences.mean()), "low": low, "high": high, "p": p, "effect": effect}


def _tested(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs with their p corrected for all of them."""
    corrected = holm([pair["p"] for pair in pairs])
    return [{**pair, "p_holm": p} for pair, p in zip(pairs, corrected, strict=True)]


def _column(name: str, document: Mapping[str, Any], first: Mapping[str, Any], metric: str) -> Float:
    rows = {image["id"]: image for image in document["images"]}
    if len(rows) < len(document["images"]):
        raise DataError(f"{name}: {len(document['images'])} rows of images have only {len(rows)} names")
    wanted = [image["id"] for image in first["images"]]
    if different := sorted(set(rows) ^ set(wanted)):
        raise DataError(f"{name}: expected the images of the first report, {len(different)} differ: {', '.join(different[:5])}")
    changed = [image["id"] for image in first["images"]
               if image["tp"] + image["fn"] != rows[image["id"]]["tp"] + rows[image["id"]]["fn"]]
    if changed:
        raise DataError(f"{name}: {len(changed)} target masks differ from the first report's: {', '.join(changed[:5])}")
    values = [rows[id_].get(metric) for id_ in wanted]
    if not all(isinstance(value, int | float) for value in values):
        raise DataError(f"{name}: not every image has a number for {metric!r}; its rows have {', '.join(rows[wanted[0]])}")
    return np.array(values, np.float64)


def table(found: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    wide = max([6, *map(len, found["methods"])])
    lines = [f"{'method':<{wide}} {'mean':>8}   {'95 % interval':<20} seeds"]
    lines += [f"{name:<{wide}} {row['mean']:>8.4f}   {_interval(row):<20} {row['seeds']:>5}"
              for name, row in found["methods"].items()]
    names = [f"{pair['a']} - {pair['b']}" for pair in found["pairs"]]
    wide = max([10, *map(len, names)])
    if names:
        lines += ["", f"{'difference':<{wide}} {'mean':>8}   {'95 % interval':<20} {'p':>7} {'p Holm':>7} {'effect':>7}"]
    lines += [f"{name:<{wide}} {pair['difference']:>+8.4f}   {_interval(pair):<20} {shown_p(pair['p']):>7} "
              f"{shown_p(pair['p_holm']):>7} {pair['effect']:>+7.3f}" for name, pair in zip(names, found["pairs"], strict=True)]
    return "\n".join([*lines, *_notes(found)])


def _notes(found: Mapping[str, Any]) -> list[str]:
    unit = "groups of images" if found["grouped"] else "images"
    worse = ", lower is better" if found["higher_is_worse"] else ""
    lines = [f"{found['metric']} of {found['n']} images{worse}; intervals: bootstrap of seeds and {unit}, {found['resamples']} "
             "resamples; p: Wilcoxon signed rank (Pratt) over images; effect: rank-biserial"]
    if any(row["seeds"] > 1 for row in found["methods"].values()):
        lines.append("p is about the means of these seeds on these images; only the intervals speak of other seeds")
    return lines


def markdown(found: Mapping[str, Any]) -> str:
    """The comparison as Markdown: a table of methods and one of differences."""
    methods = [(name, f"{row['mean']:.4f}", _interval(row), str(row["seeds"])) for name, row in found["methods"].items()]
    pairs = [(f"{pair['a']} - {pair['b']}", f"{pair['difference']:+.4f}", _interval(pair), shown_p(pair["p"]),
              shown_p(pair["p_holm"]), f"{pair['effect']:+.3f}") for pair in found["pairs"]]
    left = ("method", "difference", "95 % interval")
    lines = [*markdown_table(("method", "mean", "95 % interval", "seeds"), methods, left), ""]
    if pairs:
        lines += [*markdown_table(("difference", "mean", "95 % interval", "p", "p Holm", "effect"), pairs, left), ""]
    return "\n".join(lines)


def latex(found: Mapping[str, Any]) -> str:
    """The methods as a LaTeX table; p against the first method, corrected."""
    reference = next(iter(found["methods"]))
    against = {pair["b"]: pair for pair in found["pairs"] if pair["a"] == reference}
    rows = [f"{escape(name)} & {row['mean']:.4f} & {_interval(row).replace(' to ', '--')} & "
            f"{escape(shown_p(against[name]['p_holm'])) if name in against else '--'} \\\\"
            for name, row in found["methods"].items()]
    return latex_table(f"{found['metric']}, {found['n']} images; p: Wilcoxon against {reference}, Holm", "lrlr",
                       r"method & mean & 95\,\% interval & $p$", [r"\hline", *rows])


def publish(
    found: Mapping[str, Any], *, json: Path | None, markdown_file: Path | None, latex_file: Path | None, plots: Path | None
) -> None:
    """Write the files that were asked for; ``plots`` gets ``methods.png``."""
    write_forms(found, json, (markdown_file, markdown), (latex_file, latex))
    if plots:
        box_plots(found["scores"], plots / "methods.png", title=f"{found['n']} images", label=found["metric"])


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.4f} to {row['high']:.4f}"


def shown_p(value: float) -> str:
    """A p-value as tables show it: four places, or that it is smaller."""
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
