"""Phantoms: endoscopy-like scenes with exact masks, drawn from a seed, so that everything runs without any data set.

A scene is a tube of mucosa seen from inside (a dark lumen, haustral folds around it, vessels), up to three polyps lit from
the camera, specular spots, a vignette and often black corners. About one scene in seven has no polyp.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import DataError

VERSION = 1
NO_POLYP = 0.15
Field = NDArray[np.float64]


def phantom(
    index: int, *, size: tuple[int, int] = (288, 384), seed: int = 0, empty: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One scene: RGB uint8 (H, W, 3) and its mask bool (H, W). The same for the same index, size and seed.

    Args:
        empty: without a polyp, and none of the scenes that are drawn otherwise.
    """
    random = np.random.default_rng([VERSION, seed, index, *([1] if empty else [])])
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    y, x = (rows - size[0] / 2) / min(size), (columns - size[1] / 2) / min(size)
    image = _mucosa(random, y, x)
    mask = np.zeros(size, np.bool_)
    polyps = 0 if empty or random.random() < NO_POLYP else int(random.choice([1, 1, 1, 1, 1, 2, 2, 3]))
    for _ in range(polyps):
        image, mask = _add_polyp(random, image, mask, y, x)
    image = _add_highlights(random, image)
    image, visible = _add_optics(random, image, y, x)
    noisy = image + random.normal(0, 0.012, image.shape)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), mask & visible


def _noise(random: Generator, shape: tuple[int, ...], scale: float) -> Field:
    """Smooth noise of about unit spread; ``scale`` is the size of its features in pixels."""
    small = random.normal(size=(max(2, int(shape[0] / scale) + 2), max(2, int(shape[1] / scale) + 2)))
    return np.asarray(cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float64)


def _mucosa(random: Generator, y: Field, x: Field) -> NDArray[np.float64]:
    """The wall: colour, light falling off into the lumen, rings of folds, vessels."""
    cy, cx = random.uniform(-0.35, 0.35, 2)
    warp = 0.06 * _noise(random, x.shape, 60)
    radius = np.hypot(y - cy + warp, x - cx + 0.05 * _noise(random, x.shape, 60))
    angle = np.arctan2(y - cy, x - cx)
    waves = random.uniform(0.3, 0.9) * np.sin(3 * angle + random.uniform(0, 6))
    rings = np.sin(random.uniform(9, 16) * np.log(radius + 0.15) + waves)
    shade = 0.35 + 0.75 * np.clip(radius / random.uniform(0.5, 0.9), 0, 1) + 0.13 * np.clip(rings, -1, 0.7)
    color = np.array([random.uniform(0.68, 0.9), random.uniform(0.36, 0.52), random.uniform(0.26, 0.42)])
    image = shade[..., None] * color + 0.02 * _noise(random, x.shape, 9)[..., None]
    for _ in range(int(random.integers(3, 8))):
        image -= _vessel(random, x.shape)[..., None] * np.array([0.05, 0.12, 0.1])
    return np.clip(image, 0, 1)


def _vessel(random: Generator, shape: tuple[int, ...]) -> Field:
    steps = np.cumsum(random.normal(0, 0.25, 40))
    heading = random.uniform(0, 2 * np.pi) + steps
    start = random.uniform(0, 1, 2) * np.array(shape[:2])
    path = start + np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1) * 6, 0)
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.polylines(canvas, [path[:, ::-1].astype(np.int32).reshape(-1, 1, 2)], False, 255, int(random.integers(1, 3)), cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 1.0), np.float64) / 255


