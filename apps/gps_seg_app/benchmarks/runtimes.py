"""``gps-seg benchmark runtimes``: LiteMedSAM's encoder in this package against ONNX Runtime and OpenVINO, in one interleaved run.

The two are no dependencies: ``pip install onnx onnxscript onnxruntime openvino`` for this command alone. Masks are those of the
pretrained model asked with the true box, so that they mean something without any training.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gps_seg.data.images import read_image, read_mask
from gps_seg.data.transforms import fit_image, fit_mask
from gps_seg.errors import ConfigError
from gps_seg.files import write_json
from gps_seg.metrics.masks import count, dice
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import load_sam
from gps_seg.runs.provenance import surroundings
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.sets import set_pairs
from gps_seg_app.benchmarks.load import load_average

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
THREADS = 2
Encode = Callable[[Tensor], Tensor]


class _Encoder(nn.Module):
    """The encoder alone, as exporters want it, on one of its ways."""

    def __init__(self, model: SamModel, *, lean: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.lean, self.dtype = model, lean, dtype

    def forward(self, image: Tensor) -> Tensor:
        self.model.lean = self.lean
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.model.encode(image)


def benchmark(data: str, *, images: int, repetitions: int, batches: Sequence[int] = (1, 4), json_path: Path | None = None) -> str:
    """Time every runtime at every batch, and compare the masks that come of their embeddings.

    Args:
        data: a data set or folder with masks, for the agreement.

    Raises:
        ConfigError: a package is missing, or the data set has no image.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"expected {', '.join(PACKAGES)} for the other runtimes, not installed: {', '.join(missing)}; "
                          f"pip install {' '.join(missing)}")
    known = set_pairs(data)
    pairs = [pair for pair in known[:: max(1, len(known) // images)][:images] if read_mask(pair.mask).any()]
    if not pairs:
        raise ConfigError(f"--data: expected images with a polyp, {data} holds none")
    torch.set_num_threads(THREADS)
    model = load_sam("lite_medsam").eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for batch in batches:
            found = runtimes(model, batch, Path(folder))
            rows += measure(found, torch.rand(batch, 3, model.spec.input_size, model.spec.input_size), repetitions)
            if batch == 1:
                alike = agreement(model, found, pairs)
    for row in rows:
        row.update(alike.get(row["runtime"], {}))
    document = {"command": shlex.join(["gps-seg", *sys.argv[1:]]), "load_average": load_average(),
                "model": model.spec.name, "size": model.spec.input_size, "threads": THREADS, "images": len(pairs),
                "data": Path(data).name, "rows": rows, "runtimes": {name: metadata.version(name) for name in PACKAGES},
                **surroundings(torch.device("cpu"), "see rows")}
    if json_path:
        write_json(json_path, document)
    return table(rows)


def runtimes(model: SamModel, batch: int, folder: Path) -> dict[str, Encode]:
    """Every way to compute the embedding of a batch, by name."""
    path = folder / f"encoder-{batch}.onnx"
    side = model.spec.input_size
    with torch.inference_mode(mode=False), torch.no_grad():
        encoder, image = _Encoder(model, lean=False).eval(), torch.zeros(batch, 3, side, side)
        torch.onnx.export(encoder, (image,), path, dynamo=True, verbose=False)
    return {
        "packaged fp32": _Encoder(model, lean=False),
        "packaged bf16": _Encoder(model, lean=False, dtype=torch.bfloat16),
        "ours fp32": _Encoder(model, lean=True),
        "ours bf16": _Encoder(model, lean=True, dtype=torch.bfloat16),
        "onnxruntime fp32": _onnxruntime(path),
        "onnxruntime int8": _onnxruntime(_quantised(path)),
        "openvino fp32": _openvino(path, "f32"),
        "openvino bf16": _openvino(path, "bf16"),
    }


def _onnxruntime(path: Path) -> Encode:
    """On CPUs other than Arm's it has no bf16 kernels. Threads that spin would slow down whoever comes after them here."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


def _quantised(path: Path) -> Path:
    """Matrix products in int8, activations scaled as they come; convolutions stay as they are."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    small = path.with_suffix(".int8.onnx")
    quantization.quantize_dynamic(str(path), str(small), op_types_to_quantize=["MatMul", "Gemm"],
                                  extra_options={"DefaultTensorType": 1})
    return small


def _openvino(path: Path, precision: str) -> Encode:
    runtime: Any = importlib.import_module("openvino")
    core = runtime.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    return lambda image: torch.from_numpy(compiled([image.numpy()])[0].astype(np.float32))


def measure(found: dict[str, Encode], image: Tensor, repetitions: int) -> list[dict[str, Any]]:
    """Seconds an image and seconds of processor time an image of each runtime, taking turns."""
    wall: dict[str, list[float]] = {name: [] for name in found}
    busy: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repetitions + 1):
        for name, encode in found.items():
            start, used = time.perf_counter(), time.process_time()
            encode(image)
            if turn:  # the first fills caches
                wall[name].append((time.perf_counter() - start) / len(image))
                busy[name].append((time.process_time() - used) / len(image))
    return [{"runtime": name, "batch": len(image), "seconds": median(wall[name]), "least_seconds": min(wall[name]),
             "processor_seconds": median(busy[name])} for name in found]


def agreement(model: SamModel, found: dict[str, Encode], pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Dice of each runtime's masks to the target and to those of the packaged encoder, mean and worst."""
    target: dict[str, list[float]] = {name: [] for name in found}
    alike: dict[str, list[float]] = {name: [] for name in found}
    for pair in pairs:
        image, mask = _fitted(model, pair)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float32)
        masks = {name: _mask(model, encode(image), box) for name, encode in found.items()}
        for name, ours in masks.items():
            target[name].append(dice(count(ours[: mask.shape[0], : mask.shape[1]], mask)))
            alike[name].append(dice(count(ours, masks["packaged fp32"])))
    return {name: {"dice": float(np.mean(target[name])), "dice_to_packaged": float(np.mean(alike[name])),
                   "least_dice_to_packaged": min(alike[name])} for name in found}


def _fitted(model: SamModel, pair: Pair) -> tuple[Tensor, Any]:
    """The model's input (1, 3, S, S), and the target (h, w) at the size of its content."""
    spec = model.spec
    resized, geometry = fit_image(read_image(pair.image), spec.input_size, spec.resize)
    image = torch.from_numpy(spec.normalise(resized))[None]
    return image, fit_mask(read_mask(pair.mask), geometry.content_size)


def _mask(model: SamModel, embedding: Tensor, box: Tensor) -> Any:
    """The mask (S, S) of the pretrained decoder inside a box."""
    logits = model.decode(embedding, boxes=box).logits.float()
    side = model.spec.input_size
    return (nn.functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)[0, 0] > 0).numpy()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For the terminal."""
    lines = [f"{'runtime':<18} batch  s an image  processor s  Dice    to the packaged (least)"]
    return "\n".join([*lines, *(
        f"{row['runtime']:<18} {row['batch']:>5}  {row['seconds']:>10.3f}  {row['processor_seconds']:>11.3f}  {row['dice']:.4f}  "
        f"{row['dice_to_packaged']:.4f} ({row['least_dice_to_packaged']:.4f})" for row in rows)])
