"""``gps-seg study``; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gps_seg.cli.options import Base, Config, Device, Json, Overrides, Tasks, find_run

Number = TypeVar("Number", int, float)
app = typer.Typer(no_args_is_help=True, help="Put claims of the paper to finished runs.", rich_markup_mode=None)


@app.callback()
def study() -> None:
    """Study finished runs."""


@app.command("gradient-order")
def gradient_order(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs of method full, all of one base.", metavar="RUN...", parser=find_run)
    ],
    k: Annotated[int, typer.Option(min=1, help="Connections a neuron that count as its best.")] = 1,
    loss: Annotated[
        str | None, typer.Option(help="What the scores differentiate, of classifiers: supcon (default) or cross_entropy.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Training images that the scores see; default: all.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of the pass that makes the scores; default: as gps-seg select.")
                          ] = None,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="PNG: ranks against ranks, correlation by score and by layer.")] = None,
    device: Device = "auto",
    base: Base = None,
) -> None:
    """Is the order of gradients before training the order of change under full fine-tuning (section 3 of the paper)?

    Rank correlation and overlap of the best, over all weights, in each layer and in each neuron, for every score; and in words
    whether the claim holds here, and which score predicts the change best.
    """
    from gps_seg.commands.study.gradient_order import Question, report

    given = {"loss": loss, "max_images": max_images, "batch_size": batch_size}
    question = Question(k, {name: value for name, value in given.items() if value is not None}, device, base)
    typer.echo(report(runs, question, json_path=json, plot_path=plot, say=typer.echo))


@app.command("shared-values")
def shared_values(
    config: Config,
    tasks: Tasks,
    rates: Annotated[str, typer.Option(help="Comma-separated learning rates to choose from.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, shared_values.json and shared_values.md.")],
    overrides: Overrides = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated; the first chooses the rates.")] = "0",
    least: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share what this part of the tasks chose, not by score.")
    ] = None,
) -> None:
    """What does one set of values for several tasks cost in accuracy, and save in bytes (the limitation the paper leaves open)?

    Own selections, common values with own rests, and common values alone, at the same steps, each with its best rate.
    """
    from gps_seg.commands.study.shared_values import Question, describe, study

    question = Question(config, overrides or (), tasks.split(","), _numbers("--rates", rates, float),
                        _numbers("--seeds", seeds, int), least)
    typer.echo(describe(study(question, out, typer.echo)))


def _numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    from gps_seg.errors import ConfigError

    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option}: expected numbers such as {kind(1)},{kind(2)}, got {text!r}") from None
