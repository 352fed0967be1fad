"""Corrected pictures kept as training pairs that ``gps-seg train`` accepts."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import DataError
from gps_seg_app.limits import AppError

LEAST_PAIRS = 3  # one to test, one to choose the training step, one to train


@dataclass(frozen=True)
class SavedPair:
    """Where a pair went: ``images/NAME.png`` and ``masks/NAME.png``, and whether an earlier mask of it was replaced."""

    name: str
    replaced: bool


def save_pair(folder: Path, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> SavedPair:
    """Keep a picture and its corrected mask as a training pair; both are lossless and without metadata.

    The name is made of the pixels alone (the first 16 signs of their sha256), never of a file's name. So the same picture
    saved again replaces its mask, which the result says, and another picture never does. The mask may be empty: that is a
    picture without a polyp.

    Args:
        pixels: uint8 RGB (H, W, 3), as the app decoded it.
        mask: bool (H, W).

    Raises:
        AppError: the sizes differ, or the folder cannot be written.
    """
    if mask.shape != pixels.shape[:2]:
        raise AppError(f"Expected a mask of {pixels.shape[1]} x {pixels.shape[0]} pixels, got {mask.shape[1]} x {mask.shape[0]}: "
                       "open the picture again.")
    name = "picture_" + hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]
    image_file, mask_file = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
    existed = image_file.exists() and mask_file.exists()
    try:
        write_mask(mask_file, mask)
        write_image(image_file, pixels)
    except DataError:
        if not existed:  # half a pair would stop the next training
            mask_file.unlink(missing_ok=True)
        raise AppError("The folder for corrected pictures cannot be written: check its rights and the disk's space.") from None
    return SavedPair(name, existed)


def count_pairs(folder: Path) -> int:
    """How many pairs a folder holds; training needs at least LEAST_PAIRS."""
    images = {path.stem for path in folder.glob("images/*.png")}
    return len(images & {path.stem for path in folder.glob("masks/*.png")})


def finetune_command(folder: Path, *, config: Path, out: Path) -> str:
    """The shell command that fine-tunes on the saved pairs: the base model anew, with a run's own settings.

    Args:
        folder: of :func:`save_pair`. Every fifth pair becomes the test part.
        config: settings to train with, such as ``RUN/config.yaml``.
        out: run folder to make.
    """
    unset = "data.train_list=null data.test_list=null data.train_images=null data.inner_images=null data.test_images=null"
    root = shlex.quote(f"data.root={folder}")
    return (f"gps-seg train {shlex.quote(str(config))} data.name=folder {root} {unset} data.protocol=honest "
            f"--out {shlex.quote(str(out))}")
