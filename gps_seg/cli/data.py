"""``gps-seg data``; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="List, download and check data sets.", rich_markup_mode=None)


@app.command("list")
def data_list() -> None:
    """Say which data sets are known and where they were found."""
    from gps_seg.commands.info import describe_data

    typer.echo(describe_data())


@app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help="kvasir-seg")],
    root: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
) -> None:
    """Download a data set, checked by sha256; goes on where it stopped."""
    from gps_seg.data.download import download_kvasir
    from gps_seg.errors import DataError

    if name != "kvasir-seg":
        raise DataError(f"can download kvasir-seg, got {name!r}; see data/README.md for the other sets")
    typer.echo("Kvasir-SEG (46 MB): research and education only; commercial use needs its owners' written permission.")
    typer.echo(f"ready: {download_kvasir(root)}")


@app.command("check")
def data_check(
    data: Annotated[list[str], typer.Argument(help="Names of gps-seg data list, or folders.", metavar="NAME_OR_FOLDER...")],
    json: Json = None,
) -> None:
    """Look for unreadable files, wrong sizes, masks that are not masks, and the same images in two places."""
    from gps_seg.commands.check_data import check_data

    typer.echo(check_data(data, json=json))
