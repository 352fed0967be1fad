"""How each corruption of ``data.corruptions`` is drawn. Numpy and OpenCV, no torch.

Every effect takes (image float32 (H, W, 3) in 0..255, strength, random, view bool (H, W)) and returns the changed image, to be
rounded and cut to 0..255 by the caller; it draws the same random numbers for every strength.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.float32]

NOISE_LINES, VIDEO_LINES = 352, 576


def _side(image: Field) -> int:
    return min(image.shape[:2])


def _smooth_noise(random: Generator, shape: tuple[int, int], scale: float) -> Field:
    """Noise of zero mean and unit spread, float32 (H, W), with round features of about ``scale`` pixels (at least 1)."""
    steps = min(3.0, scale)  # of the coarse grid, in one feature
    small = random.normal(size=[int(side * steps / scale) + 3 for side in shape]).astype(np.float32)
    if steps > 1:
        small = cv2.GaussianBlur(small, (0, 0), 0.4 * steps)
    field = np.asarray(cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))
    return (field - field.mean()) / (field.std() + 1e-6)


def _spread(image: Field, offsets: NDArray[np.float64]) -> Field:
    """The mean of copies of the image, shifted by offsets (N, 2) in (row, column) pixels that may be fractions."""
    half = int(np.abs(offsets).max()) + 2
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    low = np.floor(offsets).astype(int)
    part = offsets - low
    for row in (0, 1):
        for column in (0, 1):
            weight = np.abs(1 - row - part[:, 0]) * np.abs(1 - column - part[:, 1])
            np.add.at(kernel, (low[:, 0] + row + half, low[:, 1] + column + half), weight)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def motion_blur(image: Field, strength: float, random: Generator, _view: NDArray[np.bool_]) -> Field:
    """The tip moves during the exposure: a slightly bent path, ``strength`` of the side long."""
    angle, bend = random.uniform(0, np.pi), random.uniform(-0.4, 0.4)
    step = np.linspace(-0.5, 0.5, 257)
    along, across = step * strength * _side(image), bend * step**2 * strength * _side(image)
    return _spread(image, np.stack([along * np.sin(angle) + across * np.cos(angle),
                                    along * np.cos(angle) - across * np.sin(angle)], axis=1))


def defocus(image: Field, strength: float, _random: Generator, _view: NDArray[np.bool_]) -> Field:
    """A disc as point spread, of radius ``strength`` of the side."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 129)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return _spread(image, grid[np.hypot(*grid.T) <= 1] * strength * _side(image))


def specular(image: Field, strength: float, random: Generator, view: NDArray[np.bool_]) -> Field:
    """Wet glints, white, ragged and mostly where the wall is bright, over ``strength`` of the view, with a faint bloom."""
    side, shape = _side(image), (image.shape[0], image.shape[1])
    light = cv2.GaussianBlur(image.mean(axis=2), (0, 0), 0.02 * side)
    light = (light - light[view].mean()) / (light[view].std() + 1e-6)
    ragged, patches = (_smooth_noise(random, shape, max(1.5, part * side)) for part in (0.022, 0.1))
    height = ragged + 0.9 * patches + 0.9 * np.clip(light, -2, 1.5)
    ordered = np.sort(height[view])
    level = float(ordered[int((1 - strength) * (ordered.size - 1))])
    spots = np.clip((height - level) / 0.35 + 0.5, 0, 1)
    bloom = cv2.GaussianBlur(spots, (0, 0), max(0.6, 0.012 * side))
    cover = 1 - (1 - spots) * (1 - 0.35 * np.clip(bloom, 0, 1))
    return image + cover[..., None] * (np.array([255, 254, 250], np.float32) - image).clip(0)


def bubbles(image: Field, strength: float, random: Generator, view: NDArray[np.bool_]) -> Field:
    """Foam: ``strength`` bubbles in clusters, none on another, each a thin shell with a dark rim and a glint."""
    side, held = _side(image), np.argwhere(view)
    centres, placed = held[random.integers(0, len(held), 5)], np.zeros((0, 3))
    image = image.copy()
    for _ in range(20 * int(strength)):
        radius = side * float(np.exp(random.uniform(np.log(0.014), np.log(0.075))))
        near = centres[random.integers(0, len(centres))] + random.normal(0, 0.1 * side, 2)
        row, column = near if random.random() < 0.8 else held[random.integers(0, len(held))]
        if not (0 <= row < view.shape[0] and 0 <= column < view.shape[1] and view[int(row), int(column)]):
            continue
        gaps = np.hypot(placed[:, 0] - row, placed[:, 1] - column) - placed[:, 2]
        if gaps.size and gaps.min() < 0.97 * radius:
            continue
        placed = np.vstack([placed, [row, column, radius]])
        _draw_bubble(image, float(row), float(column), radius)
        if len(placed) >= strength:
            break
    return image


