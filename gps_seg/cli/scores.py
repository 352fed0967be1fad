"""Commands that score and compare; heavy imports happen inside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli.options import (
    DEFAULT_BLOCKS,
    Base,
    Blocks,
    Csv,
    Device,
    Groups,
    Json,
    KnownOrFolder,
    Latex,
    Markdown,
    Overrides,
    Plots,
    Presence,
    RunFolder,
    Threshold,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    commands: dict[str, Callable[..., None]] = {
        "evaluate": evaluate, "score": score, "compare": compare, "compare-scores": compare_scores,
    }
    for name, command in commands.items():
        app.command(name)(command)


def evaluate(
    run: RunFolder,
    data: KnownOrFolder = None,
    split: Annotated[str, typer.Option(help="test, inner or train, of a known data set.")] = "test",
    json: Json = None,
    csv: Csv = None,
    threshold: Threshold = None,
    prompt: Annotated[
        str | None, typer.Option(help="none, or simulated from the true masks: box or clicks; default: the run's.")
    ] = None,
    presence: Presence = None,
    flips: Annotated[
        bool | None, typer.Option("--flips/--no-flips", help="Average over mirror images, at four times the cost.")
    ] = None,
    device: Device = "auto",
    base: Base = None,
    blocks: Blocks = DEFAULT_BLOCKS,
    groups: Groups = None,
    markdown: Markdown = None,
    latex: Latex = None,
    plots: Plots = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also under blur, noise, bubbles, ... at severities 1 to 5: 55 more passes.")
    ] = False,
    max_images: Annotated[int | None, typer.Option(min=1, help="Most images for --corruptions, spread evenly.")] = None,
) -> None:
    """Score a run's model on labelled images."""
    from gps_seg.commands.evaluate import Wanted
    from gps_seg.commands.evaluate_sets import evaluate_sets
    from gps_seg.metrics.measures import parse_blocks

    wanted = Wanted(json, csv, markdown, latex, plots, groups, parse_blocks(blocks), corruptions, max_images)
    evaluate_sets(run, data or (), split=split, threshold=threshold, prompt=prompt, presence=presence, flips=flips,
                  device=device, base=base, wanted=wanted)


def score(
    pred: Annotated[Path, typer.Option(help="Folder of predicted masks or probability maps (images or .npy).")],
    gt: Annotated[Path, typer.Option(help="Folder of true masks, matched by file stem.")],
    json: Json = None,
    csv: Csv = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Count a missing prediction as empty.")] = False,
    resize_pred: Annotated[
        bool, typer.Option("--resize-pred", help="Resize predictions of another size (masks nearest, maps bilinear).")
    ] = False,
    blocks: Blocks = DEFAULT_BLOCKS,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Probability above which a pixel is polyp.")] = 0.5,
    tolerance: Annotated[float, typer.Option(min=0.0, max=1e6, help="Of the surface Dice (NSD), in pixels.")] = 2.0,
    groups: Groups = None,
    markdown: Markdown = None,
    latex: Latex = None,
    plots: Plots = None,
) -> None:
    """Score folders of masks, whoever made them. Needs no torch."""
    from gps_seg.commands.score import hold_maps, score_folders
    from gps_seg.metrics.groups import read_groups
    from gps_seg.metrics.measures import parse_blocks
    from gps_seg.metrics.report import report
    from gps_seg.metrics.tables import publish, table

    rows = score_folders(pred, gt, allow_missing=allow_missing, resize_predicted=resize_pred, blocks=parse_blocks(blocks),
                         threshold=threshold, tolerance=tolerance)
    names = read_groups(groups, [row.id for row in rows]) if groups else None
    settings = {"predicted": str(pred), "target": str(gt), "threshold": threshold, "nsd_tolerance_px": tolerance}
    document = report(rows, settings=settings, groups=names)
    publish(document, json=json, csv=csv, markdown_file=markdown, latex_file=latex)
    if plots:
        from gps_seg.metrics.plots.scores import plot_folders

        plot_folders(document, pred, gt, plots, full_scale=hold_maps(rows))
    typer.echo(table(document))


def compare(
    config: Annotated[Path, typer.Argument(help="YAML of a comparison; configs/compare_*.yaml are examples.", metavar="CONFIG")],
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(help="Folder for runs, scores, tables and plots; finished cells in it are skipped.")
    ] = ...,  # type: ignore[assignment]
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also draw the same images across methods, each with its Dice.")
    ] = False,
    devices: Annotated[str, typer.Option(help="Comma-separated, one run at a time on each: cpu, cuda:0,cuda:1, ...")] = "auto",
) -> None:
    """Train and score methods x seeds x data sets from one YAML, each method with its own learning rate."""
    from gps_seg.commands.compare.run import run_comparison
    from gps_seg.errors import TrainingError
    from gps_seg.runs.device import resolve_device

    places = [str(resolve_device("auto"))] if devices == "auto" else devices.split(",")
    document = run_comparison(config, out, places, typer.echo, overrides=overrides or (), sheet=sheet)
    typer.echo((out / "compare.md").read_text(encoding="utf-8"))
    if not any(found["rows"] for found in document["data"].values()):
        raise TrainingError(f"every cell failed; why stands above and in {out / 'compare.md'}")


def compare_scores(
    methods: Annotated[list[str], typer.Argument(help="Reports of score or evaluate; a name given again is another seed.",
                                                 metavar="NAME=FILE")],
    metric: Annotated[str, typer.Option(help="Column of the images' rows, such as dice, iou, nsd or hd95.")] = "dice",
    json: Json = None,
    groups: Groups = None,
    markdown: Markdown = None,
    latex: Latex = None,
    plots: Plots = None,
) -> None:
    """Compare methods on the same images: differences, intervals, paired tests with Holm's correction. Needs no torch."""
    from gps_seg.metrics import paired

    files = paired.parse_methods(methods)
    documents = {name: [paired.read_document(path) for path in paths] for name, paths in files.items()}
    found = paired.compare_methods(documents, metric=metric, groups=groups)
    paired.publish(found, json=json, markdown_file=markdown, latex_file=latex, plots=plots)
    typer.echo(paired.table(found))
