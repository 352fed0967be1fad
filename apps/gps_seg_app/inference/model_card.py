"""What a reader must know of a model before believing its picture: base, delta, data and its terms, scores, limits.

Importing this module does not import torch, so that a page can show the disclaimer at once; :func:`card` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gps_seg.errors import CheckpointError
from gps_seg.files import read_json, sha256
from gps_seg.tasks.segmentation.known import KNOWN
from gps_seg_app.inference.fast import fast_size

if TYPE_CHECKING:
    from gps_seg.runs.calibration import Calibration

DISCLAIMER = (
    "Research use only. Not a medical device; not FDA-cleared or CE-marked; not for diagnosis or treatment. White-light "
    "colonoscopy images only (NBI, LCI and chromoendoscopy are out of scope). Performance is known only for the listed datasets, "
    "mostly images that contain a polyp. No finding does not exclude a polyp."
)
SHORT_DISCLAIMER = "Research use only. Not a medical device."
LIMITS = (
    "Sizes are in pixels and percent of the visible field; nothing can be said in millimetres from one frame.",
    "Confidence is the model's own number. It does not tell the risk of the lesion, nor its kind.",
    "False alarms on folds, specular spots, stool and instruments are to be expected, most of all on images without a polyp.",
    "Flat and small lesions are easily missed.",
    "On frames of other clinics a model of this kind, at its calibrated threshold, marked something in three of ten without a "
    "polyp, and nothing on the polyp in nearly one of five with one; at 0.5 in one of two and one of seven.",
)
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class ModelCard:
    """One run folder in words. No path, host or user name is in it.

    Attributes:
        model_id: base, method and the first 8 signs of the delta's sha256: "lite_medsam-gps-1a2b3c4d".
        base: name of the pretrained model, or of its file where a user gave one.
        base_sha256: fingerprint of the base's weights.
        weights_sha256: of the delta's file.
        data, data_terms: what it was trained on and what that data's owners allow.
        licence: of the base's weights.
        input_size: pixels of the model's square input; ``trained_size``: in training. resize: how an image is fitted into it.
        mean, std: of the normalisation, in the units of 0..255 pixels; ``stretch``: after darkest and brightest are 0 and 255.
        calibration: in words. calibrated: whether a temperature was fitted.
        temperature: that temperature, or None.
        scores: sentences, each with its interval where there is one.
        notes: what is known of the base and of the data, a sentence each.
        version: of gps-seg, now; ``trained_with``: then.
    """

    model_id: str
    base: str
    base_sha256: str
    method: str
    weights_sha256: str
    data: str
    data_terms: str
    licence: str
    input_size: int
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stretch: bool
    threshold: str
    temperature: float | None
    calibration: str
    scores: tuple[str, ...]
    notes: tuple[str, ...]
    version: str
    trained_with: str
    trained_size: int

    @property
    def calibrated(self) -> bool:
        """Whether a temperature was fitted."""
        return self.temperature is not None

    @property
    def input(self) -> str:
        """Size and fitting of the model's input, and whether it was trained at another size."""
        less = "" if self.input_size == self.trained_size else f" (fast: trained and scored at {self.trained_size} px)"
        return f"{self.input_size} px, {self.resize.replace('_', ' ')}{less}"

    def facts(self) -> tuple[tuple[str, str], ...]:
        """(name, value) of every short fact, in the order of the card."""
        return (
            ("Model", self.model_id), ("Base", f"{self.base}, weights licence {self.licence}"), ("Base sha256", self.base_sha256),
            ("Method", self.method), ("Delta sha256", self.weights_sha256), ("Trained on", self.data),
            ("Terms of that data", self.data_terms), ("Input", self.input),
            ("Threshold", self.threshold),
            ("Probabilities", self.calibration),
            ("Software", f"gps-seg {self.version}; trained with {self.trained_with}"),
        )

    def markdown(self) -> str:
        """The card for a page."""
        rows = [f"| {name} | {_cell(value)} |" for name, value in self.facts()]
        return "\n".join([f"## Model card: {_cell(self.model_id)}", "", f"**{DISCLAIMER}**", "", "| What | Value |",
                          "|---|---|", *rows, "", "### Scores", "", *_bullets(self.scores), "", "### Limits", "",
                          *_bullets((*self.notes, *LIMITS)), ""])

    def text(self) -> str:
        """The card as plain text."""
        rows = [f"{name + ':':<20}{value}" for name, value in self.facts()]
        return "\n".join([f"Model card: {self.model_id}", "", DISCLAIMER, "", *rows, "", "Scores", *_bullets(self.scores), "",
                          "Limits", *_bullets((*self.notes, *LIMITS)), ""])


