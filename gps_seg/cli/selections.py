"""Commands about what trains and what it does to features; heavy imports happen inside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli.options import Config, Device, Overrides, Resume, Selections, Tasks


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    commands: dict[str, Callable[..., None]] = {
        "select": select, "share-values": share_values, "overlap": overlap, "count": count, "plot-features": plot_features,
    }
    for name, command in commands.items():
        app.command(name)(command)


def select(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors; a folder with --tasks.")] = ...,  # type: ignore[assignment]
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated classification data sets that share a selection; NAME=K has a k of its "
                                 "own. CONFIG is for classify; {data} in its name stands for each of them.")
    ] = None,
    least: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="With --tasks: share what this part of them chose, not by score.")
    ] = None,
) -> None:
    """Run the selection pass alone and print what would train, block by block; with --tasks, what several tasks share.

    CONFIG is for train or for classify; where it names no task, its data set decides.
    """
    from gps_seg.commands.select import select_once, task_of
    from gps_seg.config import load_config
    from gps_seg.errors import ConfigError

    if tasks is not None:
        from gps_seg.commands.share import share_tasks

        share_tasks(config, overrides or (), tasks.split(","), out, least=least, say=typer.echo)
        return
    if least is not None:
        raise ConfigError("--least is read with --tasks alone: add the data sets, or leave it out")
    task = task_of(config, overrides or ())
    typer.echo(select_once(load_config(config, overrides or (), task=task, say=typer.echo), out, say=typer.echo))


def share_values(
    config: Config,
    tasks: Tasks,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder to make: common.safetensors, and a run folder a task.")] = ...,  # type: ignore[assignment]
    selections: Selections = None,
    least: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share what this part of the tasks chose, not by score.")
    ] = None,
    rests: Annotated[bool, typer.Option(help="Whether a task also trains what it alone chose, or the common part and its head.")
                     ] = True,
    resume: Resume = False,
) -> None:
    """Train several classification tasks together: one set of values for their common part, own rests and heads.

    CONFIG is for classify. Each task's run folder in --out is a run like any other.
    """
    from gps_seg.commands.share_values import Sharing
    from gps_seg.commands.share_values import share_values as share

    share(Sharing(config, overrides or (), tasks.split(","), least, selections, rests), out, resume=resume, say=typer.echo)


def overlap(
    selections: Annotated[
        list[str], typer.Argument(help="Files of gps-seg select or of runs, all of one base.", metavar="NAME=FILE")
    ],
    least: Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of them that must agree on a shared connection.")] = 0.5,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
) -> None:
    """Say what several selections share, block by block, and what one shared selection with small rests would hold."""
    from gps_seg.commands.overlap import report_overlap

    typer.echo(report_overlap(selections, least=least, plots=plots))


def count(
    configs: Annotated[
        list[str], typer.Argument(help="Settings for gps-seg classify; selections as NAME=FILE.", metavar="CONFIG_OR_NAME=FILE")
    ],
    plot: Annotated[Path | None, typer.Option(help="PNG of selected connections against k.")] = None,
) -> None:
    """Count by the formula what each task would train, without data or weights, under each convention of the paper."""
    from gps_seg.commands.count import report_counts

    typer.echo(report_counts(configs, plot))


def plot_features(
    runs: Annotated[list[str], typer.Argument(help="Finished runs of gps-seg classify on one data set.", metavar="NAME=RUN")],
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    images: Annotated[int, typer.Option(min=5, help="Most images.")] = 1000,
    device: Device = "auto",
) -> None:
    """Draw t-SNE of the features of several methods on the images they were scored on."""
    from gps_seg.commands.features import report_features
    from gps_seg.commands.overlap import named_paths

    typer.echo(report_features(named_paths(runs), out, images=images, device=device))
