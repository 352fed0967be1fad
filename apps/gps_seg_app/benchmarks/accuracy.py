"""``gps-seg benchmark accuracy``: what the app's quick encoder and its precision cost in Dice, and what they save in time.

The same images by the model as it was trained (fp32, the packaged encoder) and by the app, at the same threshold, in one run.
"""

from __future__ import annotations

import time
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
from gps_seg.runs.load import load_run
from gps_seg.runs.provenance import surroundings
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.limits import AppError

Answer = Callable[[Pair], NDArray[np.bool_]]


def benchmark(folder: Path, *, data: str | None = None, device: str = "auto", json_path: Path | None = None) -> str:
    """Score both on a run's test images, or on another data set; returns a table, and writes numbers and provenance.

    Raises:
        AppError: no image.
        DataError, CheckpointError: the data set or the run cannot be read.
    """
    trained = load_run(folder, device=device, precision="fp32")
    pairs = trained.task.items(data, "test", trained.classes)
    if not pairs:
        raise AppError("--data: expected images, found none.")

    def as_trained(pair: Pair) -> NDArray[np.bool_]:
        [(_, probability)] = trained.predict([pair], 1)
        return np.asarray(probability) > trained.threshold

    app = Predictor({"run": folder}, device=device)
    cut = app.on_its_scale(trained.threshold, "run")

    def as_in_the_app(pair: Pair) -> NDArray[np.bool_]:
        return app.predict(read_image(pair.image), keep=False)[0] > cut

    document = measure(pairs, as_trained, as_in_the_app)
    document |= {"data": Path(data).name if data else str(trained.description["data"]), "threshold": trained.threshold,
                 "app": app.device, **surroundings(torch.device(trained.device), trained.precision)}
    if json_path:
        write_json(json_path, document)
    return table(document)


def measure(pairs: Sequence[Pair], as_trained: Answer, as_in_the_app: Answer) -> dict[str, Any]:
    """Dice of both answers to each image, by how much they differ, and the median seconds of an image, files included."""
    scores: dict[str, list[float]] = {"as_trained": [], "app": [], "to_each_other": []}
    seconds: dict[str, list[float]] = {"as_trained": [], "app": []}
    turns = [("as_trained", as_trained), ("app", as_in_the_app)]
    for pair in tqdm(pairs, desc="images", unit="image", disable=None):
        target, masks = read_mask(pair.mask), {}
        turns.reverse()  # the second finds the file in memory
        for name, answer in turns:
            begin = time.perf_counter()
            masks[name] = answer(pair)
            seconds[name].append(time.perf_counter() - begin)
            scores[name].append(dice(count(masks[name], target)))
        scores["to_each_other"].append(dice(count(masks["app"], masks["as_trained"])))
    change = np.subtract(scores["app"], scores["as_trained"])
    return {"images": len(pairs), **{f"dice_{name}": float(np.mean(found)) for name, found in scores.items()},
            "largest_change": float(np.abs(change).max()),
            **{f"seconds_{name}": median(found) for name, found in seconds.items()},
            "times_as_fast": median(np.divide(seconds["as_trained"], seconds["app"]).tolist())}


def table(found: dict[str, Any]) -> str:
    """The numbers in three lines."""
    return (f"as trained (fp32)  Dice {found['dice_as_trained']:.4f}  {found['seconds_as_trained']:.2f} s an image\n"
            f"in the app         Dice {found['dice_app']:.4f}  {found['seconds_app']:.2f} s an image, on {found['app']}; "
            f"{found['times_as_fast']:.2f} times as fast\n"
            f"{found['images']} images; masks agree to Dice {found['dice_to_each_other']:.4f}; one image's Dice moves by at most "
            f"{found['largest_change']:.4f}")
