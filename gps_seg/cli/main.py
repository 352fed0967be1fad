"""The command line. Heavy imports happen inside commands, so that ``--help`` and completion answer at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gps_seg.cli import benchmarks, data, hub, models, scores, selections, studies, web_app
from gps_seg.cli.options import Base, Config, Device, OptionalRun, Overrides, Presence, Resume, RunFolder, Threshold
from gps_seg.errors import GpsSegError

app = typer.Typer(
    name="gps-seg", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fine-tune SAM for polyp segmentation by gradient-based parameter selection (GPS, CVPR 2024).",
)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(benchmarks.app, name="benchmark")
app.add_typer(studies.app, name="study")


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = ...,  # type: ignore[assignment]
    resume: Resume = False,
) -> None:
    """Select parameters, fine-tune, and report once: on the test part, or as data.protocol says."""
    _train(config, overrides, out, resume=resume, task="segmentation")


@app.command()
def classify(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = ...,  # type: ignore[assignment]
    resume: Resume = False,
) -> None:
    """Another name of train, for settings that name no task; configs/classification/ holds the paper's data sets."""
    _train(config, overrides, out, resume=resume, task="classification")


def _train(config: Path, overrides: list[str] | None, out: Path, *, resume: bool, task: str) -> None:
    from gps_seg.commands.train import train
    from gps_seg.runs.folder import load_settings

    train(load_settings(config, overrides or (), task=task, say=typer.echo), out, resume=resume)


selections.register(app)
scores.register(app)
web_app.register(app)
hub.register(app)


@app.command()
def predict(
    run: RunFolder,
    inputs: Annotated[list[Path], typer.Argument(help="Images or folders of images.", metavar="INPUT")],
    out: Annotated[Path, typer.Option(help="Folder for masks (PNG, 0/255, original size) and overlays, or predictions.csv.")],
    threshold: Threshold = None,
    presence: Presence = None,
    overlays: Annotated[bool, typer.Option(help="Write overlays too.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions that are there already.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: predict what manifest.jsonl in --out lacks.")] = False,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16; default: the run's own.")] = None,
    base: Base = None,
    engine: Annotated[
        str, typer.Option(help="torch; or onnx or openvino, which read a folder of gps-seg export RUN --onnx DIR as RUN.")
    ] = "torch",
    coco: Annotated[
        Path | None, typer.Option(help="File to write all masks to as COCO JSON: run lengths, polygons, boxes, scores.",
                                  metavar="FILE")
    ] = None,
) -> None:
    """Segment, or classify, images that have no labels; also thousands, in several processes, and on after a kill."""
    from gps_seg.commands.predict import find_images, open_model, predict_files, problems
    from gps_seg.commands.predict_kinds import Wanted
    from gps_seg.commands.progress import Progress
    from gps_seg.errors import DataError
    from gps_seg.runs.device import launched

    images, processes = find_images(inputs), launched(device)
    wanted = Wanted(threshold, overlays=overlays, overwrite=overwrite, resume=resume, coco=coco)
    loaded = open_model(run, engine, device=device, base=base, presence=presence, precision=precision)
    progress = Progress(len(images[processes.rank :: processes.count]), "predict", shown=processes.is_main)
    for answer in predict_files(loaded, images, out, wanted, processes):
        if answer.text:
            progress.say(f"{answer.path.name}: {answer.text}")
        progress.step(earlier=answer.earlier)
    progress.close()
    failed = problems(out, images) if processes.is_main else []
    progress.say(f"{len(images) - len(failed)} of {len(images)} images predicted into {out}")
    if failed:
        raise DataError(f"{len(failed)} of {len(images)} inputs could not be read: " + "; ".join(failed[:5]))


@app.command()
def export(
    run: RunFolder,
    merged: Annotated[
        Path | None, typer.Option(help="File to write, .pth (loads in segment_anything) or .safetensors.", metavar="FILE")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Folder to make: ONNX files, for gps-seg predict --engine onnx and for other programs.",
                                  metavar="DIR")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Into that folder too: index.html, which segments pictures in a browser, without "
                           "torch and without a network.")
    ] = False,
    runtime: Annotated[
        Path | None, typer.Option(help="For --page, where there is no network: the .tgz of npm pack onnxruntime-web, or a "
                                  "folder with it unpacked; default: the cache, else npm.", metavar="PATH")
    ] = None,
    transformers: Annotated[
        Path | None, typer.Option(help="Folder to make, for from_pretrained of transformers' SamModel or Sam2Model.",
                                  metavar="DIR")
    ] = None,
    base: Base = None,
) -> None:
    """Write the tuned model as one stock state dict, as ONNX files, or as a folder of transformers."""
    from gps_seg.commands.export import Exports, export_run

    for line in export_run(run, Exports(merged, onnx, transformers, page, runtime), base):
        typer.echo(line)


@app.command()
def info(
    run: OptionalRun = None,
) -> None:
    """Describe a run, or this machine, the known models and the data sets found."""
    from gps_seg.commands.info import describe_machine, describe_run

    typer.echo(describe_run(run) if run else describe_machine())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = Path("runs/demo"),
    config: Annotated[Path, typer.Option(help="Settings.")] = Path("configs/quickstart.yaml"),
) -> None:
    """Train, evaluate and draw, on Kvasir-SEG if it can be had, else on phantoms."""
    from gps_seg.commands.demo import run_demo

    run_demo(config, out)


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit status 2, never a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network at import otherwise
    try:
        app(standalone_mode=True)
    except GpsSegError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        _stop("stopped; what was written before is intact")
    except MemoryError:
        _stop("not enough memory: use a smaller model.input_size, train.batch_size or more train.accumulate")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        _stop("not enough GPU memory: use a smaller model.input_size or train.batch_size, more train.accumulate, "
              "train.recompute=cheap or blocks, or selection.last_blocks")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _stop(f"{error.filename or 'input/output'}: {error.strerror}")


def _stop(text: str) -> Any:
    line = " ".join(text.split())
    sys.stdout.flush()
    print(f"gps-seg: error: {line}", file=sys.stderr)
    sys.exit(2)
