"""The command line. Heavy imports happen inside commands, so that ``--help`` and completion answer at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gps_seg.errors import GpsSegError

app = typer.Typer(
    name="gps-seg", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fine-tune SAM for polyp segmentation by gradient-based parameter selection (GPS, CVPR 2024).",
)
data_app = typer.Typer(no_args_is_help=True, help="List, download and check data sets.", rich_markup_mode=None)
app.add_typer(data_app, name="data")
benchmark_app = typer.Typer(no_args_is_help=True, help="Measure what training and scoring cost.", rich_markup_mode=None)
app.add_typer(benchmark_app, name="benchmark")

Config = Annotated[Path, typer.Argument(help="YAML file of settings; configs/ holds examples.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings that replace the file's, such as train.lr=1e-3.", metavar="KEY=VALUE")
]
KnownOrFolder = Annotated[
    list[str] | None,
    typer.Option(help="A name of gps-seg data list, or a folder with images/ and masks/; as often as wanted; default: the run's.",
                 metavar="NAME_OR_FOLDER")
]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Probability above which a pixel is polyp; default: the run's.")
]
OptionalRun = Annotated[
    Path | None, typer.Argument(help="A run folder; without one: this machine and the known models.", metavar="RUN")
]
RunFolder = Annotated[Path, typer.Argument(help="Folder that gps-seg train made.", metavar="RUN")]
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
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = ...,  # type: ignore[assignment]
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Select parameters, fine-tune, and evaluate once on the test list."""
    from gps_seg import recipes
    from gps_seg.config import load_config

    recipes.train(load_config(config, overrides or ()), out, resume=resume)


@app.command()
def select(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")] = ...,  # type: ignore[assignment]
) -> None:
    """Run the selection pass alone and print what would train, block by block."""
    from gps_seg import checkpoint, recipes, selection
    from gps_seg.config import load_config
    from gps_seg.errors import ConfigError

    if out.exists():
        raise ConfigError(f"{out} is there already: choose another --out")
    settings = load_config(config, overrides or ())
    bench = recipes.prepare(settings)
    chosen = recipes.make_selection(bench)
    checkpoint.save_selection(out, chosen)
    typer.echo(selection.table(chosen, bench.model))
    typer.echo(recipes.describe_counts(settings.method, selection.counts(chosen, bench.model)))


@app.command()
def classify(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = ...,  # type: ignore[assignment]
) -> None:
    """Fine-tune a classifier by the same selection core; configs/classification/ holds the paper's data sets."""
    from gps_seg.class_config import load_class_config
    from gps_seg.classify import train_classifier

    train_classifier(load_class_config(config, overrides or ()), out)


@app.command()
def overlap(
    selections: Annotated[
        list[str], typer.Argument(help="Files of gps-seg select or of runs, all of one base.", metavar="NAME=FILE")
    ],
    least: Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of them that must agree on a shared connection.")] = 0.5,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
) -> None:
    """Say what several selections share, block by block, and what one shared selection with small rests would hold."""
    from gps_seg.selection_report import report_overlap

    typer.echo(report_overlap(selections, least=least, plots=plots))


@app.command()
def evaluate(
    run: RunFolder,
    data: KnownOrFolder = None,
    split: Annotated[str, typer.Option(help="test, inner or train, of a known data set.")] = "test",
    json: Json = None,
    csv: Csv = None,
    threshold: Threshold = None,
    prompt: Annotated[str, typer.Option(help="none, or box: the box around each true mask.")] = "none",
    device: Device = "auto",
    blocks: Blocks = DEFAULT_BLOCKS,
    groups: Groups = None,
    markdown: Markdown = None,
    latex: Latex = None,
    plots: Plots = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also under blur, noise, bubbles, ... at severities 1 to 5: 55 more passes.")
    ] = False,
    max_images: Annotated[int | None, typer.Option(min=1, help="Most images for --corruptions, spread evenly.")] = None,
) -> None:
    """Score a run's model on labelled images."""
    from gps_seg.blocks import parse_blocks
    from gps_seg.evaluation_sets import evaluate_sets

    evaluate_sets(run, data or (), split=split, json=json, csv=csv, threshold=threshold, prompt=prompt, device=device,
                  blocks=parse_blocks(blocks), groups=groups, markdown=markdown, latex=latex, plots=plots,
                  corruptions=corruptions, max_images=max_images)