def card(run_folder: Path, *, fast: bool = False) -> ModelCard:
    """The card of a run folder; reads its JSON files and the sha256 of its delta, loads no model.

    Args:
        fast: whether the model looks at smaller pictures than it was trained on.

    Raises:
        CheckpointError: the folder holds no delta, or a file of it is damaged.
    """
    from gps_seg.runs.calibration import read_calibration
    from gps_seg.runs.folder import DELTA_CONFIG, DELTA_FILE

    description = read_json(run_folder / DELTA_CONFIG, "the delta's description")
    result = read_json(run_folder / RESULT_FILE, "a result") if (run_folder / RESULT_FILE).is_file() else {}
    calibration = read_calibration(run_folder) if (run_folder / DELTA_FILE).is_file() else None
    try:
        found = _from(run_folder, description, result, calibration)
        return replace(found, input_size=fast_size(found.trained_size)) if fast else found
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{run_folder}: expected the files of a finished gps-seg run, one of them is damaged; "
                              "train it again") from None


def _from(
    folder: Path, description: Mapping[str, Any], result: Mapping[str, Any], calibration: Calibration | None
) -> ModelCard:
    from gps_seg.runs.folder import DELTA_FILE
    from gps_seg.tasks.segmentation.pretraining import base_note, base_warning

    base = Path(str(description["base_model_name_or_path"])).name
    method, digest = str(description["method"]), _sha256(folder / DELTA_FILE)
    title, terms = _data(str(description["data"]))
    known = base_warning(base, str(description["data"])) or base_note(base)
    return ModelCard(
        model_id=f"{base}-{method}-{digest[:8]}", base=base, base_sha256=str(description["base_sha256"]), method=method,
        weights_sha256=digest, data=title, data_terms=terms, licence=str(description.get("weights_licence", "unknown")),
        input_size=int(description["model"]["input_size"]), resize=str(description["model"]["resize"]),
        mean=tuple(float(value) for value in description["normalisation"]["mean"]),
        std=tuple(float(value) for value in description["normalisation"]["std"]),
        stretch=bool(description["normalisation"].get("stretch", False)),
        threshold=_threshold(float(description["threshold"]), calibration),
        temperature=calibration.temperature if calibration else None, calibration=_calibration(calibration),
        scores=_scores(result),
        notes=(f"{known}.",) if known else (),
        version=metadata.version("gps-seg"), trained_with=str(description.get("gps_seg_version", "an unknown version")),
        trained_size=int(description["model"]["input_size"]),
    )


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        raise CheckpointError(f"expected the delta's weights at {path}, found none") from None


def _data(name: str) -> tuple[str, str]:
    """Title and terms; a user's own folder is not named, as its name may tell something."""
    if name in KNOWN:
        return KNOWN[name].title, KNOWN[name].terms
    if name == "phantom":
        return "procedural phantoms, no real image", "none"
    return "a local folder of images", "those of its owner"


def _threshold(own: float, found: Calibration | None) -> str:
    from gps_seg.runs.calibration import describe_threshold

    if found is None:
        return f"{own:g}"
    return f"{own:g}, before calibration" if found.threshold is None else describe_threshold(found)


def _calibration(found: Calibration | None) -> str:
    if found is None:
        return "not calibrated"
    return f"temperature {found.temperature:.3f}, fitted on {found.images} images ({_data(found.data)[0]}, {found.split} part)"


def _scores(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences for the test list's scores; without them the inner validation's, which is said to be no test score."""
    if "per_image" not in result:
        best = result.get("run", {}).get("best_inner_dice")
        seen = "" if best is None else (f" Dice on the inner validation part, which also chose the training step: {best:.3f}; "
                                        "not a test score.")
        return (f"The test images were not scored.{seen}",)
    settings, intervals = result.get("settings", {}), result.get("intervals", {}).get("per_image", {})
    title = _data(str(settings.get("data", "")))[0]
    found = [f"{name}, mean over the {result['n']} images of {title} ({settings.get('split', 'test')} part): "
             f"{result['per_image'][key]:.3f}{_interval(intervals.get(key))}."
             for name, key in (("Dice", "dice"), ("IoU", "iou")) if key in result["per_image"]]
    return (*found, *_negatives(result.get("negatives", {}), result.get("intervals", {}).get("negatives", {})))


def _negatives(block: Mapping[str, Any], intervals: Mapping[str, Any]) -> tuple[str, ...]:
    frames = block.get("frames", 0)
    if not frames:
        return ("None of these images was without a polyp: the rate of false alarms is not known.",)
    rate, key = block.get("false_positive_rate"), "false_positive_rate"
    if rate is None:
        return ()
    return (f"Part of the {frames} images without a polyp in which something was marked: {rate:.3f}"
            f"{_interval(intervals.get(key))}.",)


def _interval(bounds: Any) -> str:
    return f" (95 % interval {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""


def _bullets(sentences: tuple[str, ...]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _cell(text: str) -> str:
    """Text of a table cell: signs that Markdown reads are escaped."""
    return "".join(f"\\{sign}" if sign in "\\`*_|[]<>#" else sign for sign in text)
