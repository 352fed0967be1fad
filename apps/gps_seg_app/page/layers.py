"""Pictures for the browser: lossless, quick to pack, and of a size that a browser can show."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.outlines import polygons
from gps_seg_app.answer.render import COLORS, FAINT
from gps_seg_app.answer.result import Result
from gps_seg_app.intake.pictures import shrunk

Pixels = NDArray[np.uint8]
LARGEST_SIDE = 4096  # pixels a side of what is sent; coordinates stay native
# differences to the left in Huffman's code alone: of a frame as small as by level 1 with its search for repeats, in half the time
QUICK = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
         cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB)
MAP_SIDE = 640  # a probability map is smooth: the model computes it at less


def picture_png(pixels: Pixels, side: int = LARGEST_SIDE) -> bytes:
    """RGB (H, W, 3) as PNG, shrunk if a side is longer than ``side``."""
    return _png(cv2.cvtColor(shrunk(pixels, side), cv2.COLOR_RGB2BGR))


def map_png(values: NDArray[np.float32], largest: float) -> bytes:
    """A map (H, W) as a coloured layer, clear where it is nearly zero. The scale is 0 to ``largest`` for every picture."""
    small = shrunk(values, MAP_SIDE)
    level = (np.clip(small / largest, 0, 1) * 255).astype(np.uint8)
    alpha = np.where(small >= FAINT * largest, 255, 0).astype(np.uint8)
    return _png(np.dstack([COLORS[level][..., ::-1], alpha]))


def rings(result: Result) -> list[list[list[list[int]]]]:
    """The outline of the mask for drawing: parts, each a list of closed rings of corners [x, y], exact to the pixel."""
    return [[part["exterior"], *part["holes"]] for part in polygons(result.finding.mask)]


def alt_text(result: Result) -> str:
    """What the picture shows, for those who do not see it."""
    height, width = result.picture.pixels.shape[:2]
    places = "; ".join(f"region {region.id}, {region.position}, {region.field_percent:.1f} % of the visible field"
                       for region in result.finding.regions[:10])
    return f"Endoscopic picture, {width} x {height} pixels. {result.finding.words}{': ' + places + '.' if places else ''}"


def _png(pixels: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", pixels, QUICK)[1].tobytes()
