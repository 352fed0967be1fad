"""Answers of the app for its tests: phantoms with exact masks as probabilities, and a run folder's files without training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.answer.quality import Assessment
from gps_seg_app.answer.regions import find
from gps_seg_app.answer.result import Result
from gps_seg_app.intake.pictures import Picture


def scene(index: int = 2, size: tuple[int, int] = (120, 160)) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A phantom (H, W, 3) and probabilities (H, W): 0.9 on its polyps, 0.1 elsewhere."""
    pixels, mask = phantom(index, size=size)
    return pixels, np.where(mask, np.float32(0.9), np.float32(0.1))


def answer(
    pixels: NDArray[np.uint8], probability: NDArray[np.float32], *, reason: str = "", mask: NDArray[np.bool_] | None = None,
    **more: Any,
) -> Result:
    """The result for a picture; with a reason it is not assessable."""
    assessment = Assessment(not reason, reason, np.ones(pixels.shape[:2], np.bool_), burnt_in_text=False)
    finding = find(probability, 0.5, assessment, mask)
    picture = Picture(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
    return Result(picture, probability, finding, assessment, 0.5, **more)


def discs(count: int, size: tuple[int, int] = (400, 480)) -> NDArray[np.float32]:
    """Probabilities with that many separate round regions, at most 30."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    found = np.zeros(size, np.float32)
    for number in range(count):
        y, x = 40 + 75 * (number // 6), 40 + 78 * (number % 6)
        found[(rows - y) ** 2 + (columns - x) ** 2 <= (8 + number / 2) ** 2] = 0.9
    return found


def run_folder(folder: Path, *, result: dict[str, Any] | None = None, temperature: float | None = None, **changes: Any) -> Path:
    """The files that a model card reads, as a run of LiteMedSAM on Kvasir-SEG leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "base_sha256": "ab" * 32, "base_model_name_or_path": "lite_medsam", "method": "gps", "threshold": 0.5,
        "data": "kvasir-seg",
        "model": {"name": "lite_medsam", "input_size": 256, "resize": "longest_side"},
        "normalisation": {"mean": [0.0] * 3, "std": [255.0] * 3}, "weights_licence": "Apache-2.0", "gps_seg_version": "0.1.0",
    }
    (folder / "adapter_config.json").write_text(json.dumps(description | changes))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    if temperature is not None:
        (folder / "calibration.json").write_text(json.dumps(
            {
            "format": 1, "temperature": temperature, "data": "kvasir-seg", "split": "inner", "images": 44, "pixels": 1000,
            "nll_before": 0.4, "nll_after": 0.3, "ece_before": 0.2, "ece_after": 0.1,
            "delta_sha256": hashlib.sha256(b"weights").hexdigest()}))
    return folder
