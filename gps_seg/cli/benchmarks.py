"""``gps-seg benchmark``; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gps_seg.cli.options import Device, Fast, Json, RunFolder
from gps_seg.config import Recompute

app = typer.Typer(no_args_is_help=True, help="Measure what training and scoring cost.", rich_markup_mode=None)


@app.callback()
def benchmark() -> None:
    """Measure costs."""


@app.command("cost")
def benchmark_cost(
    model: Annotated[str, typer.Option(help="A known SAM or any timm name; random weights.")] = "lite_medsam",
    size: Annotated[int | None, typer.Option(help="Input size in pixels; default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    methods: Annotated[
        str, typer.Option(help="Comma-separated; the first is the reference. Beside methods there are floor (nothing trains) "
                               "and contrastive (a batch of that selection pass). gps:cheap is gps with --recompute cheap, "
                               "vpt_deep:tokens=50 has an option of its own.")
    ] = "floor,gps,full,bitfit,lora",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "fp32",
    repetitions: Annotated[int, typer.Option(min=1)] = 7,
    compiled: Annotated[bool, typer.Option("--compiled", help="Under torch.compile.")] = False,
    frozen_storage: Annotated[str, typer.Option(help="fp32, or compute: gps keeps frozen weights in --precision.")] = "fp32",
    recompute: Annotated[Recompute, typer.Option(help="What the blocks of SAM's encoder compute again backwards.")] = "none",
    inference: Annotated[
        bool, typer.Option("--inference", help="A prediction as well: time and peak memory, merged where the method merges.")
    ] = False,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of time against memory, the floor drawn in; --inference: both.")] = None,
    device: Device = "auto",
) -> None:
    """Measure what a training step costs, method by method, side by side: time, operations, memory, state, delta."""
    from gps_seg.commands.benchmarks.cost import benchmark
    from gps_seg.commands.benchmarks.step import Setting
    from gps_seg.errors import ConfigError
    from gps_seg.runs.device import resolve_device, resolve_precision

    if frozen_storage not in ("fp32", "compute"):
        raise ConfigError(f"--frozen-storage: expected fp32 or compute, got {frozen_storage!r}")
    place = resolve_device(device)
    setting = Setting(model, size, batch, resolve_precision(precision, place), str(place), compiled=compiled,
                      frozen_storage=frozen_storage, recompute=recompute)
    typer.echo(benchmark(setting, methods.split(","), repetitions=repetitions, inference=inference, json_path=json,
                         plot_path=plot))


@app.command("score")
def benchmark_score(
    images: Annotated[int, typer.Option(min=2, help="Pairs to draw and score.")] = 1000,
    size: Annotated[int, typer.Option(min=16, help="Side in pixels.")] = 352,
    json: Json = None,
) -> None:
    """Measure how long scoring takes, from files to a report with intervals. Needs no torch."""
    from gps_seg.commands.benchmarks import scoring as score_benchmark

    typer.echo(score_benchmark.benchmark(images, size, json_path=json))


@app.command("app")
def benchmark_app(
    run: RunFolder,
    users: Annotated[int, typer.Option(min=1, max=64, help="At the same time.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long they work.")] = 60,
    repetitions: Annotated[int, typer.Option(min=1, max=50, help="Pictures of the single user.")] = 5,
    json: Json = None,
    device: Device = "auto",
    fast: Fast = False,
) -> None:
    """Measure how long users of the clinician's app wait, one alone and many at once, on this machine's own address."""
    from gps_seg_app.benchmarks import load as app_benchmark

    typer.echo(app_benchmark.benchmark(run, users=users, seconds=seconds, repetitions=repetitions, device=device, fast=fast,
                                       json_path=json))


@app.command("answers")
def benchmark_answers(
    run: RunFolder,
    data: Annotated[str, typer.Option(help="A known data set or a folder with images/ and masks/; empty masks: no polyp.")],
    json: Json = None,
    device: Device = "auto",
) -> None:
    """Count the app's three answers on labelled frames with and without a polyp, at several thresholds."""
    from gps_seg_app.benchmarks import answers

    typer.echo(answers.benchmark(run, data, device=device, json_path=json))


@app.command("accuracy")
def benchmark_accuracy(
    run: RunFolder,
    data: Annotated[str | None, typer.Option(help="A known data set or a folder with images/ and masks/; default: the run's test "
                                             "images.")] = None,
    json: Json = None,
    device: Device = "auto",
    fast: Annotated[bool, typer.Option("--fast", help="Score what gps-seg app --fast answers as well.")] = False,
) -> None:
    """Measure what the app's quick encoder and precision cost in Dice against the model as it was trained, and save in time."""
    from gps_seg_app.benchmarks import accuracy

    typer.echo(accuracy.benchmark(run, data=data, device=device, fast=fast, json_path=json))


@app.command("video")
def benchmark_video(
    run: RunFolder,
    clip: Annotated[Path | None, typer.Option(help="Default: one is drawn, of 1920 x 1072 pixels.")] = None,
    frames: Annotated[int, typer.Option(min=4, max=5000, help="Of the drawn clip.")] = 60,
    json: Json = None,
    device: Device = "auto",
    fast: Fast = False,
) -> None:
    """Measure how many frames of a clip the app works through in a second, and the model's share of it."""
    from gps_seg_app.benchmarks import video

    typer.echo(video.benchmark(run, clip=clip, frames=frames, device=device, fast=fast, json_path=json))


@app.command("runtimes")
def benchmark_runtimes(
    data: Annotated[str, typer.Option(help="A known data set or a folder with images/ and masks/, whose masks are compared.")],
    images: Annotated[int, typer.Option(min=1, max=1000, help="Of the data set, evenly spread.")] = 40,
    repetitions: Annotated[int, typer.Option(min=1, max=100, help="Of each runtime, in turns.")] = 10,
    json: Json = None,
) -> None:
    """Measure LiteMedSAM's encoder here, in ONNX Runtime and in OpenVINO: seconds, and whether the masks are the same."""
    from gps_seg_app.benchmarks import runtimes

    typer.echo(runtimes.benchmark(data, images=images, repetitions=repetitions, json_path=json))
