"""What ``gps-seg calibrate`` leaves in a run folder: how far its probabilities are to be believed, and where to cut them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from gps_seg.errors import CheckpointError
from gps_seg.files import read_json, sha256
from gps_seg.metrics.temperature import HIGHEST, LOWEST
from gps_seg.runs.folder import DELTA_FILE

CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """calibration.json of a run folder.

    Attributes:
        temperature: logits are divided by it.
        data, split, images, pixels: what it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of those pixels, in nats.
        ece_before, ece_after: expected calibration error of the same pixels.
        delta_sha256: of the weights it belongs to.
        threshold: where the app cuts, on the calibrated scale, see ``operating_point``; a step of its slider; None in
            older files.
        dice, best_dice, found: of that threshold on the same images.
        presence: below this quality the answer is none, see ``metrics.presence``; None where no quality was trained, or no
            frame without a polyp was there to choose on.
        kept, refused: parts of the frames with and without a polyp that are then answered rightly, on the images of the
            calibration and on the negatives held out from training, as they are and with patches pasted on them.
        without: number of frames without a polyp among them.
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
    threshold: float | None = None
    dice: float | None = None
    best_dice: float | None = None
    found: float | None = None
    presence: float | None = None
    kept: float | None = None
    refused: float | None = None
    without: int | None = None


def read_calibration(folder: Path) -> Calibration | None:
    """A run's calibration; None if it has none, or one of other weights (a run that was trained anew).

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    document = read_json(path, "a calibration")
    try:
        found = Calibration(**{field.name: document[field.name] for field in fields(Calibration)
                               if field.default is MISSING or field.name in document})
        point = [value for value in (found.threshold, found.dice, found.best_dice, found.found) if value is not None]
        cut = [value for value in (found.presence, found.kept, found.refused) if value is not None]
        valid = (LOWEST <= found.temperature <= HIGHEST and len(point) in (0, 4) and len(cut) in (0, 3)
                 and all(0 <= value <= 1 for value in (*point, *cut)))
    except (KeyError, TypeError):
        valid = False
    if not valid:
        raise CheckpointError(f"{path}: expected a calibration, it was edited or damaged; gps-seg calibrate makes another")
    return found if found.delta_sha256 == sha256(folder / DELTA_FILE) else None


def describe(found: Calibration) -> str:
    """One line for the command line and the page."""
    line = (f"temperature {found.temperature:.3f}, fitted on {found.images} images ({found.data}, {found.split}): error "
            f"{found.ece_before:.3f} before, {found.ece_after:.3f} after")
    line = line if found.threshold is None else f"{line}; threshold {describe_threshold(found)}"
    return line if found.presence is None else f"{line}; {describe_presence(found)}"


def describe_presence(found: Calibration) -> str:
    """The quality below which the answer is none, and what it does where it was chosen."""
    return (f"no polyp below a quality of {found.presence:.3f}: so answered {100 * (found.refused or 0):.0f} % of "
            f"{found.without} frames without one, and {100 * (1 - (found.kept or 0)):.0f} % of those with one")


def describe_threshold(found: Calibration) -> str:
    """The app's threshold, how it was chosen, and what it costs there."""
    return (f"{found.threshold:.3g}, the highest that is as good as the best on the images of the calibration (Dice "
            f"{found.dice:.3f}, best {found.best_dice:.3f}; the polyp met in {100 * (found.found or 0):.0f} % of those with one)")
