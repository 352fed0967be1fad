"""``gps-seg benchmark video``: frames of a clip a second, all work included, and the model's share of it."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gps_seg.files import write_json
from gps_seg.runs.provenance import surroundings
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.benchmarks.load import SIZE, load_average
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.clips import probe, read_frames
from gps_seg_app.jobs.video import Settings, run_video
from gps_seg_app.limits import AppError

RATE = 25  # frames a second of the drawn clip
ALONE = 8  # frames that the model is timed on alone


def benchmark(
    run: Path, *, clip: Path | None, frames: int, device: str = "auto", fast: bool = False, json_path: Path | None = None
) -> str:
    """Work through a clip as the Video tab does, every frame looked at and the annotated video written.

    Args:
        clip: None: one is drawn, of ``frames`` frames of the picture's size in the other benchmarks.

    Raises:
        AppError: the clip cannot be read.
        CheckpointError: the run cannot be read.
    """
    predictor = Predictor({"run": run}, device=device, fast=fast)
    predictor.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        path = clip or drawn(Path(folder) / "drawn.mp4", frames)
        document = measure(path, predictor, Path(folder))
    precision = predictor.device.partition("(")[2].rstrip(")")
    document |= {"clip": clip.name if clip else "drawn", "input_size": predictor.input_size, "load_average": load_average(),
                 **surroundings(torch.device(predictor.device.partition(" ")[0]), precision)}
    if json_path:
        write_json(json_path, document)
    return (f"{document['frames']} frames of {document['size']} at {predictor.input_size} px: "
            f"{document['frames_per_second']:.2f} a second; the model alone {document['model_s']:.3f} s a frame")


def measure(path: Path, predictor: Predictor, out: Path) -> dict[str, Any]:
    """Frames a second of the whole clip, and the median seconds of the model on its first frames, nothing else at work."""
    first = [frame.pixels for frame in islice(read_frames(path), ALONE)]
    model = median(predictor.predict(pixels, keep=False)[1].model_ms for pixels in first) / 1e3
    result = list(run_video(path, predictor, out, settings=Settings()))[-1].result
    if result is None:
        raise AppError("Expected the clip to be worked through, it was cancelled: run it again.")
    known = probe(path)
    return {"frames": len(result.rows), "size": f"{known.width}x{known.height}", "model_s": model,
            "assessable": sum(row.assessable for row in result.rows), "frames_per_second": result.frames_per_second}


def drawn(path: Path, frames: int) -> Path:
    """A clip of a drawn scene that moves."""
    import av

    scene = phantom(0, size=SIZE)[0]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(frames):
            moved = np.ascontiguousarray(np.roll(scene, 4 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode(None))
    return path
