"""``gps-seg benchmark accuracy``: what the app's quick encoder and its precision cost in Dice, and what they save in time.

The same images by the model as it was trained (fp32, the packaged encoder), by the app, and if asked for by the app with
``--fast``, at the same threshold, in one run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from gps_seg.data.images import read_image, read_mask
from gps_seg.files import write_json
from gps_seg.metrics.masks import count, dice
from gps_seg.runs.load import load_run, with_presence
from gps_seg.runs.provenance import surroundings
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.limits import AppError

Answer = Callable[[Pair], NDArray[np.bool_]]


def benchmark(
    folder: Path, *, data: str | None = None, device: str = "auto", fast: bool = False, json_path: Path | None = None
) -> str:
    """Score all on a run's test images, or on another data set; returns a table, and writes numbers and provenance.

    Raises:
        AppError: no image.
        DataError, CheckpointError: the data set or the run cannot be read.
    """
    trained = with_presence(load_run(folder, device=device, precision="fp32"))
    pairs = trained.task.items(data, "test", trained.classes)
    if not pairs:
        raise AppError("--data: expected images, found none.")

    def as_trained(pair: Pair) -> NDArray[np.bool_]:
        [(_, probability)] = trained.predict([pair], 1)
        return np.asarray(probability) > trained.threshold

    app = Predictor({"run": folder}, device=device)
    small = Predictor({"run": folder}, device=device, fast=True) if fast else None
    document = measure(pairs, as_trained, _answers(app, trained.threshold), _answers(small, trained.threshold) if small else None)
    if small:
        document["fast"]["input_size"] = small.input_size
    document |= {"input_size": app.input_size, "threshold": trained.threshold, "app": app.device,
                 "data": Path(data).name if data else str(trained.description["data"]),
                 **surroundings(torch.device(trained.device), trained.precision)}
    if json_path:
        write_json(json_path, document)
    return table(document)


def _answers(app: Predictor, threshold: float) -> Answer:
    """The app's masks at a threshold of the run's own probabilities."""
    cut = app.on_its_scale(threshold, "run")
    return lambda pair: app.predict(read_image(pair.image), keep=False)[0] > cut


def measure(pairs: Sequence[Pair], as_trained: Answer, app: Answer, fast: Answer | None = None) -> dict[str, Any]:
    """Dice of each answer to each image, by how much they differ, and the median seconds of an image, files included.

    Returns:
        Numbers of the app beside those of the model as trained; under ``fast`` the same of its third answer, if there is one.
    """
    turns = deque([("as_trained", as_trained), ("app", app), *([("fast", fast)] if fast else [])])
    scores: dict[str, list[float]] = {name: [] for name, _ in turns}
    alike: dict[str, list[float]] = {name: [] for name, _ in turns}
    seconds: dict[str, list[float]] = {name: [] for name, _ in turns}
    for pair in tqdm(pairs, desc="images", unit="image", disable=None):
        target, masks = read_mask(pair.mask), {}
        turns.rotate()  # who comes first reads the file from the disk
        for name, answer in turns:
            begin = time.perf_counter()
            masks[name] = answer(pair)
            seconds[name].append(time.perf_counter() - begin)
            scores[name].append(dice(count(masks[name], target)))
        for name in alike:
            alike[name].append(dice(count(masks[name], masks["as_trained"])))

    def beside(name: str) -> dict[str, Any]:
        change = np.subtract(scores[name], scores["as_trained"])
        return {"dice_app": float(np.mean(scores[name])), "dice_to_each_other": float(np.mean(alike[name])),
                "largest_change": float(np.abs(change).max()), "seconds_app": median(seconds[name]),
                "times_as_fast": median(np.divide(seconds["as_trained"], seconds[name]).tolist())}

    return {"images": len(pairs), "dice_as_trained": float(np.mean(scores["as_trained"])),
            "seconds_as_trained": median(seconds["as_trained"]), **beside("app"), **({"fast": beside("fast")} if fast else {})}


def table(found: dict[str, Any]) -> str:
    """The numbers in a few lines."""
    fast = found.get("fast")
    more = "" if fast is None else (
        f"\nin the app, --fast  Dice {fast['dice_app']:.4f}  {fast['seconds_app']:.2f} s an image; {fast['times_as_fast']:.2f} "
        f"times as fast as trained; Dice {fast['dice_app'] - found['dice_app']:+.4f} to the app without; one image's "
        f"Dice moves by at most {fast['largest_change']:.4f}")
    return (f"as trained (fp32)  Dice {found['dice_as_trained']:.4f}  {found['seconds_as_trained']:.2f} s an image\n"
            f"in the app         Dice {found['dice_app']:.4f}  {found['seconds_app']:.2f} s an image, on {found['app']}; "
            f"{found['times_as_fast']:.2f} times as fast\n"
            f"{found['images']} images; masks agree to Dice {found['dice_to_each_other']:.4f}; one image's Dice moves by at most "
            f"{found['largest_change']:.4f}{more}")
