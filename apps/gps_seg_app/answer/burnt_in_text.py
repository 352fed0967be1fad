"""Is there writing burnt into a picture? Names and dates are; the page then warns."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.components import darkest

Pixels = NDArray[np.uint8]
SIDES = (704, 1024)  # pixels of the long side that a picture is brought between
CONTRAST = 55  # of a stroke against what surrounds it, in the darkest channel: white writing on mucosa
HEIGHTS = (6, 44)  # of a letter
LETTERS = 4  # in a row


def burnt_in_text(pixels: Pixels) -> bool:
    """Whether some row of light, thin, equally tall marks looks like writing: a guess, meant for a warning."""
    strokes = _strokes(_fit(pixels))
    count, _, stats, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
    letters = stats[1:count]
    letters = letters[_like_letters(letters)]
    return _longest_row(letters) >= LETTERS


def _fit(pixels: Pixels) -> Pixels:
    side = max(pixels.shape[:2])
    scale = float(np.clip(side, *SIDES)) / side
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _strokes(pixels: Pixels) -> NDArray[np.uint8]:
    """Thin parts much lighter than their surroundings: uint8 (H, W) of 0 and 1."""
    hat = cv2.morphologyEx(darkest(pixels), cv2.MORPH_TOPHAT, cv2.getStructuringElement(cv2.MORPH_RECT, (11, 11)))
    return (hat > CONTRAST).astype(np.uint8)


def _like_letters(stats: NDArray[np.int32]) -> NDArray[np.bool_]:
    width, height, area = (stats[:, column].astype(np.float64) for column in (2, 3, 4))
    low, high = HEIGHTS
    filled = area / np.maximum(1, width * height)
    return (height >= low) & (height <= high) & (width <= 1.6 * height) & (filled > 0.2) & (filled < 0.95)


def _longest_row(letters: NDArray[np.int32]) -> int:
    """The most letters that follow each other with equal height, on one line, closely."""
    if len(letters) > 2000:  # a rough surface, not a page: and every pair is compared below
        return 0
    x, y, width, height = (letters[:, column].astype(np.float64) for column in range(4))
    gap = x[None, :] - (x + width)[:, None]
    tall = np.maximum(height[:, None], height[None, :])
    follows = (
        (gap > -0.2 * tall) & (gap < 1.0 * tall) & (x[None, :] > x[:, None])
        & (np.abs((y + height)[None, :] - (y + height)[:, None]) <= np.maximum(1, 0.15 * tall))
        & (np.abs(height[None, :] - height[:, None]) <= np.maximum(1, 0.2 * tall))
    )
    longest = np.ones(len(letters), np.int64)
    for index in np.argsort(x):
        before = np.flatnonzero(follows[:, index])
        if len(before):
            longest[index] = 1 + longest[before].max()
    return int(longest.max(initial=0))