def _add_polyp(
    random: Generator, image: NDArray[np.float64], mask: NDArray[np.bool_], y: Field, x: Field
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A dome with a wavy outline, redder or paler than the wall, bright towards the camera, with a shadow at its foot."""
    size = float(np.exp(random.uniform(np.log(0.07), np.log(0.33))))
    cy, cx = random.uniform(-0.3, 0.3), random.uniform(-0.42, 0.42)
    angle = np.arctan2(y - cy, x - cx)
    tilt, squeeze = random.uniform(0, np.pi), random.uniform(0.65, 1.0)
    across = (x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt)
    along = (-(x - cx) * np.sin(tilt) + (y - cy) * np.cos(tilt)) / squeeze
    outline = 1 + sum(random.uniform(-0.5, 0.5) / (n + 2) * np.cos(n * angle + random.uniform(0, 6)) for n in range(2, 6))
    distance = np.hypot(across, along) / (size * outline)
    inside = distance < 1
    height = np.sqrt(np.clip(1 - distance**2, 0, 1))
    light = 0.62 + 0.5 * height + 0.12 * ((x - cx) * random.uniform(-1, 1) + (y - cy) * random.uniform(-1, 1)) / size
    tint = np.array([random.uniform(0.95, 1.15), random.uniform(0.72, 1.12), random.uniform(0.72, 1.12)])
    local = image[inside].mean(0) if inside.any() else np.array([0.7, 0.4, 0.3])
    bumps = 0.03 * _noise(random, x.shape, random.uniform(4, 10))
    surface = np.clip((light + bumps)[..., None] * (0.35 * local + 0.65 * np.array([0.78, 0.42, 0.36])) * tint, 0, 1)
    shadow = np.exp(-(((distance - 1.06) / 0.12) ** 2)) * ~inside * 0.28
    edge = np.asarray(cv2.GaussianBlur(inside.astype(np.float64), (0, 0), 0.8))[..., None]
    return (image * (1 - shadow[..., None])) * (1 - edge) + surface * edge, mask | inside


def _add_highlights(random: Generator, image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Specular spots: small, saturated, mostly where the surface is already bright."""
    bright = image.mean(2)
    for _ in range(int(random.integers(4, 22))):
        candidates = random.integers(0, [image.shape[0], image.shape[1]], (6, 2))
        row, column = max(candidates, key=lambda place: bright[place[0], place[1]])
        spot = np.zeros(bright.shape, np.uint8)
        axes = (int(random.integers(1, 7)), int(random.integers(1, 4)))
        cv2.ellipse(spot, (int(column), int(row)), axes, float(random.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
        strength = np.asarray(cv2.GaussianBlur(spot, (0, 0), 0.9), np.float64)[..., None] / 255
        image = image * (1 - strength) + strength * random.uniform(0.88, 1.0)
    return image


def _add_optics(
    random: Generator, image: NDArray[np.float64], y: Field, x: Field
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Vignette, white balance, slight blur, and in most scenes the black octagon of an endoscope's field of view."""
    vignette = 1 - random.uniform(0.25, 0.6) * np.clip(np.hypot(y, x) / 0.85, 0, 1) ** 2
    image = image * vignette[..., None] * random.uniform(0.85, 1.1) * random.uniform(0.94, 1.06, 3)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.4, 1.3))))
    visible = np.ones(x.shape, np.bool_)
    if random.random() < 0.7:
        reach = random.uniform(0.92, 1.08)
        visible = (np.abs(x) + np.abs(y) < reach) & (np.abs(x) < random.uniform(0.6, 0.66)) & (np.abs(y) < 0.49)
    return image * visible[..., None], visible


def write_phantoms(
    root: Path, number: int, *, seed: int = 0, size: tuple[int, int] = (288, 384), empty: bool = False
) -> Path:
    """Write ``images/`` and ``masks/`` of the first ``number`` scenes to ``root``, in one step. Returns ``root``.

    A folder that already holds exactly this set is left as it is.

    Raises:
        DataError: ``root`` holds anything else, or cannot be written.
    """
    drawn = {"version": VERSION, "number": number, "seed": seed, "size": list(size)}
    marker = json.dumps({**drawn, "empty": True} if empty else drawn)
    if _holds(root, marker):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".phantom-", dir=root.parent, ignore_cleanup_errors=True) as draft:
            folder = Path(draft) / "set"  # a temporary folder itself is closed to other users
            folder.mkdir()
            for index in range(number):
                image, mask = phantom(index, size=size, seed=seed, empty=empty)
                write_image(folder / "images" / f"phantom_{index:05d}.png", image)
                write_mask(folder / "masks" / f"phantom_{index:05d}.png", mask)
            (folder / "phantom.json").write_text(marker, encoding="utf-8")
            os.replace(folder, root)
    except OSError as error:
        if not _holds(root, marker):  # else another process was faster
            raise DataError(f"cannot write {number} phantoms to {root} ({error.strerror}); "
                            "remove it, or choose another folder") from None
    return root


def _holds(root: Path, marker: str) -> bool:
    try:
        return (root / "phantom.json").read_bytes() == marker.encode()
    except OSError:
        return False


def phantom_folder(number: int, *, seed: int = 0, empty: bool = False) -> Path:
    """The folder of a phantom set in the cache ($GPS_SEG_CACHE, else ~/.cache/gps_seg), made if it is not there.

    Args:
        empty: of scenes without a polyp.

    Raises:
        DataError: as :func:`write_phantoms`.
    """
    cache = Path(os.environ.get("GPS_SEG_CACHE") or Path.home() / ".cache" / "gps_seg")
    kind = "empty-phantom" if empty else "phantom"
    return write_phantoms(cache / f"{kind}-{VERSION}-{number}-{seed}", number, seed=seed, empty=empty)
