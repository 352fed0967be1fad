"""Example pictures: drawn endoscopy scenes, so that the app ships no picture of anyone."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.intake.pictures import Picture

EXAMPLES = {"One polyp": 8, "Several polyps": 10, "No polyp": 4, "Too dark": 8}  # the scene of each
SIZE = (576, 768)


@functools.lru_cache(maxsize=len(EXAMPLES))
def example(label: str) -> Picture:
    """One of :data:`EXAMPLES`, by its label."""
    pixels, _ = phantom(EXAMPLES[label], size=SIZE)
    if label == "Too dark":
        pixels = (pixels * 0.06).astype(np.uint8)
    return Picture(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def is_example(picture: Picture) -> bool:
    """Whether a picture is drawn, not seen."""
    return picture.sha256 in {example(label).sha256 for label in EXAMPLES}
