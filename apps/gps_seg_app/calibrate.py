"""``gps-seg calibrate``: fit a run's temperature on images it did not learn from, and keep it beside the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.calibration import BINS, band
from gps_seg.checkpoint import DELTA_FILE, read_json, write_json
from gps_seg.config import EvaluateConfig, load_config
from gps_seg.data.images import read_mask
from gps_seg.data.polyps import Pair
from gps_seg.engine import predictions
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.inference import Run, find_pairs, load_run, make_loader
from gps_seg.models.weights import sha256
from gps_seg.recipes import CONFIG_FILE
from gps_seg.tasks.segmentation import Segmentation
from gps_seg.temperature import HIGHEST, LOWEST, fit_temperature, negative_log_likelihood, rescale

FILE = "calibration.json"
PIXELS = 20_000  # of an image, evenly spread over those that count


@dataclass(frozen=True)
class Calibration:
    """calibration.json of a run folder.

    Attributes:
        temperature: logits are divided by it.
        data, split, images, pixels: what it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of those pixels, in nats.
        ece_before, ece_after: expected calibration error of the same pixels.
        delta_sha256: of the weights it belongs to.
    """

    temperature: float
    data: str
    split: str
    images: int
    pixels: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    delta_sha256: str


def calibrate(folder: Path, *, data: str | None = None, split: str = "inner", device: str = "auto") -> Calibration:
    """Fit the temperature of a run and write calibration.json into its folder.

    The pixels are those in the predicted mask, in the true mask, or within 2 % of the diagonal of either outline; over the whole
    image, sure background would drown every error. Each image gives at most 20,000, evenly spread over them.

    Args:
        data: a known set or a folder of pairs; default: the run's own data set.
        split: "inner" (kept from training for choices like this one) or "train".

    Raises:
        ConfigError: the test part was asked for.
        DataError: no polyps to fit on.
    """
    if split == "test":
        raise ConfigError("--split: a temperature fitted on the test part makes its scores worthless; use inner")
    run = load_run(folder, device=device)
    config = load_config(folder / CONFIG_FILE if (folder / CONFIG_FILE).is_file() else None).data
    pairs = find_pairs(data, split, config)
    samples = [sample(probability, read_mask(pair.mask), run.threshold) for pair, probability in _maps(run, pairs)]
    probability, target = (np.concatenate([pixels[part] for pixels in samples]) for part in (0, 1))
    temperature = fit_temperature(probability, target)
    calibrated = rescale(probability, temperature)
    found = Calibration(
        temperature=temperature, data=_name(data, config.name), split=split, images=len(pairs), pixels=len(target),
        nll_before=negative_log_likelihood(probability, target), nll_after=negative_log_likelihood(calibrated, target),
        ece_before=expected_error(probability, target), ece_after=expected_error(calibrated, target),
        delta_sha256=sha256(folder / DELTA_FILE),
    )
    write_json(folder / FILE, {"format": 1, **asdict(found)})
    return found


def _maps(run: Run, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, NDArray[np.float32]]]:
    loader = make_loader(run.model, pairs, batch_size=EvaluateConfig().batch_size)
    found = predictions(run.model, Segmentation(threshold=run.threshold).predict, loader, run.device, run.precision)
    for pair, (_, probability) in zip(pairs, found, strict=True):
        yield pair, probability


def sample(
    probability: NDArray[np.float32], target: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities and targets, each (N,) with N at most 20,000, of the pixels of one image (H, W) that count."""
    predicted = np.ascontiguousarray(probability > threshold)
    where = np.flatnonzero(band(predicted, target) | predicted | target)
    where = where[:: max(1, -(-len(where) // PIXELS))]
    return probability.ravel()[where], target.ravel()[where]


def expected_error(probability: NDArray[np.float32], target: NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 equal bins, of pixels (N,); ``gps_seg.calibration`` has the formula."""
    bins = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    difference = np.bincount(bins, target.astype(np.float64) - probability, BINS)
    return float(np.abs(difference).sum() / max(1, len(target)))


def _name(data: str | None, own: str) -> str:
    """The set's name; of a folder its last part alone, so that no path of this machine travels with the run."""
    return own if data is None else Path(data).name or "folder"


def read_calibration(folder: Path) -> Calibration | None:
    """A run's calibration; None if it has none, or one of other weights (a run that was trained anew).

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    document = read_json(path, "a calibration")
    try:
        found = Calibration(**{field.name: document[field.name] for field in fields(Calibration)})
        valid = LOWEST <= found.temperature <= HIGHEST
    except (KeyError, TypeError):
        valid = False
    if not valid:
        raise CheckpointError(f"{path}: expected a calibration, it was edited or damaged; gps-seg calibrate makes another")
    return found if found.delta_sha256 == sha256(folder / DELTA_FILE) else None


def describe(found: Calibration) -> str:
    """One line for the command line and the page."""
    return (f"temperature {found.temperature:.3f}, fitted on {found.images} images ({found.data}, {found.split}): error "
            f"{found.ece_before:.3f} before, {found.ece_after:.3f} after")
