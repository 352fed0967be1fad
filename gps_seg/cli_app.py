"""Commands around the clinician's app; heavy imports happen inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from gps_seg.cli_options import Device, RunFolder


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    commands: dict[str, Callable[..., None]] = {"calibrate": calibrate}
    for name, command in commands.items():
        app.command(name)(command)


def calibrate(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Option(help="A name of gps-seg data list, or a folder with images/ and masks/; default: the run's.",
                                 metavar="NAME_OR_FOLDER")
    ] = None,
    split: Annotated[str, typer.Option(help="inner or train, of a known data set.")] = "inner",
    device: Device = "auto",
) -> None:
    """Fit the temperature that makes a run's probabilities honest, and keep it in the run folder for the app."""
    from gps_seg_app.calibrate import calibrate as fit
    from gps_seg_app.calibrate import describe

    typer.echo(describe(fit(run, data=data, split=split, device=device)))
