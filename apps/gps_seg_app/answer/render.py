"""The finding drawn on the picture: contours with a dark halo and numbers; on demand a fill and a heat map.

A pixel under no layer keeps its value to the bit. The heat map shows the probability itself, never stretched. No torch.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.regions import Finding, Region

Pixels = NDArray[np.uint8]
CYAN, HALO = (0, 229, 255), (16, 16, 16)  # apart from mucosa for colour-blind readers too. RGB.
FAINT = 0.05  # probability below which the heat map leaves a pixel alone
COLORS = np.ascontiguousarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def contours(
    pixels: Pixels, finding: Finding, *, fill: float = 0.0, heat: float = 0.0, probability: NDArray[np.float32] | None = None
) -> Pixels:
    """A copy of the picture (H, W, 3) with the finding drawn on it.

    Args:
        fill: opacity 0..1 of cyan inside the regions.
        heat: opacity 0..1 of the heat map, where the probability is 0.05 or more.
        probability: (H, W) in 0..1; without it there is no heat map.
    """
    drawn = np.ascontiguousarray(pixels).copy()
    if heat > 0 and probability is not None:
        where = probability >= FAINT
        colors = COLORS[(np.clip(probability[where], 0, 1) * 255).astype(np.uint8)]
        drawn[where] = _blend(drawn[where], colors, heat)
    if fill > 0:
        drawn[finding.mask] = _blend(drawn[finding.mask], np.array(CYAN, np.uint8), fill)
    width = line_width(pixels)
    outlines, _ = cv2.findContours(finding.mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, HALO, 2 * width + 1, cv2.LINE_AA)
    cv2.drawContours(drawn, outlines, -1, CYAN, width, cv2.LINE_AA)
    for region in finding.regions:
        _number(drawn, region)
    return drawn


def line_width(pixels: Pixels) -> int:
    """Of a contour, in pixels, in proportion to the picture."""
    return max(1, round(min(pixels.shape[:2]) / 250))


def _blend(below: Pixels, above: Pixels, opacity: float) -> Pixels:
    share = min(1.0, opacity)
    return np.round(below * (1 - share) + above * np.float32(share)).astype(np.uint8)


def _number(drawn: Pixels, region: Region) -> None:
    """Above the region's upper left corner, or inside the picture's edge where there is no room."""
    height, width = drawn.shape[:2]
    size, font = max(0.4, min(height, width) / 700), cv2.FONT_HERSHEY_SIMPLEX
    thick = max(1, round(2 * size))
    (across, down), _ = cv2.getTextSize(str(region.id), font, size, thick)
    x = int(np.clip(region.box[0], 2, max(2, width - across - 2)))
    y = int(np.clip(region.box[1] - 4 * thick, down + 2, max(down + 2, height - 2)))
    cv2.putText(drawn, str(region.id), (x, y), font, size, HALO, 3 * thick, cv2.LINE_AA)
    cv2.putText(drawn, str(region.id), (x, y), font, size, CYAN, thick, cv2.LINE_AA)
