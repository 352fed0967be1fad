"""``gps-seg evaluate``: score a run's model on labelled images and write what was measured, with its protocol."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gps_seg.config import EvaluateConfig, RunConfig, load_config
from gps_seg.data.polyps import Pair, load_splits
from gps_seg.errors import ConfigError, DataError
from gps_seg.inference import Run, find_pairs, load_run, score_pairs
from gps_seg.models.weights import sha256
from gps_seg.provenance import base_note, surroundings
from gps_seg.recipes import CONFIG_FILE
from gps_seg.scoring import report, table, write_csv, write_json
from gps_seg.tasks.segmentation import Segmentation


def evaluate_run(
    folder: Path, *, data: str | None = None, split: str = "test", json: Path | None = None, csv: Path | None = None,
    threshold: float | None = None, prompt: str = "none", device: str = "auto",
) -> dict[str, Any]:
    """Evaluate, print the table, write what was asked for, and return the document.

    Raises:
        CheckpointError: the run cannot be loaded.
        DataError: images or masks are missing or unreadable.
        ConfigError: an unknown prompt or split.
    """
    if prompt not in ("none", "box"):
        raise ConfigError(f"--prompt: expected none or box, got {prompt!r}")
    run = load_run(folder, device=device)
    config = load_config(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else load_config(None)
    pairs = find_pairs(data, split, config.data)
    limit = run.threshold if threshold is None else threshold
    task = Segmentation(prompt=prompt, threshold=limit)
    with tqdm(total=len(pairs), desc="evaluate", unit="image", disable=not sys.stderr.isatty()) as bar:
        scores = score_pairs(run.model, task, pairs, device=run.device, precision=run.precision,
                             config=EvaluateConfig(), progress=bar.update)
    settings = _settings(run, data or config.data.name, split, task)
    settings["images_trained_on"] = seen = count_trained_on(pairs, config)
    if seen:
        print(f"warning: {seen} of these {len(pairs)} images were in the run's training or inner validation part")
    document = report(scores, settings=settings)
    document["run"] = {"folder": folder.name, "method": run.description.get("method"), **surroundings(run.device, run.precision)}
    if json:
        write_json(json, document)
    if csv:
        write_csv(csv, scores)
    print(table(document))
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


def _settings(run: Run, data: str, split: str, task: Segmentation) -> dict[str, Any]:
    spec = run.model.spec
    shown = "all" if Path(data).is_dir() else split
    return {
        "data": Path(data).name if Path(data).is_dir() else data, "split": shown, "threshold": task.threshold,
        "prompt": "ground-truth box" if task.prompt == "box" else "none", "input_size": spec.input_size,
        "resize": spec.resize, "model": spec.name, "base_note": base_note(spec.name),
        "trained_on": run.description.get("data"),
    }
