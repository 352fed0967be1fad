"""Commands about what trains: select, overlap; heavy imports happen inside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli_options import Config, Overrides


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    commands: dict[str, Callable[..., None]] = {"select": select, "overlap": overlap}
    for name, command in commands.items():
        app.command(name)(command)


Least = Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of them that must agree on a shared connection.")]


def select(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors; a folder with --tasks.")] = ...,  # type: ignore[assignment]
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated classification data sets that share a selection; CONFIG is for classify.")
    ] = None,
    least: Least = 0.5,
) -> None:
    """Run the selection pass alone and print what would train, block by block; with --tasks, what several tasks share."""
    from gps_seg import checkpoint, recipes, selection
    from gps_seg.config import load_config
    from gps_seg.errors import ConfigError

    if tasks is not None:
        from gps_seg.sharing import share_tasks

        share_tasks(config, overrides or (), tasks.split(","), out, least=least, say=typer.echo)
        return
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another --out")
    settings = load_config(config, overrides or ())
    bench = recipes.prepare(settings)
    chosen = recipes.make_selection(bench)
    checkpoint.save_selection(out, chosen)
    typer.echo(selection.table(chosen, bench.model))
    typer.echo(recipes.describe_counts(settings.method, selection.counts(chosen, bench.model)))


def overlap(
    selections: Annotated[
        list[str], typer.Argument(help="Files of gps-seg select or of runs, all of one base.", metavar="NAME=FILE")
    ],
    least: Least = 0.5,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
) -> None:
    """Say what several selections share, block by block, and what one shared selection with small rests would hold."""
    from gps_seg.selection_report import report_overlap

    typer.echo(report_overlap(selections, least=least, plots=plots))
