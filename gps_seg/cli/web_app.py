"""Commands around the clinician's app; heavy imports happen inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli.options import Base, Device, Fast, Overrides, RunFolder


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    commands: dict[str, Callable[..., None]] = {"app": app_page, "calibrate": calibrate}
    for name, command in commands.items():
        app.command(name)(command)


def app_page(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run folders or ready models; several of one base can be compared. NAME=RUN names "
                                         "one. Default: the ready model polyp.", metavar="RUN")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")] = None,
    user_file: Annotated[
        Path | None, typer.Option(help="Lines NAME:PASSWORD, readable by you alone; or one such line in $GPS_SEG_APP_USER.")
    ] = None,
    save_folder: Annotated[Path | None, typer.Option(help="Where corrected pictures are kept as training pairs.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Where the threshold begins; default: the run's own. Higher: fewer "
                                   "false alarms, more polyps missed; gps-seg benchmark answers counts both.")
    ] = None,
    fast: Fast = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page.")] = False,
    device: Device = "auto",
) -> None:
    """Open the clinician's page, on this machine only: 127.0.0.1, no link to share, no outgoing connection."""
    import os

    from gps_seg_app.access import read_users
    from gps_seg_app.server.serve import serve
    from gps_seg_app.settings import Settings

    serve(Settings(name_runs(runs or ()), port, read_users(user_file, os.environ), save_folder, device,
                   open_browser=not no_browser, threshold=threshold, fast=fast),
          lambda text: typer.echo(f"gps-seg app: {text}"))


def name_runs(runs: Sequence[str]) -> dict[str, Path]:
    """Run folders by a name for the page: NAME=RUN, or the folder's own name, counted where two are alike; none: the default.

    Raises:
        ConfigError: a folder holds no run, a name is given twice, or there is no run and no ready model to begin with.
        CheckpointError: neither a folder nor a ready model.
    """
    import json

    from gps_seg.cli.options import find_run
    from gps_seg.errors import ConfigError
    from gps_seg.runs.hub import name_of
    from gps_seg.runs.ready import DEFAULT, ready_models

    if not runs and DEFAULT not in ready_models():
        raise ConfigError(f"app: expected RUN, got none, and no ready model {DEFAULT} is installed, which it would open by "
                          "itself; gps-seg train CONFIG --out DIR makes a run, gps-seg models list shows ready models")
    named: dict[str, Path] = {}
    for text in runs or (DEFAULT,):
        given, _, rest = text.rpartition("=")
        folder = find_run(rest if given and not Path(text).exists() else text)
        if not (folder / "adapter_config.json").is_file():
            raise ConfigError(f"{folder}: expected a run folder, found no adapter_config.json; "
                              "gps-seg train CONFIG --out DIR makes one")
        if json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("task", "segmentation") != "segmentation":
            raise ConfigError(f"{folder}: expected a run that segments, this one is a classifier: the app shows masks")
        name = given if given and not Path(text).exists() else (name_of(folder) or folder.resolve().name).rpartition("/")[2]
        if name in named and given:
            raise ConfigError(f"two runs are named {name}: give each its own, as NAME=FOLDER")
        named[name if name not in named else f"{name} ({len(named) + 1})"] = folder
    return named


def calibrate(
    run: RunFolder,
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option(help="A name of gps-seg data list, or a folder with images/ and masks/; default: the run's.",
                                 metavar="NAME_OR_FOLDER")
    ] = None,
    split: Annotated[str, typer.Option(help="inner or train, of a known data set.")] = "inner",
    quality: Annotated[
        bool, typer.Option("--quality", help="First train the quality head alone, which tells frames without a polyp, on the "
                           "run's images and data.negatives; masks stay the same. KEY=VALUE: data.negative*, train.max_steps "
                           "(300), train.lr, train.batch_size.")
    ] = False,
    device: Device = "auto",
    base: Base = None,
) -> None:
    """Fit a run's temperature, which makes its probabilities honest, and choose its thresholds; all stay in its folder."""
    from gps_seg.commands.calibrate import calibrate as fit
    from gps_seg.errors import ConfigError
    from gps_seg.runs.calibration import describe

    if overrides and not quality:
        raise ConfigError(f"calibrate: {', '.join(overrides)}: settings are read with --quality alone, to train its head")
    settings = (overrides or ()) if quality else None
    typer.echo(describe(fit(run, data=data, split=split, device=device, quality=settings, base=base)))
