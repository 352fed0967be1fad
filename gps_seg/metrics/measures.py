"""All that is measured on one image, in named blocks. Needs no torch.

- ``per_image``, ``dataset``: counts at a fixed threshold (``masks``); ``per_image`` adds boundaries (``surface``).
- ``pranet``: the 256-threshold protocol (``pranet``).
- ``polyps``, ``negatives``: polyp by polyp, and frames without any (``lesions``).
- ``calibration``: of probability maps only (``calibration``).
- ``gps_legacy``: what the released GPS scorer would say of the same masks, see ``report.gps_legacy``; by its own name alone.
- ``clicks``: not by name, but wherever clicks were simulated (``clicks``).

Counts cost next to nothing and are always measured.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.maps import Prediction
from gps_seg.errors import ConfigError
from gps_seg.metrics import calibration, lesions, pranet, presence
from gps_seg.metrics.clicks import Clicks
from gps_seg.metrics.masks import ImageScore, score_image
from gps_seg.metrics.surface import TOLERANCE, Surface, surface

LEGACY = "gps_legacy"
BLOCKS = ("per_image", "dataset", "pranet", "polyps", "negatives", "calibration", LEGACY)
DEFAULT_BLOCKS = ("per_image", "dataset", "polyps", "negatives")
THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class BlockScore(ImageScore):
    """One image's scores; a block that was not asked for is None. ``is_map`` and ``unsure`` are the prediction's.

    Attributes:
        evidence: what speaks for a polyp, asked for with the negatives.
        center: where the image is from, as far as its set tells.
        legacy: whether the released scorer's word on all images was asked for.
    """

    is_map: bool = False
    unsure: bool = False
    surface: Surface | None = None
    sweep: pranet.Sweep | None = None
    lesions: lesions.Lesions | None = None
    reliability: calibration.Reliability | None = None
    clicks: Clicks | None = None
    evidence: presence.Evidence | None = None
    center: int | None = None
    legacy: bool = False


def parse_blocks(text: str) -> tuple[str, ...]:
    """Names from a comma-separated list, in the order of ``BLOCKS``; "all" is all of them but the released scorer's.

    Raises:
        ConfigError: an unknown name.
    """
    names = {name.strip() for name in text.split(",")} - {""}
    if not names:
        raise ConfigError(f"--blocks: expected {', '.join(BLOCKS)} or all, got none")
    if unknown := names - {*BLOCKS, "all"}:
        raise ConfigError(f"--blocks: expected {', '.join(BLOCKS)} or all, got {', '.join(sorted(unknown))}")
    return tuple(name for name in BLOCKS if name in names or ("all" in names and name != LEGACY))


def score_blocks(
    id_: str, prediction: Prediction, target: NDArray[np.bool_], blocks: Collection[str] = DEFAULT_BLOCKS, *,
    threshold: float = THRESHOLD, tolerance: float = TOLERANCE,
) -> BlockScore:
    """Score one prediction against its target mask (H, W).

    Args:
        threshold: probability above which a pixel is foreground.
        tolerance: of NSD, in pixels.

    Raises:
        DataError: the sizes differ.
    """
    probability = prediction.probability
    predicted: NDArray[np.bool_] = probability > threshold
    base = score_image(id_, predicted, target)
    grey = prediction.grey
    if grey is None and "pranet" in blocks:
        grey = pranet.to_grey(probability)
    counted = {"polyps", "negatives"} & set(blocks)
    return BlockScore(
        **{field.name: getattr(base, field.name) for field in fields(base)}, is_map=prediction.is_map, unsure=prediction.unsure,
        surface=surface(predicted, target, tolerance=tolerance) if "per_image" in blocks else None,
        sweep=pranet.sweep(grey, target) if grey is not None and "pranet" in blocks else None,
        lesions=lesions.compare(predicted, target, confidence=float(probability.max())) if counted else None,
        reliability=calibration.reliability(probability, predicted, target) if "calibration" in blocks else None,
        evidence=presence.evidence(probability, threshold) if counted else None, legacy=LEGACY in blocks,
    )


def row(score: ImageScore) -> dict[str, Any]:
    """The score as a flat row, for JSON and CSV; None where a number does not exist."""
    flat: dict[str, Any] = {field.name: getattr(score, field.name) for field in fields(ImageScore)}
    if not isinstance(score, BlockScore):
        return flat
    if score.surface:
        flat |= asdict(score.surface)
    if score.lesions:
        found = score.lesions
        flat |= {"polyps": len(found.areas), "polyps_found": sum(found.found), "polyps_predicted": found.predicted,
                 "polyps_false": found.false}
    if score.evidence and score.evidence.quality is not None:
        flat["presence"] = score.evidence.quality
    if score.sweep:
        swept = pranet.summarise([score.sweep])
        flat |= {f"pranet_{name}": swept[name] for name in ("mean_dice", "mean_iou", "weighted_f", "s_measure", "mean_e", "mae")}
    if score.reliability:
        ece, brier = calibration.errors(score.reliability.sums).tolist()
        seen = bool(score.reliability.pixels.any())
        flat |= {"calibration_ece": ece if seen else None, "calibration_brier": brier if seen else None}
    if score.clicks:
        flat |= score.clicks.row()
    return flat
