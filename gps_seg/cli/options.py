"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="YAML file of settings; configs/ holds examples.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings that replace the file's, such as train.lr=1e-3.", metavar="KEY=VALUE")
]
KnownOrFolder = Annotated[
    list[str] | None,
    typer.Option(help="A name of gps-seg data list, or a folder with images/ and masks/; as often as wanted; default: the run's.",
                 metavar="NAME_OR_FOLDER")
]
Tasks = Annotated[
    str, typer.Option(help="Comma-separated classification data sets, such as digits@0-4,digits@5-9,polyp_patches; NAME=K "
                      "has a k of its own. {data} in CONFIG's name stands for each of them.")
]
Selections = Annotated[
    Path | None, typer.Option(help="Folder that gps-seg select --tasks made of these tasks; default: select first.",
                              metavar="DIR")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Probability above which a pixel is polyp; default: the run's.")
]
Presence = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Quality below which the answer is that there is no polyp; default: the "
                               "run's, which gps-seg calibrate chooses; 0: always a mask.")
]


def find_run(name: str) -> Path:
    """The folder of a RUN on the command line; one whose training has not ended is said to be so, and used.

    Raises:
        CheckpointError: no folder, no ready model and none on the Hub.
    """
    from gps_seg.runs.folder import is_unfinished
    from gps_seg.runs.ready import run_folder

    folder = run_folder(name)
    if is_unfinished(folder):
        typer.echo(f"{folder}: its training has not ended, its best values so far are used; gps-seg train CONFIG --out {folder} "
                   "--resume goes on", err=True)
    return folder


OptionalRun = Annotated[
    Path | None, typer.Argument(help="A run folder, a ready model's name, or USER/NAME on the Hub; without one: this machine and "
                                "the known models.", metavar="RUN", parser=find_run)
]
RunFolder = Annotated[
    Path, typer.Argument(help="Folder that gps-seg train made, the name of a ready model (gps-seg models list), or "
                         "USER/NAME[@REVISION] on the Hugging Face Hub.",
                         metavar="RUN", parser=find_run)
]
Base = Annotated[
    Path | None, typer.Option(help="The base's weight file, where it is neither in the cache nor beside the run.", metavar="FILE")
]
Blocks = Annotated[
    str, typer.Option(help="Comma-separated: per_image, dataset, pranet, polyps, negatives, calibration; or all.")
]
Json = Annotated[Path | None, typer.Option(help="File to write all numbers to.")]
Csv = Annotated[Path | None, typer.Option(help="File to write one row an image to.")]
Markdown = Annotated[Path | None, typer.Option(help="File to write a Markdown table to.")]
Latex = Annotated[Path | None, typer.Option(help="File to write a LaTeX table to.")]
Plots = Annotated[Path | None, typer.Option(help="Folder to write plots to.")]
Groups = Annotated[
    Path | None, typer.Option(help="CSV of stem,group: sequences or patients, drawn as a whole for the intervals.")
]
DEFAULT_BLOCKS = "per_image,dataset,polyps,negatives"
Fast = Annotated[
    bool, typer.Option("--fast", help="The model looks at three quarters of its input size (144 px instead of 192): nearly twice "
                       "as fast, less accurate; gps-seg benchmark accuracy --fast says by how much.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
