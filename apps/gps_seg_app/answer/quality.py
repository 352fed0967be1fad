"""Can this picture be assessed at all? The visible field, and the reasons to refuse a picture.

The limits were set on 1000 frames of Kvasir-SEG and 659 of PolypGen and on spoiled copies of them; beside each limit stands the
range it divides: the most extreme real frame and the least spoiled copy. Of frames that they never saw, all 53 of a colonoscopy
clip and 301 of 305 of a capsule endoscope pass (WCEBleedGen, every eighth; four are "blurred"). A picture is looked at with 352
pixels on the long side.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg_app.answer.burnt_in_text import burnt_in_text
from gps_seg_app.answer.components import brightest, darkest
from gps_seg_app.intake.pictures import shrunk

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
WORK_SIDE = 352
LEAST_SIDE = 64
BLACK = 20  # brightest channel of a border: 0 to 17 in the frames
LEAST_FIELD = 0.05  # of the picture; real frames from 0.49
DARK = 60  # 90th percentile of the brightest channel; real from 102, at 0.15 of the brightness up to 38
LINE_ART = 70.0  # spread of the Laplacian; real up to 51, screenshots and noise from 81
WHITE, CLIPPED = 0.20, 0.60  # parts of the field: all channels over 235; one channel over 250. Real up to 0.15 and 0.52
LEAST_RED = 0.25  # part of the lit field with the hue of mucosa; all but 5 of 1659 real from 0.34, landscapes up to 0.14
BLUR = 10.0  # 99th percentile of |Laplacian|; real from 13, blurred with sigma 5 up to 4
SCREEN_HUES, SCREEN_SATURATION = (70, 130), 80  # of a position display: teal and blue, OpenCV's scale
FLAT = 4  # largest difference within 5 x 5 pixels on something drawn, not seen


@dataclass(frozen=True, eq=False)
class Assessment:
    """Whether a picture can be assessed.

    Attributes:
        reason: a clause for the page, empty if assessable.
        field: the visible field (H, W), without borders and insets.
        burnt_in_text: whether there seems to be writing in the picture.
    """

    assessable: bool
    reason: str
    field: Mask
    burnt_in_text: bool


def assess(pixels: Pixels) -> Assessment:
    """Look at one picture, uint8 RGB (H, W, 3)."""
    small = shrunk(pixels, WORK_SIDE)
    field = _field(small, pixels.shape[:2])
    reason = _reason(small, field)
    return Assessment(not reason, reason, field, burnt_in_text(pixels))


def visible_field(pixels: Pixels) -> Mask:
    """Where the endoscope's picture is (H, W): the convex hull of the largest part that is neither black nor a drawn inset.

    A dark lumen counts as visible; black borders, a black notch for the position display, and the display itself do not.
    """
    return _field(shrunk(pixels, WORK_SIDE), pixels.shape[:2])


def _field(small: Pixels, size: tuple[int, ...]) -> Mask:
    """The visible field of a shrunk picture, at the picture's own size (H, W)."""
    screens, notches = _screens(small), _flat_borders(small)
    bright = ((brightest(small) > BLACK) & ~screens).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    if count < 2:
        return np.zeros(size, np.bool_)
    largest = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    outlines, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(outlines))
    drawn = cv2.fillConvexPoly(np.zeros(largest.shape, np.uint8), hull, 255)
    drawn[screens | notches] = 0
    return cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_LINEAR) > 127


def _flat(small: Pixels) -> Mask:
    """Where every channel varies by at most FLAT within 5 x 5 pixels."""
    kernel = np.ones((5, 5), np.uint8)
    return brightest(cv2.dilate(small, kernel) - cv2.erode(small, kernel)) <= FLAT


def _screens(small: Pixels) -> Mask:
    """Flat teal or blue rectangles, as position displays such as ScopeGuide put into a corner; dyed mucosa is not flat."""
    hue, saturation, value = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2HSV))
    low, high = SCREEN_HUES
    colored = (hue >= low) & (hue <= high) & (saturation > SCREEN_SATURATION) & (value > 2 * BLACK)
    closed = cv2.morphologyEx((colored & _flat(small)).view(np.uint8), cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(closed)
    found = np.zeros(colored.shape, np.bool_)
    for x, y, width, height, area in stats[1:count]:
        if area > 0.005 * found.size and area > 0.7 * width * height:
            found[max(0, y - 4) : y + height + 4, max(0, x - 4) : x + width + 4] = True  # what flatness leaves out at the rim
    return found


def _flat_borders(small: Pixels) -> Mask:
    """Black without any noise, joined to the picture's edge."""
    black = ((brightest(small) <= BLACK) & _flat(small)).view(np.uint8)
    _, labels = cv2.connectedComponents(cv2.morphologyEx(black, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, edge[edge > 0])


def _reason(small: Pixels, field: Mask) -> str:
    """Why the picture cannot be assessed; empty if it can."""
    height, width = field.shape
    if min(height, width) < LEAST_SIDE:
        return f"too small ({width} x {height} pixels; at least {LEAST_SIDE} on each side are needed)."
    if field.mean() < LEAST_FIELD:
        return "too dark."
    inner = cv2.resize(field.view(np.uint8), (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST)
    eroded = cv2.erode(inner, np.ones((9, 9), np.uint8))  # the border's own edge says nothing about sharpness
    return _judge(small, (eroded if eroded.any() else inner) > 0)


def _judge(small: Pixels, where: Mask) -> str:
    light, dark = brightest(small)[where], darkest(small)[where]
    edges = cv2.Laplacian(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), cv2.CV_32F)[where]
    if np.percentile(light, 90) < DARK:
        return "too dark."
    if edges.std() > LINE_ART:
        return "this does not look like an endoscopic image."
    if np.mean(dark > 235) > WHITE or np.mean(light > 250) > CLIPPED:
        return "over-exposed."
    if _red_part(small, where) < LEAST_RED:
        return "the colours are not those of white-light endoscopy (another light, a dye, or not an endoscopic image)."
    return "blurred." if np.percentile(np.abs(edges), 99) < BLUR else ""


def _red_part(small: Pixels, where: Mask) -> float:
    """Part of the lit pixels whose hue lies between crimson and yellow."""
    hue, saturation, value = (channel[where] for channel in cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2HSV)))
    lit = value > 2 * BLACK
    red = lit & ((hue <= 25) | (hue >= 165)) & (saturation > 30)
    return int(np.count_nonzero(red)) / max(1, int(np.count_nonzero(lit)))
