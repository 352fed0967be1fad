"""``--fast``: the model looks at a smaller picture. Loads no torch."""

from __future__ import annotations

STEP = 16  # every model's input is a multiple of it
LEAST = 32


def fast_size(input_size: int) -> int:
    """Three quarters of an input size, a little over half of its pixels: 192 of 256."""
    return max(LEAST, input_size * 3 // 4 // STEP * STEP)
