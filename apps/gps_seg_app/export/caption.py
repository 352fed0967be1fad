"""Words in pictures: a strip below the picture, so that no pixel of the picture itself is touched; PNG files with a comment."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from gps_seg_app.inference.model_card import DISCLAIMER

Pixels = NDArray[np.uint8]
LEAST_WIDTH = 320  # pixels: in a narrower strip words would not fit
BACKGROUND, INK = (24, 28, 34), (255, 214, 102)


def with_strip(pixels: Pixels, lines: Sequence[str]) -> Pixels:
    """The picture (H, W, 3) with a strip of text below; the upper left (H, W) pixels are those that came.

    A picture narrower than 320 pixels gets a dark margin on its right, so that the words can be read.

    Args:
        lines: paragraphs; each is broken at the strip's width.
    """
    height, width = pixels.shape[:2]
    drawn = strip(max(width, LEAST_WIDTH), tuple(lines))
    whole = np.empty((height + drawn.shape[0], drawn.shape[1], 3), np.uint8)
    whole[:height, width:] = BACKGROUND
    whole[:height, :width] = pixels
    whole[height:] = drawn
    return whole


@lru_cache(maxsize=16)  # a clip asks for the same strip thousands of times
def strip(width: int, lines: tuple[str, ...]) -> Pixels:
    """The strip alone, uint8 (h, width, 3); an array that callers must not change."""
    size = int(min(28, max(11, width / 64)))
    font = ImageFont.load_default(size)
    broken = [piece for line in lines for piece in _break(line, font, width - size)]
    step = round(1.3 * size)
    canvas = Image.new("RGB", (width, step * len(broken) + size), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, piece in enumerate(broken):
        draw.text((size / 2, size / 2 + number * step), piece, INK, font)
    return np.asarray(canvas)


def _break(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    pieces = [""]
    for word in line.split():
        longer = f"{pieces[-1]} {word}".strip()
        if font.getlength(longer) <= width or not pieces[-1]:
            pieces[-1] = longer
        else:
            pieces.append(word)
    return pieces


def png(pixels: Pixels | NDArray[np.uint16]) -> bytes:
    """A lossless PNG: uint8 (H, W, 3) or (H, W), or uint16 (H, W). Its only text is the disclaimer."""
    note = PngInfo()
    note.add_text("Disclaimer", DISCLAIMER)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", pnginfo=note, compress_level=4)
    return buffer.getvalue()
