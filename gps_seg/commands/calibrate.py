"""``gps-seg calibrate``: fit a run's temperature and its thresholds on images it did not learn from; kept beside the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import read_mask
from gps_seg.errors import ConfigError
from gps_seg.files import sha256, write_json
from gps_seg.metrics.calibration import BINS, band
from gps_seg.metrics.operating_point import nearest_step, operating_point
from gps_seg.metrics.presence import presence_point
from gps_seg.metrics.temperature import fit_temperature, negative_log_likelihood, rescale
from gps_seg.runs.calibration import CALIBRATION_FILE, Calibration
from gps_seg.runs.folder import DELTA_FILE
from gps_seg.runs.hub import name_of
from gps_seg.runs.load import Run, load_run
from gps_seg.runs.quality import train_quality
from gps_seg.runs.ready import is_ready, run_folder
from gps_seg.tasks.segmentation.negatives import load_negatives
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.quality import Answer
from gps_seg.tasks.segmentation.task import Segmentation

PIXELS = 20_000  # of an image, evenly spread over those that count
BATCH = 8  # images per forward pass
PASTES = 4  # times that each held frame gets a patch
Seen = tuple[float | None, bool]  # an answer's quality, and whether the image holds a polyp


def calibrate(
    folder: Path, *, data: str | None = None, split: str = "inner", device: str = "auto", quality: Sequence[str] | None = None,
    base: Path | None = None,
) -> Calibration:
    """Fit the temperature and the app's threshold of a run, and write calibration.json into its folder.

    The temperature's pixels are those in the predicted mask, in the true mask, or within 2 % of the diagonal of either outline;
    over the whole image, sure background would drown every error. Each image gives at most 20,000, evenly spread over them.
    Where the run's quality head was trained, the quality below which the answer is none is chosen on the same images, on the
    frames without a polyp that were held out from training, and on these again with polyps and decoys of the images pasted on
    them: a cut that told one set from another, and not a polyp from none, would look perfect without.

    Args:
        data: a known set or a folder of pairs; default: the run's own data set.
        split: "inner" (kept from training for choices like this one) or "train".
        quality: train the run's quality head first, with these settings, see ``runs.quality``; None: leave it.
        base: the base's weight file, where it is not found by itself.

    Raises:
        ConfigError: the test part was asked for, or the run is a ready model or a copy from the Hub.
        DataError: no polyps to fit on.
    """
    if split == "test":
        raise ConfigError("--split: a temperature fitted on the test part makes its scores worthless; use inner")
    folder = run_folder(folder)
    if is_ready(folder):
        raise ConfigError(f"calibrate: {folder.name} is a ready model, whose files stay as its card measured them: calibrate the "
                          "run that it was packed from, or a copy of its folder without card.json")
    if name := name_of(folder):
        raise ConfigError(f"calibrate: {name} is a copy from the Hub, whose files stay as they were sent: copy its folder, "
                          f"{folder}, and calibrate that")
    run = _load(folder, device, base)
    if quality is not None:
        train_quality(run, quality)
        run = _load(folder, device, base)
    pairs = run.task.items(data, split, ())
    samples: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    seen: list[Seen] = []
    point = operating_point(_sampled(run, pairs, samples, seen))
    probability, target = (np.concatenate([pixels[part] for pixels in samples]) for part in (0, 1))
    temperature = fit_temperature(probability, target)
    calibrated = rescale(probability, temperature)
    found = Calibration(
        temperature=temperature, data=_name(data, run.config.data.name), split=split, images=len(pairs), pixels=len(target),
        nll_before=negative_log_likelihood(probability, target), nll_after=negative_log_likelihood(calibrated, target),
        ece_before=expected_error(probability, target), ece_after=expected_error(calibrated, target),
        delta_sha256=sha256(folder / DELTA_FILE), threshold=nearest_step(rescale(point.threshold, temperature)),
        dice=point.dice, best_dice=point.best_dice, found=point.found, **_presence(run, pairs, seen),
    )
    write_json(folder / CALIBRATION_FILE, {"format": 1, **asdict(found)})
    return found


def _load(folder: Path, device: str, base: Path | None) -> Run:
    run = load_run(folder, device=device, base=base)
    if not isinstance(run.task, Segmentation):
        raise ConfigError(f"calibrate: expected a run of segmentation, the one in {folder} is of {run.config.task}")
    return replace(run, task=run.task.promptless())


def _answers(run: Run, pairs: Sequence[Pair]) -> Iterator[Answer]:
    """What the model says of each image, whatever its quality."""
    return (answer for _, answer in run.run_through(run.loader(pairs, BATCH), run.task.examine))


def _sampled(
    run: Run, pairs: Sequence[Pair], samples: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], seen: list[Seen]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Probability and target of every image, one at a time, as there may be many.

    Args:
        samples: keeps some pixels of each. seen: keeps its quality.
    """
    for pair, answer in zip(pairs, _answers(run, pairs), strict=True):
        target = read_mask(pair.mask)
        samples.append(sample(answer.probability, target, run.threshold))
        seen.append((answer.quality, bool(target.any())))
        yield answer.probability, target


def _presence(run: Run, pairs: Sequence[Pair], seen: Sequence[Seen]) -> dict[str, Any]:
    """The quality to cut at, chosen on images seen already and on the held negatives; nothing without frames of both kinds."""
    task: Any = run.task
    if not task.train.quality:
        return {}
    held = load_negatives(task.data).held
    further = [(answer.quality, False) for answer in _answers(run, held)] + _pasted(run, pairs, held)
    both = [[quality for quality, has_polyp in (*seen, *further) if quality is not None and has_polyp is kind]
            for kind in (True, False)]
    if not all(both):
        return {}
    point = presence_point(*both)
    return {"presence": point.threshold, "kept": point.kept, "refused": point.refused, "without": point.frames}


def _pasted(run: Run, donors: Sequence[Pair], frames: Sequence[Pair]) -> list[Seen]:
    """Frames without a polyp with patches of the donors on them, each a few times, see ``segmentation.pasting``."""
    task: Any = run.task
    dataset = task.dataset(run.model, (*donors, *frames), training=False)
    dataset.pasted = 1.0
    seen: list[Seen] = []
    for epoch in range(PASTES if donors else 0):
        dataset.set_epoch(epoch)
        items = [dataset[index] for index in range(len(donors), len(dataset))]
        batches = (task.collate(items[start : start + BATCH]) for start in range(0, len(items), BATCH))
        answers = run.run_through(batches, task.examine)
        seen += [(answer.quality, bool(item.mask.any())) for item, (_, answer) in zip(items, answers, strict=True)]
    return seen


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