@app.command()
def score(
    pred: Annotated[Path, typer.Option(help="Folder of predicted masks or probability maps (images or .npy).")],
    gt: Annotated[Path, typer.Option(help="Folder of true masks, matched by file stem.")],
    json: Json = None,
    csv: Csv = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Count a missing prediction as empty.")] = False,
    resize_pred: Annotated[
        bool, typer.Option("--resize-pred", help="Resize predictions of another size (masks nearest, maps bilinear).")
    ] = False,
    blocks: Blocks = DEFAULT_BLOCKS,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Probability above which a pixel is polyp.")] = 0.5,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Of the surface Dice (NSD), in pixels.")] = 2.0,
    groups: Groups = None,
    markdown: Markdown = None,
    latex: Latex = None,
    plots: Plots = None,
) -> None:
    """Score folders of masks, whoever made them. Needs no torch."""
    from gps_seg import scoring
    from gps_seg.blocks import parse_blocks

    rows = scoring.score_folders(pred, gt, allow_missing=allow_missing, resize_predicted=resize_pred,
                                 blocks=parse_blocks(blocks), threshold=threshold, tolerance=tolerance)
    names = scoring.read_groups(groups, [row.id for row in rows]) if groups else None
    settings = {"predicted": str(pred), "target": str(gt), "threshold": threshold, "nsd_tolerance_px": tolerance}
    document = scoring.report(rows, settings=settings, groups=names)
    scoring.publish(document, rows, json=json, csv=csv, markdown_file=markdown, latex_file=latex)
    if plots:
        from gps_seg.plots_scores import plot_folders

        plot_folders(document, pred, gt, plots, full_scale=scoring.hold_maps(rows))
    typer.echo(scoring.table(document))


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="YAML of a comparison; configs/compare_*.yaml are examples.", metavar="CONFIG")],
    out: Annotated[Path, typer.Option(help="Folder for runs, scores, tables and plots; finished cells in it are skipped.")],
    devices: Annotated[str, typer.Option(help="Comma-separated, one run at a time on each: cpu, cuda:0,cuda:1, ...")] = "auto",
) -> None:
    """Train and score methods x seeds x data sets from one YAML, each method with its own learning rate."""
    from gps_seg.engine import resolve_device
    from gps_seg.grid_report import run_comparison

    places = [str(resolve_device("auto"))] if devices == "auto" else devices.split(",")
    run_comparison(config, out, places, typer.echo)
    typer.echo((out / "compare.md").read_text(encoding="utf-8"))


@app.command("compare-scores")
def compare_scores(
    methods: Annotated[list[str], typer.Argument(help="Reports of score or evaluate; a name given again is another seed.",
                                                 metavar="NAME=FILE")],
    metric: Annotated[str, typer.Option(help="Column of the images' rows, such as dice, iou, nsd or hd95.")] = "dice",
    json: Json = None,
    groups: Groups = None,
    markdown: Markdown = None,
    latex: Latex = None,
    plots: Plots = None,
) -> None:
    """Compare methods on the same images: differences, intervals, paired tests with Holm's correction. Needs no torch."""
    from gps_seg import comparison

    files = comparison.parse_methods(methods)
    documents = {name: [comparison.read_document(path) for path in paths] for name, paths in files.items()}
    found = comparison.compare_methods(documents, metric=metric, groups=groups)
    comparison.publish(found, json=json, markdown_file=markdown, latex_file=latex, plots=plots)
    typer.echo(comparison.table(found))


@app.command()
def predict(
    run: RunFolder,
    inputs: Annotated[list[Path], typer.Argument(help="Images or folders of images.", metavar="INPUT")],
    out: Annotated[Path, typer.Option(help="Folder for masks (PNG, 0/255, original size) and overlays.")],
    threshold: Threshold = None,
    overlays: Annotated[bool, typer.Option(help="Write overlays too.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace masks that are there already.")] = False,
    device: Device = "auto",
) -> None:
    """Segment images that have no masks."""
    from gps_seg import inference
    from gps_seg.errors import DataError

    images = inference.find_images(inputs)
    loaded = inference.load_run(run, device=device)
    failed = []
    for path, fraction, problem in inference.predict_files(
        loaded, images, out, threshold=threshold, overlays=overlays, overwrite=overwrite
    ):
        if problem:
            failed.append(problem)
        else:
            found = f"{100 * fraction:.1f} % of the area" if fraction else "no polyp above the threshold"
            typer.echo(f"{path.name}: {found}")
    typer.echo(f"{len(images) - len(failed)} masks in {out}")
    if failed:
        raise DataError(f"{len(failed)} of {len(images)} inputs could not be read: " + "; ".join(failed[:5]))


