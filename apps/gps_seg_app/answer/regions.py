"""From a probability map to regions with numbers, and to one of three answers. Pixels and percent, never millimetres."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.components import components
from gps_seg_app.answer.quality import Assessment

Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]
State = Literal["found", "none", "not_assessable"]
NONE_EXCLUDED = "This does not exclude a polyp."
NONE = f"No polyp-like region above the threshold. {NONE_EXCLUDED}"
BY_PROMPTS, BY_HAND = "With your marks", "Corrected by hand"
SPECK_PERCENT = 0.05  # of the visible field: below it a region is dropped as a speck
BAND = 0.25  # of probability, to either side of the threshold: the uncertain band of an outline


@dataclass(frozen=True)
class Region:
    """One connected region of the mask. Coordinates in native pixels, x to the right, y down.

    Attributes:
        id: 1 for the largest, then on by area.
        field_percent: its part of the visible field.
        box: x0, y0, x1, y1; the last two are exclusive.
        centroid: x, y.
        diameter_px: of the circle with the same area.
        confidence, least_confidence: mean and smallest probability inside, of the model's own answer, whatever a person added
            to it; None where the model was not asked because the picture cannot be assessed.
        boundary_uncertainty: mean width in pixels of the band along the outline in which the probability lies within 0.25
            of the threshold.
        position: in words, within the visible field, as seen on the screen.
    """

    id: int
    area_px: int
    field_percent: float
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    diameter_px: float
    confidence: float | None
    least_confidence: float | None
    boundary_uncertainty: float
    position: str


@dataclass(frozen=True, eq=False)
class Finding:
    """The answer for one picture: its state, the words for it, the regions, and their union as a mask (H, W)."""

    state: State
    words: str
    regions: tuple[Region, ...]
    mask: Mask

    @property
    def area_px(self) -> int:
        """Of all regions together."""
        return sum(one.area_px for one in self.regions)

    @property
    def field_percent(self) -> float:
        """Their part of the visible field."""
        return sum(one.field_percent for one in self.regions)

    @property
    def confidence(self) -> float:
        """Of the surest region; 0 if there is none."""
        return max((one.confidence or 0.0 for one in self.regions), default=0.0)


def find(
    probability: Probability, threshold: float, assessment: Assessment, mask: Mask | None = None, *,
    own: Probability | None = None, prompted: bool = False,
) -> Finding:
    """Say what is in a picture.

    Specks under 0.05 % of the visible field are dropped, and so is what lies mostly outside the field; neither is done to a
    mask that a person corrected, and such a mask counts even where the picture was not assessable.

    Args:
        probability: (H, W) in 0..1; a pixel belongs to a region where it exceeds ``threshold``.
        mask: a corrected mask (H, W) instead of the thresholded one.
        own: the model's own probabilities, where points or a box have moved ``probability``; confidences are theirs.
        prompted: whether they have; the words then say whose answer it is.
    """
    if mask is None and not assessment.assessable:
        return Finding("not_assessable", f"Not assessable: {assessment.reason}", (), np.zeros(probability.shape, np.bool_))
    corrected = mask is not None
    regions, kept = find_regions(probability, threshold, assessment.field, mask=mask, keep_all=corrected, own=own)
    if not assessment.assessable:
        regions = tuple(replace(region, confidence=None, least_confidence=None) for region in regions)
    words = _words(len(regions), assessment, corrected=corrected, prompted=prompted)
    return Finding("found" if regions else "none", words, regions, kept)


def _words(count: int, assessment: Assessment, *, corrected: bool, prompted: bool) -> str:
    """The answer, and whose it is: the model's, or a person's."""
    if not corrected and not prompted:
        return f"Polyp-like regions: {count}" if count else NONE
    whose = BY_HAND if corrected else BY_PROMPTS
    answer = f"{whose}: {count} region{'' if count == 1 else 's'}." if count else f"{whose}: no region. {NONE_EXCLUDED}"
    return answer if assessment.assessable else f"{answer} The picture itself is not assessable: {assessment.reason}"


def find_regions(
    probability: Probability, threshold: float, field: Mask, *, mask: Mask | None = None, keep_all: bool = False,
    own: Probability | None = None,
) -> tuple[tuple[Region, ...], Mask]:
    """Regions, largest first, and the mask (H, W) that they make up.

    Args:
        field: the visible field (H, W).
        mask: instead of ``probability > threshold``.
        keep_all: keep specks and what lies outside the field.
        own: as for :func:`find`.
    """
    above = probability > threshold if mask is None else mask
    count, labels, stats, centroids = components(above)
    visible = max(1, int(np.count_nonzero(field)))
    found = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        window = np.s_[y : y + height, x : x + width]
        inside = int(np.count_nonzero(field[window] & (labels[window] == label)))
        if keep_all or (100 * inside >= SPECK_PERCENT * visible and 2 * inside >= area):
            found.append((area, label, inside))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    extent = cv2.boundingRect(field.view(np.uint8)) if field.any() else (0, 0, field.shape[1], field.shape[0])
    regions = tuple(
        Region(id=number, area_px=area, field_percent=100 * inside / visible, box=_box(stats[label]),
               centroid=(float(centroids[label][0]), float(centroids[label][1])), diameter_px=float(np.sqrt(4 * area / np.pi)),
               position=position(centroids[label], extent),
               **_confidence(probability if own is None else own, labels, label, stats[label]),
               boundary_uncertainty=_uncertainty(probability, labels, label, stats[label], threshold))
        for number, (area, label, inside) in enumerate(found, start=1)
    )
    wanted = np.zeros(count, np.bool_)
    wanted[[label for _, label, _ in found]] = True
    return regions, wanted[labels] if len(found) < count - 1 else labels > 0


def _box(row: NDArray[np.int32]) -> tuple[int, int, int, int]:
    x, y, width, height = (int(value) for value in row[:4])
    return x, y, x + width, y + height


def _confidence(
    probability: Probability, labels: NDArray[np.int32], label: int, row: NDArray[np.int32]
) -> dict[str, float]:
    """Probabilities inside one region."""
    x0, y0, x1, y1 = _box(row)
    inside = probability[y0:y1, x0:x1][labels[y0:y1, x0:x1] == label]
    return {"confidence": float(inside.mean(dtype=np.float64)), "least_confidence": float(inside.min())}


def _uncertainty(
    probability: Probability, labels: NDArray[np.int32], label: int, row: NDArray[np.int32], threshold: float
) -> float:
    """Width of the uncertain band along a region's outline."""
    area = int(row[4])
    margin = int(np.sqrt(area / np.pi)) + 2
    x0, y0, x1, y1 = _box(row)
    window = np.s_[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]
    values, here, other = probability[window], labels[window] == label, (labels[window] > 0) & (labels[window] != label)
    away = cv2.distanceTransform((~here).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    band = (np.abs(values - threshold) < BAND) & (away <= margin) & ~other
    outlines, _ = cv2.findContours(here.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    length = sum(max(1.0, cv2.arcLength(outline, closed=True)) for outline in outlines)
    return float(np.count_nonzero(band) / length)


def position(centroid: NDArray[np.float64], extent: tuple[int, int, int, int]) -> str:
    """Words for a point (x, y) in a rectangle (x, y, width, height): "upper left", "left", "centre", ..."""
    x, y, width, height = extent
    across = ("left", "", "right")[min(2, max(0, int(3 * (centroid[0] - x) / max(1, width))))]
    down = ("upper", "", "lower")[min(2, max(0, int(3 * (centroid[1] - y) / max(1, height))))]
    return " ".join(word for word in (down or ("centre" if not across else ""), across or ("centre" if down else "")) if word)
