"""``gps-seg export RUN --onnx DIR``: ONNX files, each compared with torch by ONNX Runtime before the folder appears."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from gps_seg.commands.onnx.describe import describe, tool_settings
from gps_seg.commands.onnx.page import check_weights, write_page
from gps_seg.commands.onnx.parts import FRAME, LOW, Decoder, Encoder, Promptless
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files import write_json, write_text
from gps_seg.methods.added import can_fold, fold_modules
from gps_seg.models.sam import SamModel
from gps_seg.packages import import_extra
from gps_seg.runs.exported import ABOUT_FILE, DECODER_FILE, ENCODER_FILE, MODEL_FILE, OUTPUTS
from gps_seg.runs.load import Run, load_run, with_presence
from gps_seg.tasks.segmentation.task import Segmentation

OPSET = 18  # the lowest that torch's exporter writes, for runtimes of some age
TOLERANCE = 1e-3  # of an output, in parts of its largest value or of one
ONE_FILE = 1_900_000_000  # bytes of weights; a protobuf holds 2 GB
TOOLS_FILE = "x-anylabeling.yaml"


@dataclass(frozen=True)
class Graph:
    """One file to be: the module, two examples (the second of other sizes), and the names.

    Attributes:
        dynamic: for each input, axis -> name of what may change.
    """

    file: str
    module: nn.Module
    examples: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    inputs: Sequence[str]
    outputs: Sequence[str]
    dynamic: tuple[dict[int, str], ...]


def export_onnx(folder: Path, target: Path, base: Path | None = None, runtime: dict[str, bytes] | None = None) -> str:
    """Write a run as ONNX files; returns a line that says what was written and how far it is from torch.

    Args:
        runtime: what :func:`gps_seg.commands.onnx.page.find_runtime` gives, for a page beside the files; default: no page.

    Raises:
        ConfigError: a run of classification, a target that is not empty, a package that is missing, or a page for more weights
            than a browser takes.
        CheckpointError: the run cannot be loaded, its model cannot be written as ONNX, or a file differs from
            torch.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, "onnx")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already: choose another --onnx")
    run = with_presence(load_run(folder, device="cpu", precision="fp32", base=base))
    if not isinstance(run.task, Segmentation):
        raise ConfigError(f"--onnx: expected a run of segmentation, the one in {folder} is of {run.config.task}")
    if type(run.model) is not SamModel:
        raise ConfigError(f"--onnx: {run.model.spec.name} gives its decoder more than one embedding, which no graph here does")
    model = _stock(run)
    if runtime is not None:
        check_weights(_held(model))
    staged = target.absolute().with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        staged.mkdir(parents=True)
        difference = max(_write(graph, staged) for graph in _graphs(model))
        if (staged / ENCODER_FILE).is_file():
            write_text(staged / TOOLS_FILE, yaml.safe_dump(tool_settings(model.spec.name), sort_keys=False))
        write_json(staged / ABOUT_FILE, describe(run, staged, OPSET, difference).model_dump(mode="json"))
        if runtime is not None:
            write_page(staged, runtime)
        if target.exists():
            target.rmdir()
        os.replace(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    size = sum(path.stat().st_size for path in target.glob("*.onnx*")) / 1e6
    pair = "" if (target / ENCODER_FILE).is_file() else "; no encoder and decoder: SAM's tools pad, this model squashes"
    return f"{target}: {len(list(target.glob('*.onnx')))} ONNX files, {size:.1f} MB, {difference:.1e} from torch at most{pair}"


def _stock(run: Run) -> SamModel:
    """The tuned model in modules that the exporter can follow."""
    model: SamModel = run.model
    run.attached.merge()
    if can_fold(run.attached.selection.meta):
        fold_modules(model, run.attached.selection.meta)
    model.lean = False
    return model.requires_grad_(False).eval()


def _held(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _graphs(model: SamModel) -> list[Graph]:
    size, draw = model.spec.input_size, torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, generator=draw), torch.randn(1, 3, size, size, generator=draw)
    promptless = Graph(MODEL_FILE, Promptless(model), ((images[0],), (images[1],)), ("image",), OUTPUTS, ({0: "batch"},))
    if model.spec.resize == "squash":
        return [promptless]
    wide, tall = (torch.rand(height, width, 3, generator=draw) * 255 for height, width in ((FRAME // 2, FRAME), (FRAME, 640)))
    encoder = Graph(ENCODER_FILE, Encoder(model), ((wide,), (tall,)), ("input_image",), ("image_embeddings",),
                    ({0: "image_height", 1: "image_width"},))
    with torch.no_grad():
        embedding = encoder.module(wide)
    examples = _prompts(embedding.expand(2, -1, -1, -1).clone(), 3, (120, 200)), _prompts(embedding, 2, (300, 170))
    names = "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"
    points = {0: "batch", 1: "num_points"}
    decoder = Graph(DECODER_FILE, Decoder(model), examples, names, ("masks", "iou_predictions", "low_res_masks"),
                    ({0: "batch"}, points, points, {0: "batch"}, {}, {}))
    return [promptless, encoder, decoder]


def _prompts(embedding: Tensor, points: int, picture: tuple[int, int]) -> tuple[Tensor, ...]:
    batch, draw = len(embedding), torch.Generator().manual_seed(points)
    return (embedding, torch.rand(batch, points, 2, generator=draw) * FRAME,
            torch.randint(-1, 4, (batch, points), generator=draw).float(), torch.randn(batch, 1, LOW, LOW, generator=draw),
            torch.ones(1), torch.tensor(picture, dtype=torch.float32))


def _write(graph: Graph, folder: Path) -> float:
    """Export one graph and compare it; returns the largest difference. Raises CheckpointError."""
    path = folder / graph.file
    held = _held(graph.module)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, of deprecated names and of names it chooses itself
        try:
            written: Any = torch.onnx.export(
                graph.module.eval(), graph.examples[0], dynamo=True, verbose=False, opset_version=OPSET,
                input_names=list(graph.inputs), output_names=list(graph.outputs),
                dynamic_shapes=graph.dynamic)
        except Exception as error:  # the exporter's errors share no class
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"torch cannot write {graph.file} of this model: {reason}") from None
        written.save(path, external_data=held > ONE_FILE)
    return _difference(graph, path)


def _difference(graph: Graph, path: Path) -> float:
    """Of the second example, whose sizes the exporter never saw, by ONNX Runtime and by torch."""
    session = import_extra("onnxruntime", "onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {name: tensor.numpy() for name, tensor in zip(graph.inputs, graph.examples[1], strict=True)}
    with torch.no_grad():
        answered = graph.module(*graph.examples[1])
    wanted = [one.numpy() for one in (answered if isinstance(answered, tuple) else (answered,))]
    found = session.run(list(graph.outputs), inputs)
    same_shapes = [one.shape for one in found] == [one.shape for one in wanted]
    parts = [float(np.abs(one - other).max() / max(1.0, np.abs(other).max())) for one, other in zip(found, wanted, strict=True)
             if same_shapes]
    if not same_shapes or not max(parts) <= TOLERANCE:
        raise CheckpointError(f"{graph.file}: ONNX Runtime and torch differ by {max(parts, default=float('nan')):.2g}, expected "
                              f"at most {TOLERANCE:g}: another version of torch, onnxscript or onnxruntime may write it rightly")
    return max(parts)