@app.command()
def export(
    run: RunFolder,
    merged: Annotated[Path, typer.Option(help="File to write, .pth (loads in segment_anything) or .safetensors.")],
) -> None:
    """Write the tuned model as one stock SAM state dict."""
    from gps_seg.export import export_merged

    typer.echo(export_merged(run, merged))


@app.command()
def info(
    run: OptionalRun = None,
) -> None:
    """Describe a run, or this machine, the known models and the data sets found."""
    from gps_seg.about import describe_machine, describe_run

    typer.echo(describe_run(run) if run else describe_machine())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = Path("runs/demo"),
    config: Annotated[Path, typer.Option(help="Settings.")] = Path("configs/quickstart.yaml"),
) -> None:
    """Train, evaluate and draw, on Kvasir-SEG if it can be had, else on phantoms."""
    from gps_seg.demo import run_demo

    run_demo(config, out)


@benchmark_app.callback()
def benchmark() -> None:
    """Measure costs."""


@benchmark_app.command("cost")
def benchmark_cost(
    model: Annotated[str, typer.Option(help="A known SAM or any timm name; random weights.")] = "lite_medsam",
    size: Annotated[int | None, typer.Option(help="Input size in pixels; default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    methods: Annotated[str, typer.Option(help="Comma-separated; the first is the reference.")] = "floor,gps,full,bitfit,lora",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "fp32",
    repetitions: Annotated[int, typer.Option(min=1)] = 7,
    compiled: Annotated[bool, typer.Option("--compiled", help="Under torch.compile.")] = False,
    frozen_storage: Annotated[str, typer.Option(help="fp32, or compute: gps keeps frozen weights in --precision.")] = "fp32",
    checkpoint_blocks: Annotated[bool, typer.Option("--checkpoint-blocks", help="Recompute SAM's blocks backwards.")] = False,
    json: Annotated[Path | None, typer.Option(help="File to write all numbers to.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of time against memory, the floor drawn in.")] = None,
    device: Device = "auto",
) -> None:
    """Measure what a training step costs, method by method, side by side: time, operations, memory, state, delta."""
    from gps_seg.cost import benchmark
    from gps_seg.cost_bench import Setting
    from gps_seg.engine import resolve_device, resolve_precision
    from gps_seg.errors import ConfigError

    if frozen_storage not in ("fp32", "compute"):
        raise ConfigError(f"--frozen-storage: expected fp32 or compute, got {frozen_storage!r}")
    place = resolve_device(device)
    setting = Setting(model, size, batch, resolve_precision(precision, place), str(place), compiled=compiled,
                      frozen_storage=frozen_storage, checkpoint_blocks=checkpoint_blocks)
    typer.echo(benchmark(setting, methods.split(","), repetitions=repetitions, json_path=json, plot_path=plot))


@benchmark_app.command("score")
def benchmark_score(
    images: Annotated[int, typer.Option(min=2, help="Pairs to draw and score.")] = 1000,
    size: Annotated[int, typer.Option(min=16, help="Side in pixels.")] = 352,
    json: Json = None,
) -> None:
    """Measure how long scoring takes, from files to a report with intervals. Needs no torch."""
    from gps_seg import score_benchmark

    typer.echo(score_benchmark.benchmark(images, size, json_path=json))


@data_app.command("list")
def data_list() -> None:
    """Say which data sets are known and where they were found."""
    from gps_seg.about import describe_data

    typer.echo(describe_data())


@data_app.command("download")
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


@data_app.command("check")
def data_check(
    data: Annotated[list[str], typer.Argument(help="Names of gps-seg data list, or folders.", metavar="NAME_OR_FOLDER...")],
    json: Json = None,
) -> None:
    """Look for unreadable files, wrong sizes, masks that are not masks, and the same images in two places."""
    from gps_seg.data_check import check_data

    typer.echo(check_data(data, json=json))


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
              "train.checkpoint_blocks=true, or selection.last_blocks")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _stop(f"{error.filename or 'input/output'}: {error.strerror}")


def _stop(text: str) -> Any:
    line = " ".join(text.split())
    sys.stdout.flush()
    print(f"gps-seg: error: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
