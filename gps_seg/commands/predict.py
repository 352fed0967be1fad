"""``gps-seg predict``: masks, or classes, of images that have no labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.commands.coco import Annotation, annotations_of
from gps_seg.data.images import list_images, read_image, write_image, write_mask
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import write_text
from gps_seg.metrics.plots.pictures import overlay
from gps_seg.runs.exported import Exported, is_exported, load_exported
from gps_seg.runs.load import Run, load_run, with_presence
from gps_seg.tasks.segmentation.task import Segmentation

CLASSES_FILE, PRESENCE_FILE = "predictions.csv", "presence.csv"
NOTHING = "no polyp above the threshold"


@dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        text: what was found; empty for an image that could not be read.
        problem: why it could not; empty otherwise.
        size: of a mask, (height, width). annotations: its parts, see :mod:`gps_seg.commands.coco`.
    """

    path: Path
    text: str = ""
    problem: str = ""
    size: tuple[int, int] = (0, 0)
    annotations: tuple[Annotation, ...] = ()


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """Files and the images of folders, in order. Raises DataError for missing inputs and for two files with one stem."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            images = list_images(path / "images" if (path / "images").is_dir() else path)
            if not images:
                raise DataError(f"{path}: expected images, found none")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"expected an image or a folder at {path}, found none")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise DataError(f"{path} and {stems[path.stem]} would both become {path.stem}.png; predict them into two folders")
        stems[path.stem] = path
    return found


def open_model(
    folder: Path, engine: str = "torch", *, device: str = "auto", base: Path | None = None, presence: float | None = None
) -> Run | Exported:
    """A run in torch, or an export in the runtime that ``engine`` names.

    Raises:
        ConfigError: the engine is not the folder's, or it reads no ``base``.
        CheckpointError: as of :func:`gps_seg.runs.load.load_run` and :func:`gps_seg.runs.exported.load_exported`.
    """
    if engine == "torch":
        if is_exported(folder):
            raise ConfigError(f"{folder} holds an export, which torch does not read: add --engine onnx or --engine openvino")
        return with_presence(load_run(folder, device=device, base=base), presence)
    if base is not None:
        raise ConfigError(f"--base: an export holds its base; leave it out with --engine {engine}")
    if not is_exported(folder):
        raise ConfigError(f"--engine {engine}: expected a folder that gps-seg export RUN --onnx DIR made, got {folder}")
    return load_exported(folder, engine, device=device, presence=presence)


def predict_files(
    run: Run | Exported, images: Sequence[Path], out: Path, *, threshold: float | None = None, overlays: bool = True,
    overwrite: bool = False,
) -> Iterator[Answer]:
    """Write what the run's task predicts of every image, and say it as it is done; an unreadable image does not stop the others.

    Masks become ``out/STEM.png`` (0/255, native size) and ``out/overlays/STEM.png``; classes become ``out/predictions.csv``. A
    run whose quality head was trained leaves ``out/presence.csv`` beside its masks: file, presence (the quality, 0..1), answer
    (polyp or none) and area (0..1); where the quality is below ``evaluate.presence`` of its task, the mask is empty.

    Args:
        threshold: of masks; default: the run's own.

    Raises:
        DataError: a prediction is there already and ``overwrite`` is False; nothing was written then.
        ConfigError: a threshold for a classifier.
    """
    is_mask = isinstance(run.task, Segmentation)
    if threshold is not None and not is_mask:
        kind = type(run.task).__name__.lower()
        raise ConfigError(f"--threshold: only masks have one, and the run in {run.folder} is one of {kind}")
    has_quality = isinstance(run.task, Segmentation) and run.task.train.quality
    wanted = [*(f"{path.stem}.png" for path in images), *([PRESENCE_FILE] * has_quality)] if is_mask else [CLASSES_FILE]
    present = [name for name in wanted if (out / name).exists()]
    if present and not overwrite:
        raise DataError(f"{out} already holds {len(present)} of these predictions ({present[0]}, ...); "
                        "choose another --out or add --overwrite")
    readable = []
    for path in images:
        try:
            read_image(path)
            readable.append(path)
        except DataError as error:
            yield Answer(path, problem=str(error))
    yield from (_masks(run, readable, out, run.threshold if threshold is None else threshold, overlays) if is_mask
                else _classes(run, readable, out))


def _masks(run: Run | Exported, paths: Sequence[Path], out: Path, threshold: float, overlays: bool) -> Iterator[Answer]:  # noqa: FBT001
    by_id, rows = {path.stem: path for path in paths}, []
    settings: Any = run.task
    task = settings.promptless()
    for id_, answer in run.predict_files(paths, predict=task.examine):
        probability = answer.shown(task.evaluate.presence)
        mask: NDArray[np.bool_] = probability > threshold
        write_mask(out / f"{id_}.png", mask)
        if overlays:
            write_image(out / "overlays" / f"{id_}.png", overlay(read_image(by_id[id_]), mask))
        part = float(mask.mean())
        if answer.quality is not None:
            rows.append([by_id[id_].name, f"{answer.quality:.4f}", "polyp" if part else "none", f"{part:.4f}"])
        nothing = f"no polyp: quality {answer.quality:.2f}" if answer.refused(task.evaluate.presence) else NOTHING
        text = f"{100 * part:.1f} % of the area" if part else nothing
        yield Answer(by_id[id_], text, size=probability.shape, annotations=annotations_of(mask, probability))
    if rows:
        _write_table(out / PRESENCE_FILE, ["file", "presence", "answer", "area"], rows)


def _classes(run: Run | Exported, paths: Sequence[Path], out: Path) -> Iterator[Answer]:
    by_id, rows = {path.stem: path for path in paths}, []
    for id_, probabilities in run.predict_files(paths):
        best: Any = probabilities.argmax()
        rows.append([by_id[id_].name, run.classes[best], f"{probabilities[best]:.4f}"])
        yield Answer(by_id[id_], f"{rows[-1][1]} ({rows[-1][2]})")
    _write_table(out / CLASSES_FILE, ["file", "class", "probability"], rows)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())
