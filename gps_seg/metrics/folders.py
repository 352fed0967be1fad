"""Where the masks of a folder lie."""

from __future__ import annotations

from pathlib import Path

from gps_seg.data.images import list_images
from gps_seg.errors import DataError


def existing_folder(folder: Path) -> Path:
    """The folder itself. Raises DataError if it is not there."""
    if not folder.is_dir():
        raise DataError(f"expected a folder of masks at {folder}, found none")
    return folder


def mask_folder(folder: Path) -> Path:
    """The folder itself, or its ``masks`` folder if it holds no images. Raises DataError if it is not there."""
    if not list_images(existing_folder(folder)) and (folder / "masks").is_dir():
        return folder / "masks"
    return folder
