"""A model that ``gps-seg export RUN --onnx DIR`` wrote: its description, and its answers by a runtime that is not torch.

What lies around the network (resizing, thresholds, mirror images, the presence threshold) is the package's own, so an answer
differs from torch's by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from gps_seg.config import SamConfig, Section, SegmentationEvaluateConfig, SegmentationTrainConfig
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files import sha256
from gps_seg.models.decoder import SamOutput
from gps_seg.models.sam import Rounds
from gps_seg.models.spec import SamSpec
from gps_seg.packages import import_extra
from gps_seg.runs.folder import read_page
from gps_seg.runs.task_model import TaskModel
from gps_seg.tasks.segmentation.task import Segmentation

ABOUT_FILE, MODEL_FILE, ENCODER_FILE, DECODER_FILE = "onnx.json", "model.onnx", "encoder.onnx", "decoder.onnx"
OUTPUTS = ("probability", "logits", "quality")
Answering = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]  # image (B, 3, S, S) -> OUTPUTS by name


class Expected(Section):
    """What the network expects of a picture, see :class:`gps_seg.models.sam.SamSpec`."""

    name: str
    input_size: int = Field(ge=1)
    native_size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride: int = Field(ge=1)
    resize: Literal["longest_side", "squash"]
    stretch: bool = False
    step: int = Field(0, ge=0)


class Calibrated(Section):
    """What gps-seg calibrate found; ``threshold`` is on the calibrated scale."""

    temperature: float = Field(gt=0)
    threshold: float | None = None


class About(Section):
    """onnx.json.

    Attributes:
        how: what to do before and after, in words, for readers that have no gps-seg.
        picture: what the network expects.
        threshold: of the probability as it comes; presence: the quality below which the answer is that there is no polyp.
        flips: whether gps-seg averages over mirror images.
        has_quality: whether the quality was trained; else it says nothing.
        opset: of the files. files: sha256 by name.
        difference: largest one of a probability from torch's, where the export was checked.
    """

    format: Literal["gps-seg onnx 1"]
    how: dict[str, str]
    picture: Expected
    threshold: float = Field(gt=0, lt=1)
    presence: float | None = Field(None, ge=0, le=1)
    flips: bool
    has_quality: bool
    calibration: Calibrated | None = None
    base_sha256: str
    delta_sha256: str
    opset: int
    files: dict[str, str]
    difference: float


class OnnxSam(nn.Module):
    """An exported network in the place of a :class:`gps_seg.models.sam.SamModel`; it hears no prompts and has no gradient."""

    def __init__(self, spec: SamSpec, answering: Answering) -> None:
        super().__init__()
        self.spec, self._answering = spec, answering

    def forward(self, image: Tensor, rounds: Rounds | None = None) -> SamOutput:
        """Image (B, 3, S, S) -> logits and quality. Raises ConfigError: a prompt."""
        if rounds is not None:
            raise ConfigError("an exported model answers without a prompt: load the run itself for evaluate.prompt")
        found = self._answering(np.ascontiguousarray(image.cpu().numpy(), np.float32))
        return SamOutput(torch.from_numpy(found["logits"].copy()), torch.from_numpy(found["quality"].copy()))


@dataclass(frozen=True)
class Exported(TaskModel):
    """What :func:`load_exported` gives; predicts as a :class:`gps_seg.runs.load.Run` does, in the runtime ``engine``."""

    folder: Path
    about: About
    engine: str

    @property
    def threshold(self) -> float:
        """The run's own."""
        return self.about.threshold


