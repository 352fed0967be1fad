"""``gps-seg benchmark score``: how long scoring folders takes, from files to a report with intervals. Needs no torch."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gps_seg.commands.score import score_folders
from gps_seg.data.images import write_image, write_mask
from gps_seg.files import write_json
from gps_seg.metrics.measures import BLOCKS
from gps_seg.metrics.report import report

# Name, blocks and target in seconds for 1,000 pairs at 352 x 352 on two CPU cores.
SETS = (("per_image + dataset", ("per_image", "dataset"), 10.0), ("all blocks", BLOCKS, 120.0))
SIZE, IMAGES = 352, 1000


def benchmark(images: int = IMAGES, size: int = SIZE, *, json_path: Path | None = None) -> str:
    """Draw masks and grey probability maps into a temporary folder and time both sets of blocks; returns a table."""
    with tempfile.TemporaryDirectory() as folder:
        predicted, target = Path(folder) / "predicted", Path(folder) / "target"
        for number in range(images):
            grey, mask = draw_pair(number, size)
            write_image(predicted / f"{number:05d}.png", grey)
            write_mask(target / f"{number:05d}.png", mask)
        rows = []
        for name, blocks, seconds in SETS:
            began = time.perf_counter()
            scores = score_folders(predicted, target, blocks=blocks)
            scored = time.perf_counter()
            report(scores, settings={})
            ended = time.perf_counter()
            rows.append({"blocks": name, "seconds": ended - began, "scoring_s": scored - began, "report_s": ended - scored,
                         "target_s": seconds if (images, size) == (IMAGES, SIZE) else None})
    document = {"images": images, "size": size, "cores": os.cpu_count(), "processes": 1, "rows": rows}
    if json_path:
        write_json(json_path, document)
    lines = [f"{images} pairs at {size} x {size}, one process, {os.cpu_count()} cores in the machine",
             f"{'blocks':<22} {'seconds':>8} {'scoring':>8} {'report':>8} {'target':>8}"]
    for row in rows:
        limit = "-" if row["target_s"] is None else f"{row['target_s']:.0f}"
        lines.append(f"{row['blocks']:<22} {row['seconds']:>8.2f} {row['scoring_s']:>8.2f} {row['report_s']:>8.2f} {limit:>8}")
    return "\n".join(lines)


def draw_pair(number: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A noisy map, uint8, and a mask of one to three ellipses, or of none in one image of ten; (size, size) each."""
    random = np.random.default_rng(number)
    mask, other = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    for _ in range(0 if number % 10 == 9 else int(random.integers(1, 4))):
        place, axes = random.integers(size // 5, 4 * size // 5, 2), random.integers(size // 25 + 1, size // 5 + 2, 2)
        moved = place + random.integers(-size // 40 - 1, size // 40 + 2, 2)
        for canvas, middle in ((mask, place), (other, moved)):
            cv2.ellipse(canvas, [int(x) for x in middle], [int(x) for x in axes], float(random.uniform(0, 180)), 0, 360, 1, -1)
    smooth = cv2.GaussianBlur(other.astype(np.float32) * 240, (0, 0), size / 100)
    return np.clip(smooth + random.uniform(0, 12, smooth.shape), 0, 255).astype(np.uint8), mask.astype(np.bool_)
