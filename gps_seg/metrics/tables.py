"""A report as a table in the terminal, Markdown or LaTeX, and as files. Needs no torch.

Every table checks the numbers against each other first, and gives each mean its 95 % interval.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gps_seg.files import write_json, write_text
from gps_seg.metrics.contradictions import check_document

NEGATIVES = (
    ("false_positive_rate", "false-positive rate"), ("specificity", "specificity"), ("polyp_alarm_rate", "polyp alarm rate"),
    ("false_positives_per_frame", "false / frame"), ("area_mean", "false area, mean"), ("area_p95", "false area, 95th"),
    ("polyps_answered", "polyps answered"), ("polyps_met", "polyps met"), ("polyps_dice", "Dice, with a polyp"),
    ("quality_auroc", "quality AUROC"),
    ("quality_sensitivity_90", "quality, sens. at 90 %"), ("quality_sensitivity_95", "quality, sens. at 95 %"),
    ("presence_auroc", "presence AUROC"), ("confidence_sensitivity_90", "maximum, sens. at 90 %"),
    ("confidence_sensitivity_95", "maximum, sens. at 95 %"), ("area_auroc", "area AUROC"),
    ("area_sensitivity_90", "area, sens. at 90 %"), ("area_sensitivity_95", "area, sens. at 95 %"),
)
# Block, what it is, and its rows: key and label.
LAYOUT: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("per_image", "mean over images", (
        ("dice", "Dice"), ("iou", "IoU"), ("precision", "precision"), ("recall", "recall"), ("specificity", "specificity"),
        ("f2", "F2"), ("hd95", "HD95 (px)"), ("hd95_of_diagonal", "HD95 / diagonal"), ("nsd", "NSD"))),
    ("dataset", "pixels pooled over images", (
        ("dice", "Dice"), ("iou", "IoU"), ("precision", "precision"), ("recall", "recall"), ("specificity", "specificity"),
        ("f2", "F2"))),
    ("pranet", "stretched map, 256 thresholds", (
        ("mean_dice", "mean Dice"), ("mean_iou", "mean IoU"), ("max_dice", "max Dice"), ("max_iou", "max IoU"),
        ("weighted_f", "weighted F"), ("s_measure", "S-measure"), ("mean_e", "mean E"), ("max_e", "max E"), ("mae", "MAE"))),
    ("polyps", "polyp by polyp, IoU 0.5", (
        ("detection_rate", "detection rate"), ("precision", "precision"), ("f1", "F1"),
        ("false_positives_per_frame", "false / frame"), ("detection_rate_centre", "detection, centre"),
        ("false_positives_per_frame_centre", "false / frame, centre"), ("count_error", "count error"))),
    ("negatives", "frames without a polyp", NEGATIVES),
    ("unseen_centers", "centers that no training frame is from", NEGATIVES),
    ("clicks", "simulated from the truth", (
        ("dice_after_1", "Dice, 1 click"), ("dice_after_3", "Dice, 3 clicks"), ("dice_after_5", "Dice, 5 clicks"),
        ("iou_after_1", "IoU, 1 click"), ("iou_after_3", "IoU, 3 clicks"), ("iou_after_5", "IoU, 5 clicks"),
        ("noc_iou_90", "NoC@90 (IoU 0.90)"), ("noc_dice_95", "clicks to Dice 0.95"))),
    ("calibration", "band around lesions", (("ece", "ECE"), ("brier", "Brier"))),
)


@dataclass(frozen=True)
class Line:
    """One number of a table. ``value`` is None where it does not exist, ``interval`` where there is none."""

    block: str
    label: str
    value: float | None
    interval: tuple[float, float] | None

    @property
    def digits(self) -> int:
        """Pixels need fewer."""
        return 2 if self.label.endswith("(px)") else 4

    def shown(self) -> tuple[str, str]:
        """Value and interval as text."""
        value = "-" if self.value is None else f"{self.value:.{self.digits}f}"
        return value, " to ".join(f"{end:.{self.digits}f}" for end in self.interval or ())


def lines(document: Mapping[str, Any]) -> list[Line]:
    """Every number the document holds, in a fixed order. Raises GpsSegError if two contradict each other."""
    check_document(document)
    found = []
    for block, _, rows in LAYOUT:
        values, intervals = document.get(block, {}), document.get("intervals", {}).get(block, {})
        found += [Line(block, label, values[key], tuple(intervals[key]) if key in intervals else None)
                  for key, label in rows if key in values]
    return found


def table(document: Mapping[str, Any]) -> str:
    """The document for a terminal; the last line is the two means and what they are."""
    text, block, notes = [], "", {name: what for name, what, _ in LAYOUT}
    for line in lines(document):
        if line.block != block:
            block = line.block
            header = "95 % interval" if line.interval else ""
            text.append(f"{f'{block} ({notes[block]})':<42} {header}".rstrip())
        value, interval = line.shown()
        text.append(f"  {line.label:<24} {value:>10}      {interval}".rstrip())
    return "\n".join([*text, *_remarks(document), headline(document)])


def _remarks(document: Mapping[str, Any]) -> list[str]:
    mean, text = document["per_image"], []
    text.append(f"Dice median {mean['dice_median']:.4f}, sd {mean['dice_sd']:.4f}, 5th percentile {mean['dice_p5']:.4f}; "
                f"IoU below 0.5: {100 * mean['iou_below_half']:.1f} % of images")
    if document["empty_targets"]:
        text.append(f"{document['empty_targets']} images have an empty target: 1 if nothing is predicted on them, else 0")
    if mean.get("one_mask_empty"):
        text.append(f"{mean['one_mask_empty']} images have one mask empty: HD95 is the image's diagonal, NSD 0")
    if polyps := document.get("polyps"):
        sizes = ", ".join(f"{name.replace('_', ' ')} {_rate(found['detection_rate'])} of {found['polyps']}"
                          for name, found in polyps["by_size"].items())
        text.append(f"{polyps['polyps']} polyps in {polyps['frames']} frames; detection rate by area: {sizes}")
    if "negatives" in document and document["negatives"]["frames"] == 0:
        text.append("negatives: every frame has a polyp")
    if clicks := document.get("clicks"):
        text.append(f"clicks to a goal: at most {clicks['most']}, which is also what an image counts that never gets there: "
                    f"{clicks['never_iou_90']} of {clicks['images']} (IoU 0.90), {clicks['never_dice_95']} (Dice 0.95)")
    text += [f"{block} omitted: {why}" for block, why in document.get("omitted", {}).items()]
    if made := document.get("statistics"):
        unit = "groups" if made["grouped"] else "images"
        text.append(f"intervals: bootstrap of {made['clusters']} {unit}, {made['resamples']} resamples" if document["intervals"]
                    else f"no intervals: they need at least two {unit}")
    if legacy := document.get("gps_legacy"):
        text.append(f"gps_legacy: the released scorer would say mDice {legacy['dice']:.4f} mIoU {legacy['iou']:.4f}; "
                    f"{legacy['warning']}")
    return [*text, f"protocol: {shown}"] if (shown := _settings(document)) else text


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def headline(document: Mapping[str, Any]) -> str:
    """The two means, with the name of their aggregation, the number of images, and the prompt, if there was one."""
    mean, prompt = document["per_image"], prompt_of(document)
    told = "" if prompt == "none" else f", prompt: {prompt}"
    return f"mDice {mean['dice']:.4f} mIoU {mean['iou']:.4f} (per_image, {document['n']} images{told}){_unseen(document)}"


def prompt_of(document: Mapping[str, Any]) -> str:
    """What the masks were asked with: "none", or what was simulated from the truth. Scores of two prompts do not compare."""
    return str(document.get("settings", {}).get("prompt", "none"))


def _unseen(document: Mapping[str, Any]) -> str:
    """What counts of frames without a polyp where some centers trained: the others."""
    found = document.get("unseen_centers")
    if not found or not found["frames"]:
        return ""
    met = "" if found.get("polyps_met") is None else f", the polyp met in {100 * found['polyps_met']:.1f} % of the others"
    return (f"; unseen centers {', '.join(map(str, found['centers']))}: {100 * found['specificity']:.1f} % of {found['frames']} "
            f"frames without a polyp answered with none{met}")


def markdown(document: Mapping[str, Any]) -> str:
    """A Markdown table: block, metric, value, interval."""
    rows = [(line.block, line.label, *line.shown()) for line in lines(document)]
    table = markdown_table(("block", "metric", "value", "95 % interval"), rows, left=("block", "metric", "95 % interval"))
    return "\n".join([*table, "", _caption(document), ""])


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str] = ()) -> list[str]:
    """Lines of a Markdown table; columns named in ``left`` hold text, all others numbers, which stand right."""
    marks = "|".join("---" if column in left else "--:" for column in columns)
    return [f"| {' | '.join(columns)} |", f"|{marks}|",
            *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in rows)]


def latex(document: Mapping[str, Any]) -> str:
    """A LaTeX table: block, metric, value, interval."""
    body, block = [], ""
    for line in lines(document):
        value, interval = line.shown()
        rule = "\\hline\n" if line.block != block else ""
        name, block = ("" if line.block == block else line.block), line.block
        cells = " & ".join(escape(cell) for cell in (name, line.label, value, interval.replace(" to ", "--")))
        body.append(f"{rule}{cells} \\\\")
    return latex_table(_caption(document), "llrl", r"block & metric & value & 95\,\% interval", body)


def latex_table(caption: str, kinds: str, columns: str, rows: Iterable[str]) -> str:
    """A LaTeX ``tabular`` that needs no package, with its caption as a comment.

    Args:
        kinds: of the columns, such as "llr".
        columns: their names, and ``rows``: lines of LaTeX.
    """
    return "\n".join([f"% {caption}", rf"\begin{{tabular}}{{{kinds}}}", rf"{columns} \\", *rows, r"\end{tabular}", ""])


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
               ">": r"\textgreater{}"}
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


def _caption(document: Mapping[str, Any]) -> str:
    return "; ".join([f"{document['n']} images", *filter(None, [_settings(document)])])


def _settings(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in document["settings"].items() if value not in ("", None))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of one row an image, as a document holds them under ``images``; at least one image."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def publish(
    document: Mapping[str, Any], *, json: Path | None = None, csv: Path | None = None, markdown_file: Path | None = None,
    latex_file: Path | None = None,
) -> None:
    """Write the files that were asked for."""
    write_forms(document, json, (markdown_file, markdown), (latex_file, latex))
    if csv:
        write_rows(csv, document["images"])


def write_forms(
    document: Mapping[str, Any], json: Path | None, *texts: tuple[Path | None, Callable[[Mapping[str, Any]], str]]
) -> None:
    """Write a document as JSON and as texts, each to the file given for it, if one is."""
    if json:
        write_json(json, document)
    for path, make in texts:
        if path:
            write_text(path, make(document))