def load_exported(folder: Path, engine: str = "onnx", *, device: str = "auto", presence: float | None = None) -> Exported:
    """Open an export with ONNX Runtime or OpenVINO.

    Args:
        engine: onnx or openvino.
        device: auto, cpu or cuda; OpenVINO computes on the CPU.
        presence: quality below which the answer is that there is no polyp; default: the export's.

    Raises:
        ConfigError: an unknown engine, one that is not installed, a device it does not have, or a presence without a quality.
        CheckpointError: no export there, a file that was changed, or one that the runtime refuses.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine: expected torch, {' or '.join(ENGINES)}, got {engine!r}")
    about = read_about(folder)
    if presence is not None and not about.has_quality:
        raise ConfigError(f"--presence: the model in {folder} has no quality to compare with")
    answering = ENGINES[engine](folder / MODEL_FILE, device)
    evaluate = SegmentationEvaluateConfig(threshold=about.threshold, flips=about.flips,
                                          presence=about.presence if presence is None else presence)
    sam = SamConfig(input_size=about.picture.input_size, resize=about.picture.resize)
    task = Segmentation(sam, train=SegmentationTrainConfig(quality=about.has_quality), evaluate=evaluate)
    model = OnnxSam(SamSpec(**about.picture.model_dump()), answering)
    return Exported(task, model, (), torch.device("cpu"), "fp32", folder, about, engine)


def is_exported(folder: Path) -> bool:
    """Whether a folder is one of ``gps-seg export --onnx``."""
    return (folder / ABOUT_FILE).is_file()


def read_about(folder: Path) -> About:
    """onnx.json of an export whose files are as they were written. Raises CheckpointError."""
    about = read_page(About, folder / ABOUT_FILE, "an export of gps-seg export RUN --onnx DIR")
    for name, digest in about.files.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise CheckpointError(f"{folder / name}: expected the file that {ABOUT_FILE} describes, it is of another model, "
                                  "damaged or missing: export the run again")
    return about


def onnx_runtime(path: Path, device: str = "cpu") -> Answering:
    """A promptless file in ONNX Runtime. Raises as :func:`load_exported`."""
    runtime: Any = import_extra("onnxruntime", "onnx")
    has_cuda = "CUDAExecutionProvider" in runtime.get_available_providers()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not has_cuda):
        raise ConfigError(f"--device: expected auto or cpu{' or cuda' * has_cuda}, got {device!r}")
    providers = ["CUDAExecutionProvider"] * (has_cuda and device != "cpu") + ["CPUExecutionProvider"]
    with _one_line(path, "ONNX Runtime"):
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, and said once
        session = runtime.InferenceSession(str(path), options, providers=providers)
    _check_names(path, [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()])

    def answering(image: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with _one_line(path, "ONNX Runtime", image):
            return dict(zip(OUTPUTS, session.run(OUTPUTS, {"image": image}), strict=True))

    return answering


def openvino(path: Path, device: str = "cpu") -> Answering:
    """The same in OpenVINO, in fp32 also where the processor multiplies bf16."""
    runtime: Any = import_extra("openvino", "openvino")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device: expected auto or cpu with --engine openvino, got {device!r}")
    with _one_line(path, "OpenVINO"):
        model = runtime.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    _check_names(path, [one.any_name for one in model.inputs], [one.any_name for one in model.outputs])

    def answering(image: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with _one_line(path, "OpenVINO", image):
            found = model({"image": image})
            return {name: np.asarray(found[name]) for name in OUTPUTS}

    return answering


ENGINES: dict[str, Callable[[Path, str], Answering]] = {"onnx": onnx_runtime, "openvino": openvino}


@contextmanager
def _one_line(path: Path, runtime: str, image: NDArray[np.float32] | None = None) -> Iterator[None]:
    """Turn whatever a runtime raises within the block into a line that says what was refused; its errors share no class."""
    try:
        yield
    except Exception as error:
        what = "the file" if image is None else f"a batch of {len(image)} of {image.shape[3]} x {image.shape[2]} px"
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: {runtime} refuses {what} ({reason}); export the run again, and use a runtime that is as "
                              "new as the file's opset") from None


def _check_names(path: Path, inputs: list[str], outputs: list[str]) -> None:
    if inputs != ["image"] or not set(OUTPUTS) <= set(outputs):
        raise CheckpointError(f"{path}: expected an input image and the outputs {', '.join(OUTPUTS)}, got {', '.join(inputs)} "
                              f"and {', '.join(outputs)}: it is the ONNX file of another model")
