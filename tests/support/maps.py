"""Grey maps and masks of every kind, each from its number alone, for the tests of the pranet block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CASES = 400


def grey_case(number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A map, uint8 (H, W), and a target mask. Whole numbers only, so that no library's rounding can change it."""
    rng = np.random.default_rng([2026, number])
    height, width = rng.integers(2, 34, 2)
    mask = np.zeros((height, width), np.bool_)
    a, b = rng.integers(0, height, 2), rng.integers(0, width, 2)
    mask[a.min() : a.max() + 1, b.min() : b.max() + 1] = True
    noise = rng.integers(0, 256, (height, width))
    kind = number % 8
    if kind == 1:
        mask = rng.integers(0, 1 + number % 5, (height, width)) == 1
    if kind == 2:
        mask[:] = number % 16 == 2
    grey = {
        0: noise, 1: noise, 2: noise, 3: mask * 200 + noise // 5, 4: mask * 255, 5: (~mask) * 180 + noise // 8,
        6: np.full_like(noise, noise[0, 0]), 7: noise // 64 + mask * 3,
    }[kind]
    if kind in (4, 6) and number % 3:
        grey = np.roll(grey, 2, axis=1)
    return np.clip(grey, 0, 255).astype(np.uint8), mask
