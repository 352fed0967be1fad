"""What lies beside exported files: onnx.json for programs and people, and a settings file for an annotation tool."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gps_seg.commands.onnx.parts import FRAME, LOW
from gps_seg.files import sha256
from gps_seg.models.spec import SamSpec
from gps_seg.runs.calibration import read_calibration
from gps_seg.runs.exported import DECODER_FILE, ENCODER_FILE, MODEL_FILE, About, Calibrated, Expected
from gps_seg.runs.folder import DELTA_FILE
from gps_seg.runs.load import Run
from gps_seg.tasks.segmentation.task import Segmentation


def describe(run: Run, files: Path, opset: int, difference: float) -> About:
    """onnx.json of a run whose ONNX files lie in a folder. No path, host or user name is in it."""
    task: Any = run.task
    calibration = read_calibration(run.folder)
    return About(
        format="gps-seg onnx 1", how=_how(run.model.spec, task, pair=(files / ENCODER_FILE).is_file()),
        picture=Expected(**asdict(run.model.spec)), threshold=run.threshold, presence=task.evaluate.presence,
        flips=task.evaluate.flips, has_quality=task.train.quality,
        calibration=Calibrated(temperature=calibration.temperature, threshold=calibration.threshold) if calibration else None,
        base_sha256=run.description["base_sha256"], delta_sha256=sha256(run.folder / DELTA_FILE), opset=opset,
        files={path.name: sha256(path) for path in sorted(files.glob("*.onnx*"))}, difference=difference,
    )


def _how(spec: SamSpec, task: Segmentation, *, pair: bool) -> dict[str, str]:
    size = spec.input_size
    resize = f"to {size} x {size} pixels" if spec.resize == "squash" else (
        f"so that the longer side has {size} pixels: each side times {size} / longer side, plus 0.5, rounded down, at least 1")
    stretch = "the darkest value to 0 and the brightest to 255, then " if spec.stretch else ""
    crop = "" if spec.resize == "squash" else "cut off the padding, "
    words = {
        "resize": f"resize RGB {resize}; bilinear with antialiasing, as Pillow's BILINEAR",
        "normalise": stretch + "float32, (pixel in 0..255 - mean) / std by channel; then zeros to the right and below up to "
                     f"{size} x {size}; axes batch, channel, row, column",
        MODEL_FILE: f"input image (batch, 3, {size}, {size}); outputs: probability of polyp at the input's size, logits on the "
                    "model's own grid, quality (the model's own estimate of the mask's IoU, 0..1)",
        "mask": f"resize the logits to {size} x {size} (bilinear, half-pixel centres), {crop}resize them to the picture's size, "
                "take the sigmoid: polyp is above threshold",
        "presence": "where presence is a number: no polyp if the quality is below it",
        "calibration": "where it is given: the calibrated probability is sigmoid(logits / temperature), with its own "
                       "threshold",
    }
    if task.evaluate.flips:
        words["flips"] = "gps-seg answers with the mean of the logits over the four mirror images of the content"
    if pair:
        words[ENCODER_FILE] = (f"input_image (height, width, 3): RGB as float32 in 0..255, the longer side resized to {FRAME}; "
                               "normalises and pads by itself")
        words[DECODER_FILE] = (f"segment-anything's inputs and outputs: places in the {FRAME} px frame, masks of {LOW} px, "
                               "masks as logits at orig_im_size (height, width)")
    return words


def tool_settings(name: str) -> dict[str, Any]:
    """What X-AnyLabeling loads as a custom model. Source: CVHub520/X-AnyLabeling, services/auto_labeling/segment_anything.py."""
    return {"type": "segment_anything", "name": f"gps_seg_{name}", "display_name": f"gps-seg {name}",
            "encoder_model_path": ENCODER_FILE, "decoder_model_path": DECODER_FILE, "input_size": FRAME, "max_width": FRAME,
            "max_height": FRAME * 2 // 3}
