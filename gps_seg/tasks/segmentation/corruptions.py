"""Artefacts of endoscopy, drawn onto images at five severities. Numpy and OpenCV, no torch.

The families and the five severities follow Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019: blur (``motion_blur``, ``defocus``), ``noise``, brightness (``over_exposure``,
``under_exposure``) and ``jpeg``. What an endoscope adds is our own: ``specular`` highlights, ``bubbles``, a ``dark_border``,
a ``colour_shift`` (white balance, bile, narrow-band-like light) and ``interlace`` combs. The strengths are our own choice too,
by eye on colonoscopy frames, and not those of ImageNet-C: numbers of the two are not comparable.

- Only pixels change, never the mask. What bubbles, highlights or a border hide is still to be found.
- The layout (direction, places, tint) is drawn from (seed, name, id). A severity shows more of the same layout, so that the
  mean difference from the clean image grows with it; what a corruption cannot change (blur of a flat image) stays equal.
- Lengths are parts of the image's shorter side, so that an image of twice the size gets the same artefact; grain of the noise
  and lines of the interlace are never finer than a pixel, and JPEG's blocks are 8 pixels at any size.
- The black surround of an endoscope's picture is drawn by its processor, after the optics: it stays black and sharp under
  all but ``jpeg``, which comes later.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gps_seg.data.transforms import Augment, Mask
from gps_seg.errors import ConfigError
from gps_seg.tasks.segmentation import corruption_effects as effects

Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
# (image float32 (H, W, 3) in 0..255, strength, random, view bool (H, W)) -> image
Effect = Callable[[Field, float, Generator, NDArray[np.bool_]], Field]

SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 8
MIXED = frozenset({"motion_blur", "defocus", "interlace"})  # they carry colour from one place to another
WHOLE = frozenset({"dark_border", "colour_shift", "over_exposure", "under_exposure", "jpeg"})  # surround and all
BLACK, SURROUND = 28, 0.002  # a surround is darker than this, and each piece at the edge at least this part of the image


def corrupt(image: Pixels, name: str, severity: int, id: str, seed: int = 0) -> Pixels:
    """One corruption of one image.

    Args:
        image: uint8 RGB (H, W, 3), at least 8 pixels a side; it is not changed.
        name: a key of ``CORRUPTIONS``.
        severity: 1 (slight) to 5 (severe).
        id: of the image; with name and seed it decides the layout, so that neither order nor batch matters.

    Returns:
        uint8 RGB (H, W, 3); the same for the same arguments.

    Raises:
        ConfigError: an unknown name or severity, or an image of another type or shape.
    """
    effect, strengths = CORRUPTIONS[check_name(name)]
    if severity not in SEVERITIES:
        raise ConfigError(f"severity: expected 1 to 5, got {severity!r}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < LEAST_SIDE:
        raise ConfigError(f"{id}: expected uint8 RGB (H, W, 3) of at least {LEAST_SIDE} pixels a side, "
                          f"got {image.dtype} {image.shape}")
    digest = hashlib.sha256(f"{seed}/{name}/{id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "big"))
    view = field_of_view(image)
    start = _filled(image, view) if name in MIXED else image
    changed = effect(start.astype(np.float32), strengths[severity - 1], generator, view)
    rounded = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return rounded if name in WHOLE else np.where(view[..., None], rounded, image)


def every_corruption(image: Pixels, id: str, seed: int = 0) -> dict[str, list[Pixels]]:
    """By corruption, the image itself and then one a severity, as :func:`corrupt` makes them."""
    return {name: [image, *(corrupt(image, name, severity, id, seed) for severity in SEVERITIES)] for name in CORRUPTIONS}


def with_artefacts(augment: Augment, probability: float) -> Augment:
    """The augmentation, and after it by chance one corruption of severity 1 to 3; the mask stays. Decided by the seed alone."""
    if probability == 0:
        return augment

    def augmented(image: Pixels, mask: Mask, seed: int) -> tuple[Pixels, Mask]:
        image, mask = augment(image, mask, seed)
        chance = random.Random(f"{seed}/artefact")
        if chance.random() < probability:
            image = corrupt(image, chance.choice(list(CORRUPTIONS)), chance.randint(1, 3), str(seed))
        return image, mask

    return augmented


def check_name(name: str) -> str:
    """The name, if it is known. Raises ConfigError that says the nearest one."""
    if name in CORRUPTIONS:
        return name
    nearest = difflib.get_close_matches(name, CORRUPTIONS, n=1, cutoff=0.4)
    hint = f", did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"unknown corruption {name!r}{hint} (known: {', '.join(CORRUPTIONS)})")


def field_of_view(image: Pixels) -> NDArray[np.bool_]:
    """True where the endoscope sees, bool (H, W): all but dark regions at the image's edge; all if that leaves too little."""
    light = np.ascontiguousarray(image.max(axis=2))
    dark = cv2.medianBlur(light, 5) < BLACK  # without specks and thin letters, and with round corners
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=4)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    large = [label for label in edge if label and stats[label, cv2.CC_STAT_AREA] >= SURROUND * dark.size]
    surround = np.isin(labels, large)
    corners = cv2.dilate(surround.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    view = ~(surround | (corners & (light < BLACK)))
    return view if view.mean() > 0.2 else np.ones_like(view)


def _filled(image: Pixels, view: NDArray[np.bool_]) -> Pixels:
    """The image with its surround painted in the colour of the nearest pixel in view, so that blur brings no black in.

    The rim of the view is painted too: it is half dark, above all in a JPEG.
    """
    reach = 2 * max(2, round(min(view.shape) / 176)) + 1
    inner = cv2.erode(view.astype(np.uint8), np.ones((reach, reach), np.uint8), borderValue=1) > 0
    if view.all() or not inner.any():
        return image
    view = inner
    _, labels = cv2.distanceTransformWithLabels((~view).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    source = np.zeros((labels.max() + 1, 3), np.uint8)
    source[labels[view]] = image[view]
    return source[labels]


CORRUPTIONS: dict[str, tuple[Effect, tuple[float, float, float, float, float]]] = {
    "motion_blur": (effects.motion_blur, (0.015, 0.03, 0.05, 0.08, 0.12)),  # path, part of the side
    "defocus": (effects.defocus, (0.006, 0.011, 0.017, 0.025, 0.035)),  # radius, part of the side
    "specular": (effects.specular, (0.006, 0.014, 0.027, 0.046, 0.07)),  # part of the view
    "bubbles": (effects.bubbles, (5, 12, 24, 42, 66)),  # number
    "dark_border": (effects.dark_border, (0.93, 0.86, 0.79, 0.72, 0.65)),  # reach, 1 is the corner
    "colour_shift": (effects.colour_shift, (0.1, 0.18, 0.28, 0.4, 0.52)),  # length of the gains' logarithms
    "over_exposure": (effects.gain, (1.15, 1.35, 1.6, 1.95, 2.4)),  # gain
    "under_exposure": (effects.gain, (0.75, 0.6, 0.46, 0.34, 0.24)),  # gain
    "jpeg": (effects.jpeg, (25, 18, 15, 10, 7)),  # quality
    "noise": (effects.noise, (0.03, 0.055, 0.09, 0.14, 0.2)),  # deviation on white
    "interlace": (effects.interlace, (0.006, 0.012, 0.02, 0.032, 0.048)),  # movement, part of the side
}
