"""``gps-seg evaluate``: score a run's model on labelled images and say what was measured, with its protocol."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gps_seg.commands import corruptions
from gps_seg.config import RunConfig, SegmentationEvaluateConfig
from gps_seg.data.images import read_image
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import sha256
from gps_seg.metrics.groups import read_groups
from gps_seg.metrics.measures import DEFAULT_BLOCKS
from gps_seg.metrics.plots.corruptions import corruption_sheet, plot_corruptions
from gps_seg.metrics.plots.scores import plot_scores
from gps_seg.metrics.tables import publish
from gps_seg.runs.load import Run, load_run, with_presence
from gps_seg.runs.provenance import surroundings
from gps_seg.runs.ready import model_files
from gps_seg.runs.start import earlier_tasks, tasks_beside
from gps_seg.runs.task_model import TaskModel
from gps_seg.settings import check_settings
from gps_seg.tasks.segmentation.corruptions import every_corruption
from gps_seg.tasks.segmentation.pictures import draw_cases
from gps_seg.tasks.segmentation.task import Segmentation
from gps_seg.tasks.task import Document, Task


@dataclass(frozen=True)
class Wanted:
    """What to measure beside the task's own numbers, and what to write. All but ``json`` and ``csv`` is of masks.

    Attributes:
        blocks: what to measure, on the model's probabilities at native size; see ``metrics.measures``.
        groups: CSV file of stem,group; intervals then draw whole groups.
        plots: folder for pictures of the scores and of the best, median and worst cases.
        corruptions: also measure under artefacts, key ``corruptions`` of the document, see ``commands.corruptions``; on at
            most ``max_images`` of the images, spread evenly.
    """

    json: Path | None = None
    csv: Path | None = None
    markdown: Path | None = None
    latex: Path | None = None
    plots: Path | None = None
    groups: Path | None = None
    blocks: Sequence[str] = DEFAULT_BLOCKS
    corruptions: bool = False
    max_images: int | None = None


def evaluate_run(
    folder: Path, *, data: str | None = None, split: str = "test", threshold: float | None = None, prompt: str | None = None,
    presence: float | None = None, flips: bool | None = None, device: str = "auto", base: Path | None = None,
    wanted: Wanted = Wanted(), loaded: Run | None = None,
) -> Document:
    """Evaluate, print the table, write what is wanted, and return the document.

    Args:
        data: a known name or a folder, or None for the run's own data set.
        threshold, prompt, presence, flips: of masks; default: the run's own.
        base: the base's weight file, where it is not found by itself.
        loaded: the run in ``folder``, if it is loaded already.

    Raises:
        CheckpointError: the run cannot be loaded.
        DataError: images or masks are missing or unreadable.
        ConfigError: an unknown prompt or split, ``max_images`` without ``corruptions``, or what only masks have.
    """
    _check(prompt, wanted)
    if presence is not None and prompt not in (None, "none"):
        raise ConfigError(f"--presence: with --prompt {prompt} nobody is told that there is no polyp: leave one out")
    run = with_presence(loaded or load_run(folder, device=device, base=base), presence)
    run = _for_masks(run, {"threshold": threshold, "prompt": prompt, "flips": flips}, wanted)
    items = run.task.items(data, split, run.classes)
    groups = read_groups(wanted.groups, [item.id for item in items]) if wanted.groups else None
    with tqdm(total=len(items), desc="evaluate", unit="image", disable=not sys.stderr.isatty()) as bar:
        scores, document = measure(run, items, data, split, config=run.config, groups=groups, blocks=wanted.blocks,
                                   progress=bar.update)
    document["settings"]["images_trained_on"] = seen = count_trained_on(run, items)
    for key, text in document["settings"].items():
        if key.endswith("warning"):
            print(f"warning: {text}")
    if seen:
        print(f"warning: {seen} of these {len(items)} images were in the run's training or inner validation part")
    document["run"] = {"folder": run.folder.name, "method": run.description.get("method"), "files": model_files(run.folder),
                       **surroundings(run.device, run.precision)}
    if wanted.corruptions:
        document["corruptions"] = corruptions.measure_subset(run, items, scores, most=wanted.max_images, groups=groups)
    _write(run, items, scores, document, wanted)
    print(run.task.table(document))
    if wanted.corruptions:
        print(corruptions.table(document["corruptions"]))
    return document


def measure(
    model: TaskModel, items: Sequence[Any], data: str | None, split: str, *, config: RunConfig, batch_size: int = 8,
    blocks: Sequence[str] = DEFAULT_BLOCKS, groups: Sequence[str] | None = None, progress: Callable[[], object] | None = None,
) -> tuple[list[Any], Document]:
    """Score items and report them with the protocol: the one evaluation, at the end of a run and at any time after."""
    scores = model.score(items, batch_size=batch_size, blocks=blocks or DEFAULT_BLOCKS, progress=progress)
    settings = model.task.protocol(model.model, data, split) | {
        "trained_on": config.data.name, "data_protocol": config.data.protocol, "files_sha256": files_digest(model.task, items),
    }
    return scores, model.task.report(scores, settings=settings, classes=model.classes, groups=groups)


def _check(prompt: str | None, wanted: Wanted) -> None:
    if prompt not in (None, "none", "box", "clicks"):
        raise ConfigError(f"--prompt: expected none, box or clicks, got {prompt!r}")
    if wanted.max_images is not None and not wanted.corruptions:
        raise ConfigError("--max-images limits what --corruptions measures: add --corruptions, or leave it out")


def _for_masks(run: Run, asked: Mapping[str, Any], wanted: Wanted) -> Run:
    """The run with what was asked for of ``evaluate``. Raises ConfigError for what labels do not have, or what does not fit."""
    given = {name: value for name, value in asked.items() if value is not None}
    if isinstance(run.task, Segmentation):
        own = {**run.task.evaluate.model_dump(), "threshold": run.threshold}
        prompt = given.get("prompt", own["prompt"])  # what the run set for another one is not read with this
        own = {name: value for name, value in own.items() if name not in {"none": ("clicks",), "box": ("clicks", "flips"),
                                                                          "clicks": ("flips",)}.get(prompt, ())}
        settings = check_settings(SegmentationEvaluateConfig, own | given, "evaluate", where="docs/settings.md")
        return replace(run, task=replace(run.task, evaluate=settings))
    asked_for = {**{name: name in given for name in asked}, "blocks": tuple(wanted.blocks) != DEFAULT_BLOCKS,
                 **{name: getattr(wanted, name) for name in ("markdown", "latex", "plots", "corruptions")}}
    if foreign := [f"--{name}" for name, value in asked_for.items() if value]:
        raise ConfigError(f"{', '.join(foreign)}: only masks have it, and the run in {run.folder} is one of {run.config.task}")
    return run


def _write(run: Run, items: Sequence[Any], scores: Sequence[Any], document: Document, wanted: Wanted) -> None:
    publish(document, json=wanted.json, csv=wanted.csv, markdown_file=wanted.markdown, latex_file=wanted.latex)
    if wanted.plots:
        plot_scores(document, wanted.plots)
        draw_cases(items, scores, run.predict, threshold=run.task.evaluate.threshold, count=4,  # type: ignore[attr-defined]
                   folder=wanted.plots / "cases")
        if wanted.corruptions:
            plot_corruptions(document["corruptions"], wanted.plots / "corruptions.png")
            corruption_sheet(every_corruption(read_image(items[0].image), items[0].id), wanted.plots / "corruptions_example.png")


def files_digest(task: Task, items: Sequence[Any]) -> str:
    """sha256 over names and bytes of all files of the items: tells whether scores are of these files."""
    found = hashlib.sha256()
    for item in items:
        for path in task.files(item):
            found.update(item.id.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def count_trained_on(run: Run, items: Sequence[Any]) -> int | None:
    """How many of the images, compared byte by byte, the run, or one that it began from or shares values with, learned from.

    None if nothing is found while some of their data are no longer here, so that nobody reads an unknown as a zero.
    """
    others = [earlier_tasks(run.config), tasks_beside(run.folder, run.description)]
    parts = [_learned_from(one) for one in (run.task, *(task for tasks in others for task in tasks or ()))]
    scored = [path for item in items for path in run.task.files(item)[:1]]
    sizes = {path.stat().st_size for path in scored}  # only files of one size can be the same
    known = {sha256(path) for used, _ in parts for path in used if path.stat().st_size in sizes}
    count = sum(sha256(path) in known for path in scored)
    whole = None not in others and all(is_whole for _, is_whole in parts)
    return count if whole else count or None


def _learned_from(task: Task) -> tuple[list[Path], bool]:
    """The images that a run learned from, as far as they are here, and whether all are."""
    try:
        splits = task.splits()
    except DataError:
        if not isinstance(task, Segmentation) or not task.data.negatives:
            return [], False
        positives = task.data.model_copy(update={"negatives": (), "negative_centers": ()})
        return _learned_from(replace(task, data=positives))[0], False  # the frames without a polyp may be all that is gone
    used = (*splits.train, *splits.inner, *splits.negatives.train, *splits.negatives.held)
    return [path for item in used for path in task.files(item)[:1]], True
