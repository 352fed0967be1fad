"""``gps-seg calibrate``: fit a run's temperature and its threshold on images it did not learn from; kept beside the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import read_mask
from gps_seg.errors import ConfigError
from gps_seg.files import sha256, write_json
from gps_seg.metrics.calibration import BINS, band
from gps_seg.metrics.operating_point import nearest_step, operating_point
from gps_seg.metrics.temperature import fit_temperature, negative_log_likelihood, rescale
from gps_seg.runs.calibration import CALIBRATION_FILE, Calibration
from gps_seg.runs.folder import DELTA_FILE
from gps_seg.runs.load import Run, load_run
from gps_seg.runs.ready import is_ready, run_folder
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.task import Segmentation

PIXELS = 20_000  # of an image, evenly spread over those that count


def calibrate(folder: Path, *, data: str | None = None, split: str = "inner", device: str = "auto") -> Calibration:
    """Fit the temperature and the app's threshold of a run, and write calibration.json into its folder.

    The temperature's pixels are those in the predicted mask, in the true mask, or within 2 % of the diagonal of either outline;
    over the whole image, sure background would drown every error. Each image gives at most 20,000, evenly spread over them.

    Args:
        data: a known set or a folder of pairs; default: the run's own data set.
        split: "inner" (kept from training for choices like this one) or "train".

    Raises:
        ConfigError: the test part was asked for, or the run is a ready model.
        DataError: no polyps to fit on.
    """
    if split == "test":
        raise ConfigError("--split: a temperature fitted on the test part makes its scores worthless; use inner")
    folder = run_folder(folder)
    if is_ready(folder):
        raise ConfigError(f"calibrate: {folder.name} is a ready model, whose files stay as its card measured them: calibrate the "
                          "run that it was packed from, or a copy of its folder without card.json")
    run = load_run(folder, device=device)
    if not isinstance(run.task, Segmentation):
        raise ConfigError(f"calibrate: expected a run of segmentation, the one in {folder} is of {run.config.task}")
    pairs = run.task.items(data, split)
    samples: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    point = operating_point(_sampled(run, pairs, samples))
    probability, target = (np.concatenate([pixels[part] for pixels in samples]) for part in (0, 1))
    temperature = fit_temperature(probability, target)
    calibrated = rescale(probability, temperature)
    found = Calibration(
        temperature=temperature, data=_name(data, run.config.data.name), split=split, images=len(pairs), pixels=len(target),
        nll_before=negative_log_likelihood(probability, target), nll_after=negative_log_likelihood(calibrated, target),
        ece_before=expected_error(probability, target), ece_after=expected_error(calibrated, target),
        delta_sha256=sha256(folder / DELTA_FILE), threshold=nearest_step(rescale(point.threshold, temperature)),
        dice=point.dice, best_dice=point.best_dice, found=point.found,
    )
    write_json(folder / CALIBRATION_FILE, {"format": 1, **asdict(found)})
    return found


def _sampled(
    run: Run, pairs: Sequence[Pair], samples: list[tuple[NDArray[np.float32], NDArray[np.bool_]]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Probability and target of every image, one at a time, as there may be many; ``samples`` keeps some pixels of each."""
    for pair, (_, probability) in zip(pairs, run.predict(pairs), strict=True):
        target = read_mask(pair.mask)
        samples.append(sample(probability, target, run.threshold))
        yield probability, target


def sample(
    probability: NDArray[np.float32], target: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities and targets, each (N,) with N at most 20,000, of the pixels of one image (H, W) that count."""
    predicted = np.ascontiguousarray(probability > threshold)
    where = np.flatnonzero(band(predicted, target) | predicted | target)
    where = where[:: max(1, -(-len(where) // PIXELS))]
    return probability.ravel()[where], target.ravel()[where]


def expected_error(probability: NDArray[np.float32], target: NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 equal bins, of pixels (N,); ``gps_seg.metrics.calibration`` has the formula."""
    bins = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    difference = np.bincount(bins, target.astype(np.float64) - probability, BINS)
    return float(np.abs(difference).sum() / max(1, len(target)))


def _name(data: str | None, own: str) -> str:
    """The set's name; of a folder its last part alone, so that no path of this machine travels with the run."""
    return own if data is None else Path(data).name or "folder"
