"""``gps-seg evaluate``: score a run's model on labelled images and write what was measured, with its protocol."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gps_seg.commands import corruptions as robustness
from gps_seg.commands.train import CONFIG_FILE
from gps_seg.config import EvaluateConfig, RunConfig, load_config
from gps_seg.data.images import read_image
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import sha256
from gps_seg.metrics.groups import read_groups
from gps_seg.metrics.measures import DEFAULT_BLOCKS
from gps_seg.metrics.plots.corruptions import corruption_sheet, plot_corruptions
from gps_seg.metrics.plots.scores import plot_scores
from gps_seg.metrics.report import report
from gps_seg.metrics.surface import TOLERANCE
from gps_seg.metrics.tables import publish, table
from gps_seg.runs.load import Run, draw_cases, find_pairs, load_run, score_pairs
from gps_seg.runs.provenance import base_note, data_warnings, surroundings
from gps_seg.tasks.segmentation.corruptions import every_corruption
from gps_seg.tasks.segmentation.pairs import Pair, load_splits
from gps_seg.tasks.segmentation.sets import SPLIT, label, pairs_digest
from gps_seg.tasks.segmentation.task import Segmentation


def evaluate_run(
    folder: Path, *, data: str | None = None, split: str = "test", json: Path | None = None, csv: Path | None = None,
    threshold: float | None = None, prompt: str = "none", device: str = "auto", blocks: Sequence[str] = DEFAULT_BLOCKS,
    groups: Path | None = None, markdown: Path | None = None, latex: Path | None = None, plots: Path | None = None,
    loaded: Run | None = None,
    corruptions: bool = False, max_images: int | None = None,
) -> dict[str, Any]:
    """Evaluate, print the table, write what was asked for, and return the document.

    Args:
        blocks: what to measure, on the model's probabilities at native size; see ``gps_seg.metrics.measures``.
        groups: CSV file of stem,group; intervals then draw whole groups.
        plots: folder for pictures of the scores and of the best, median and worst cases.
        loaded: the run in ``folder``, if it is loaded already.
        corruptions: also measure under artefacts, key ``corruptions`` of the document, see
            ``gps_seg.commands.corruptions``; on at most ``max_images`` of the images, spread evenly.

    Raises:
        CheckpointError: the run cannot be loaded.
        DataError: images or masks are missing or unreadable.
        ConfigError: an unknown prompt or split, or ``max_images`` without ``corruptions``.
    """
    if prompt not in ("none", "box"):
        raise ConfigError(f"--prompt: expected none or box, got {prompt!r}")
    if max_images is not None and not corruptions:
        raise ConfigError("--max-images limits what --corruptions measures: add --corruptions, or leave it out")
    run = loaded or load_run(folder, device=device)
    config = load_config(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else load_config(None)
    pairs = find_pairs(data, split, config.data)
    limit = run.threshold if threshold is None else threshold
    task = Segmentation(prompt=prompt, threshold=limit)
    with tqdm(total=len(pairs), desc="evaluate", unit="image", disable=not sys.stderr.isatty()) as bar:
        scores = score_pairs(run.model, task, pairs, device=run.device, precision=run.precision,
                             config=EvaluateConfig(), progress=bar.update, blocks=blocks or DEFAULT_BLOCKS)
    settings = _settings(run, data or config.data.name, split, task, config.data.protocol)
    settings["files_sha256"] = pairs_digest(pairs)
    settings["images_trained_on"] = seen = count_trained_on(pairs, config)
    own = str(config.data.root) if config.data.name == "folder" else config.data.name
    warnings = data_warnings(run.model.spec.name, data or own, len(pairs), whole=data is not None and _is_whole(data))
    settings |= warnings
    for text in warnings.values():
        print(f"warning: {text}")
    if seen:
        print(f"warning: {seen} of these {len(pairs)} images were in the run's training or inner validation part")
    names = read_groups(groups, [score.id for score in scores]) if groups else None
    document = report(scores, settings=settings, groups=names)
    document["run"] = {"folder": folder.name, "method": run.description.get("method"), **surroundings(run.device, run.precision)}
    if corruptions:
        document["corruptions"] = robustness.measure_subset(run, task, pairs, scores, most=max_images, groups=names)
    publish(document, scores, json=json, csv=csv, markdown_file=markdown, latex_file=latex)
    if plots:
        plot_scores(document, plots)
        draw_cases(run.model, task, pairs, scores, device=run.device, precision=run.precision, count=4, folder=plots / "cases")
        if corruptions:
            plot_corruptions(document["corruptions"], plots / "corruptions.png")
            corruption_sheet(every_corruption(read_image(pairs[0].image), pairs[0].id), plots / "corruptions_example.png")
    print(table(document))
    if corruptions:
        print(robustness.table(document["corruptions"]))
    return document


def count_trained_on(pairs: Sequence[Pair], config: RunConfig) -> int | None:
    """How many of the images, compared byte by byte, the run selected, trained or chose its best step on.

    None if the run's own data set is no longer here, so that nobody reads an unknown as a zero.
    """
    try:
        splits = load_splits(config.data)
    except DataError:
        return None
    known = {sha256(pair.image) for pair in (*splits.train, *splits.inner)}
    return sum(sha256(pair.image) in known for pair in pairs)


def _is_whole(data: str) -> bool:
    """Whether a set is scored whole, not one part of its split."""
    return Path(data).is_dir() or data not in (*SPLIT, "folder")


def _settings(run: Run, data: str, split: str, task: Segmentation, protocol: str) -> dict[str, Any]:
    spec = run.model.spec
    return {
        "data": label(data), "split": "all" if _is_whole(data) else split, "threshold": task.threshold,
        "nsd_tolerance_px": TOLERANCE,
        "prompt": "ground-truth box" if task.prompt == "box" else "none", "input_size": spec.input_size,
        "resize": spec.resize, "model": spec.name, "base_note": base_note(spec.name),
        "trained_on": run.description.get("data"), "data_protocol": protocol,
    }
