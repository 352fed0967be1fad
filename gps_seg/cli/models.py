"""``gps-seg models``; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli.options import Base, Device, RunFolder

app = typer.Typer(no_args_is_help=True, help="Ready models: list them, read their cards, check them, make one.",
                  rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Of gps-seg models list, or a ready model's folder.", metavar="NAME")]


@app.command("list")
def models_list() -> None:
    """Say which models are ready to be used by name, and how good they are."""
    from gps_seg.commands.models.listing import describe_models

    typer.echo(describe_models())


@app.command("card")
def models_card(name: Name) -> None:
    """Print a model's whole card: what it is for and not for, what it was made of, what was measured, its limits."""
    from gps_seg.commands.models.page import page
    from gps_seg.runs.card import read_card
    from gps_seg.runs.ready import ready_folder

    typer.echo(page(read_card(ready_folder(name))), nl=False)


@app.command("verify")
def models_verify(
    name: Name,
    data: Annotated[
        list[str] | None, typer.Option(help="A data set of the card, by name or folder; as often as wanted; default: all of its "
                                       "sets that are found here.", metavar="NAME_OR_FOLDER")
    ] = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also what was measured under corruptions: 55 more passes.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Check a model's files and base, and measure its card's numbers again; exit status 1 if any differs."""
    from gps_seg.commands.models.verify import verify

    if not verify(name, data or (), device=device, corruptions=corruptions, say=typer.echo):
        raise typer.Exit(1)


@app.command("pack")
def models_pack(
    run: RunFolder,
    name: Annotated[str, typer.Option(help="Of the model, by which it is used.")],
    words: Annotated[
        Path, typer.Option(help="YAML of what no command can know: summary, purpose, not_for, limits.", metavar="FILE")
    ],
    report: Annotated[
        list[str] | None, typer.Option(help="JSON of gps-seg evaluate on the packed model, by the data set's name; as often as "
                                       "wanted.", metavar="NAME=FILE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to put the model's folder in; default: your own ready models.")] = None,
    most_mb: Annotated[float, typer.Option(min=0.1, max=1000, help="Most megabytes of all its files.")] = 1.5,
    base: Base = None,
) -> None:
    """Make a ready model of a finished run: a delta in half the bytes, its calibration, and a card with the reports' numbers."""
    from gps_seg.commands.models.pack import Order, pack

    pack(run, Order(name, words, report or (), out, round(most_mb * 1e6), base), typer.echo)