def _draw_bubble(image: Field, row: float, column: float, radius: float) -> None:
    """Paint one bubble over the image, in place."""
    top, left = max(0, int(row - radius - 2)), max(0, int(column - radius - 2))
    patch = image[top : max(0, int(row + radius + 3)), left : max(0, int(column + radius + 3))]
    if not patch.size:
        return
    y, x = np.mgrid[0 : patch.shape[0], 0 : patch.shape[1]].astype(np.float32)
    y, x = (y + top - row) / radius, (x + left - column) / radius
    distance, soft = np.hypot(y, x), max(0.06, 0.6 / radius)

    def blob(at: tuple[float, float], size: float) -> Field:
        return np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / size**2)

    inside = np.clip((1 - distance) / soft, 0, 1)
    rim = np.exp(-(((distance - 0.93) / max(0.07, soft / 2)) ** 2))
    shell = np.exp(-(((distance - 0.80) / 0.11) ** 2)) * np.clip(0.55 - 0.45 * (y + x), 0.1, 1)
    patch *= (1 - 0.45 * rim * (distance < 1.1))[..., None]
    glints = 0.95 * blob((-0.42, -0.38), 0.2) + 0.35 * blob((0.5, 0.45), 0.16)
    white = np.clip(0.10 * inside + 0.40 * shell * inside + glints, 0, 1)
    patch += (white * (distance < 1.05))[..., None] * (np.array([250, 248, 238], np.float32) - patch)


def dark_border(image: Field, strength: float, random: Generator, _view: NDArray[np.bool_]) -> Field:
    """A narrower view: light falls off outwards, then black outside a circle or octagon, off the centre by a little.

    ``strength`` is the reach of the view, 1 where it touches the corners of the image.
    """
    rows, columns = image.shape[:2]
    shift = random.uniform(-0.05, 0.05, 2)
    y = (np.linspace(-1, 1, rows, dtype=np.float32) - shift[0])[:, None]
    x = (np.linspace(-1, 1, columns, dtype=np.float32) - shift[1])[None, :]
    if random.random() < 0.5:
        reach = np.hypot(y * rows, x * columns) / np.hypot(rows, columns)
    else:
        reach = np.maximum(np.maximum(np.abs(y), np.abs(x)), 0.72 * (np.abs(y) + np.abs(x))) / 1.44
    seen = np.clip((strength - reach) / 0.012 + 0.5, 0, 1)
    falloff = 1 - 1.2 * (1 - strength) * np.clip(reach / strength, 0, 1) ** 2
    return image * (seen * falloff)[..., None]


def colour_shift(image: Field, strength: float, random: Generator, _view: NDArray[np.bool_]) -> Field:
    """Gains of the channels towards a hue of the image's own, as far apart as ``strength``; the mean brightness stays."""
    angle = random.uniform(0, 2 * np.pi)
    red_blue, green = np.array([1, 0, -1]) / np.sqrt(2), np.array([-1, 2, -1]) / np.sqrt(6)
    gains = np.exp(strength * (np.cos(angle) * red_blue + np.sin(angle) * green))
    means = image.mean(axis=(0, 1))
    return image * (gains * means.sum() / ((gains * means).sum() + 1e-6)).astype(np.float32)


def jpeg(image: Field, strength: float, _random: Generator, _view: NDArray[np.bool_]) -> Field:
    """Through a JPEG file of quality ``strength``."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, int(strength)]
    _done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image.astype(np.uint8), cv2.COLOR_RGB2BGR), settings)
    return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32)


def noise(image: Field, strength: float, random: Generator, _view: NDArray[np.bool_]) -> Field:
    """Sensor noise, of deviation ``strength`` of full scale on white and half of it on black, with grain and colour."""
    shape, grain = (image.shape[0], image.shape[1]), max(1.0, _side(image) / NOISE_LINES)
    if grain == 1:
        grains = [random.normal(size=shape).astype(np.float32) for _ in range(4)]
    else:
        grains = [_smooth_noise(random, shape, grain) for _ in range(4)]
    field = 0.8 * grains[0][..., None] + 0.6 * np.stack(grains[1:], axis=2)
    return (image + 255 * strength * np.sqrt(0.25 + 0.75 * image / 255) * field).astype(np.float32)


def interlace(image: Field, strength: float, random: Generator, _view: NDArray[np.bool_]) -> Field:
    """Every other line from a moment later, when the scene has moved by ``strength`` of the side, mostly sideways."""
    shift = strength * _side(image) * random.choice([-1, 1])
    matrix = np.array([[1, 0, shift], [0, 1, random.uniform(-0.3, 0.3) * shift]])
    size = (image.shape[1], image.shape[0])
    later = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    lines = np.arange(image.shape[0]) // max(1, round(image.shape[0] / VIDEO_LINES)) % 2 == 1
    return np.where(lines[:, None, None], later, image)


def gain(image: Field, strength: float, _random: Generator, _view: NDArray[np.bool_]) -> Field:
    """Displayed values times ``strength``, cut off at white."""
    return image * strength
