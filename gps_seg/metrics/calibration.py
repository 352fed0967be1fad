"""Are pixels said to be polyp with 80 % polyp in 80 % of cases? Numpy and OpenCV only.

Counted in a band around lesions, the pixels within 2 % of the image's diagonal of the target's or the prediction's boundary:
over the whole image sure background would drown every error. On the probabilities as predicted, never on a stretched map.

- ECE = sum over 15 equal-width bins of (pixels in the bin / all) x \\|share of target pixels - mean probability\\|, with the
  probability of foreground (not of the likelier class) and all images' pixels pooled.
- Brier = mean squared difference between probability and target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.metrics.surface import boundary

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
BINS = 15
BAND = 0.02


@dataclass(frozen=True, eq=False)
class Reliability:
    """Sums over the band of one image: ``pixels``, ``probability`` and ``hits`` a bin, (15,), and the squared error."""

    pixels: Float
    probability: Float
    hits: Float
    squared_error: float

    @property
    def sums(self) -> Float:
        """All of it as one vector, (46,), which adds up over images."""
        return np.concatenate([self.pixels, self.probability, self.hits, [self.squared_error]])


def band(predicted: Mask, target: Mask) -> Mask:
    """Pixels within 2 % of the diagonal of either mask's boundary; none if both masks are empty."""
    edges = boundary(predicted) | boundary(target)
    if not edges.any():
        return edges
    away = cv2.distanceTransform((~edges).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away <= BAND * float(np.hypot(*target.shape))


def reliability(probability: NDArray[np.floating], predicted: Mask, target: Mask) -> Reliability:
    """Count one image, (H, W) each; ``predicted`` is the map cut at the operating point."""
    where = band(np.ascontiguousarray(predicted), np.ascontiguousarray(target))
    p, y = probability[where].astype(np.float64), target[where].astype(np.float64)
    bins = np.clip((p * BINS).astype(np.int64), 0, BINS - 1)
    pixels, sums, hits = (np.bincount(bins, weights, BINS).astype(np.float64) for weights in (None, p, y))
    return Reliability(pixels, sums, hits, float(np.sum((p - y) ** 2)))


def errors(sums: Float) -> Float:
    """ECE and Brier, (..., 2), of sums (..., 46); 0 where there is no pixel."""
    pixels, probability, hits = np.split(sums[..., : 3 * BINS], 3, axis=-1)
    total = np.maximum(pixels.sum(axis=-1), 1)
    return np.stack([np.abs(hits - probability).sum(axis=-1) / total, sums[..., -1] / total], axis=-1)


def summarise(images: Sequence[Reliability]) -> dict[str, Any]:
    """The ``calibration`` block, from at least one image; ``curve`` has a row for every bin that holds pixels."""
    sums = np.sum([image.sums for image in images], axis=0)
    pixels, probability, hits = np.split(sums[: 3 * BINS], 3)
    ece, brier = (float(value) for value in errors(sums))
    curve = [
        {"from": index / BINS, "to": (index + 1) / BINS, "pixels": int(pixels[index]),
         "probability": float(probability[index] / pixels[index]), "frequency": float(hits[index] / pixels[index])}
        for index in range(BINS) if pixels[index]
    ]
    without = sum(image.pixels.sum() == 0 for image in images)
    return {"ece": ece, "brier": brier, "pixels": int(pixels.sum()), "images_without_band": int(without), "curve": curve}
