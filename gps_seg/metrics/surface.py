"""Boundary metrics of one image: HD95 and normalised surface Dice (NSD). Numpy and OpenCV only.

A mask's boundary is its own pixels that touch background or the image's edge on one of four sides (a mask minus its erosion
by a cross); distances are Euclidean, between pixel centres, in pixels. These are MONAI's definitions.

- HD95 = the larger of the two directed 95th percentiles (linear interpolation) of each boundary pixel's distance to the
  other boundary. MONAI gives NaN where one mask is empty and then drops it, so that its mean improves as polyps are missed.
  Here one empty mask costs the image's diagonal, more than any two masks can be apart, and two empty masks give 0:
  no NaN ever.
- NSD (Nikolov et al., 2021) = the part of both boundaries' pixels, counted together, that lies within a tolerance of the
  other boundary; 0 if one mask is empty and 1 if both are, the convention of ``masks``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
TOLERANCE = 2.0
BOUNDARIES = ("hd95", "hd95_of_diagonal", "nsd")
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@dataclass(frozen=True)
class Surface:
    """``hd95`` in pixels, ``hd95_of_diagonal`` as a part of the image's diagonal, ``nsd`` in 0..1."""

    hd95: float
    hd95_of_diagonal: float
    nsd: float


def boundary(mask: Mask) -> Mask:
    """The mask's pixels with background, or the image's edge, above, below, left or right of them."""
    inner = cv2.erode(mask.view(np.uint8), CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns that hold the foreground; empty slices if there is none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def distance_to(points: Mask) -> NDArray[np.float64]:
    """Distance in pixels of every pixel to the nearest True one; there must be one.

    OpenCV returns float32; squared distances are whole numbers, so rounding them restores the exact value.
    """
    rough = cv2.distanceTransform((~points).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    return np.sqrt(np.rint(rough * rough))


def surface(predicted: Mask, target: Mask, *, tolerance: float = TOLERANCE) -> Surface:
    """Compare the boundaries of two masks (H, W).

    Args:
        tolerance: distance in pixels up to which a boundary pixel counts as right in NSD.
    """
    diagonal = float(np.hypot(*target.shape))
    found, wanted = bool(predicted.any()), bool(target.any())
    if not (found and wanted):
        right = found == wanted
        return Surface(0.0 if right else diagonal, 0.0 if right else 1.0, 1.0 if right else 0.0)
    box = bounding_box(predicted | target)
    ours, theirs = (boundary(np.ascontiguousarray(mask[box])) for mask in (predicted, target))
    there, back = distance_to(theirs)[ours], distance_to(ours)[theirs]
    hd95 = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    near = np.count_nonzero(there <= tolerance) + np.count_nonzero(back <= tolerance)
    return Surface(hd95, hd95 / diagonal, near / (there.size + back.size))
