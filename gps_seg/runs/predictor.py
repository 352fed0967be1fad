"""A tuned model for pictures in memory: without a prompt, or with boxes and clicks on a picture that is encoded once.

What ``gps-seg predict`` writes of a file and :meth:`Predictor.predict` says of it are the same, to the bit. Coordinates are x, y
in pixels of the picture, the first pixel's centre at (0, 0), as in :mod:`gps_seg.tasks.segmentation.prompts`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from gps_seg.config import SegmentationEvaluateConfig
from gps_seg.data.images import read_image
from gps_seg.data.transforms import Geometry
from gps_seg.errors import ConfigError, DataError
from gps_seg.metrics.lesions import components
from gps_seg.runs.device import autocast, pictures_at_once
from gps_seg.runs.exported import Exported
from gps_seg.runs.load import Run, load_run, with_presence
from gps_seg.tasks.segmentation.dataset import Fitted, collate, fit_picture
from gps_seg.tasks.segmentation.native import to_native
from gps_seg.tasks.segmentation.prompts import Box, Click, check_prompts
from gps_seg.tasks.segmentation.quality import Answer, qualities
from gps_seg.tasks.segmentation.rounds import answer_clicks
from gps_seg.tasks.segmentation.task import Segmentation

Pixels = NDArray[np.uint8]
Picture = Path | str | Pixels | Image.Image


@dataclass(frozen=True)
class Region:
    """One 8-connected part of a mask, of at least 0.05 % of the picture. ``box`` is x0, y0, x1, y1, the last two exclusive.

    Attributes:
        area: in pixels.
        probability: mean inside, 0..1.
    """

    box: tuple[int, int, int, int]
    area: int
    centroid: tuple[float, float]
    probability: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one picture, at the picture's own size.

    Attributes:
        probability: of polyp, float32 (H, W); 0 everywhere where the answer is that there is none.
        mask: bool (H, W), where it is above the threshold.
        quality: the model's own estimate of the mask's IoU, 0..1; None for a run that did not train it.
        refused: whether the quality is below the run's threshold of presence, so that there is no polyp.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    quality: float | None
    refused: bool = False

    @property
    def answer(self) -> str:
        """polyp or none."""
        return "polyp" if self.mask.any() else "none"

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The polyps one by one, the largest first."""
        found = components(np.ascontiguousarray(self.mask))
        regions = [self._region(found.labels == number, found.centroids[number - 1]) for number in range(1, len(found.areas) + 1)]
        return tuple(sorted(regions, key=lambda region: -region.area))

    def _region(self, part: NDArray[np.bool_], centroid: NDArray[np.float64]) -> Region:
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        return Region(box, int(part.sum()), (float(centroid[0]), float(centroid[1])), float(self.probability[part].mean()))


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture as the encoder sees it: ``value`` (1, C, g, g), and how the picture was fitted."""

    value: Tensor
    geometry: Geometry


class Predictor:
    """A run of segmentation, asked picture by picture. May be called from several threads; each has a picture of its own.

    Args:
        run: from :func:`gps_seg.load_run`, or an export from :func:`gps_seg.runs.exported.load_exported`, which hears no prompt.
        threshold: of masks; default: the run's own.

    Raises:
        ConfigError: the run is of a classifier, or the threshold is not from 0 to 1.
    """

    def __init__(self, run: Run | Exported, *, threshold: float | None = None) -> None:
        task: Any = run.task
        if not isinstance(task, Segmentation):
            raise ConfigError(f"expected a run of segmentation, the one in {run.folder} is of {type(task).__name__.lower()}")
        if isinstance(run, Run) and task.evaluate.presence is None:
            task = with_presence(run).task
        self._run, self._task = run, task.promptless()
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"Predictor: expected a threshold from 0 to 1, got {threshold}")
        self.threshold = run.threshold if threshold is None else threshold
        self._lock, self._own = threading.Lock(), threading.local()

    @classmethod
    def from_pretrained(
        cls, run: str | Path, *, base: str | Path | None = None, device: str = "auto", precision: str | None = None,
        threshold: float | None = None,
    ) -> Predictor:
        """Load a run folder or a ready model by its name.

        Args:
            base: the base's weight file, where it is not found by itself.
            device: auto, cpu or cuda.
            precision: of arithmetic; default: the run's own.

        Raises:
            CheckpointError: no run there, a damaged one, or another base.
            ConfigError: the run is of a classifier, or the threshold is not from 0 to 1.
        """
        return cls(load_run(run, device=device, precision=precision, base=None if base is None else Path(base)),
                   threshold=threshold)

    @property
    def evaluate(self) -> SegmentationEvaluateConfig:
        """How answers without a prompt are made: flips, and the threshold of presence."""
        found: SegmentationEvaluateConfig = self._task.evaluate
        return found

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a sequence of str, and a file here
        self, pictures: Picture, *, batch_size: int | None = ...
    ) -> Prediction: ...
    @overload
    def predict(self, pictures: Sequence[Picture], *, batch_size: int | None = ...) -> list[Prediction]: ...
    @overload
    def predict(self, *, boxes: Sequence[Box]) -> list[Prediction]: ...
    @overload
    def predict(self, *, points: Sequence[Click | tuple[float, float, int]]) -> Prediction: ...
    def predict(
        self, pictures: Picture | Sequence[Picture] | None = None, *, boxes: Sequence[Box] | None = None,
        points: Sequence[Click | tuple[float, float, int]] | None = None, batch_size: int | None = None,
    ) -> Prediction | list[Prediction]:
        """Answer pictures without a prompt; or boxes or clicks on the picture of :meth:`set_image`.

        Args:
            pictures: one, or a list: files, RGB arrays uint8 (H, W, 3), or images of Pillow.
            boxes: x0, y0, x1, y1 each; answered one by one, in one pass of the decoder.
            points: (x, y, label) in their order, label 1 for polyp and 0 for not polyp; each corrects the answer to those before.
            batch_size: pictures answered together; default: :func:`gps_seg.runs.device.pictures_at_once`.

        Raises:
            DataError: an unreadable picture.
            ConfigError: nothing, or more than one of the three, was given; boxes or points that are no rows of numbers; a prompt
                outside the picture or of no area, or no picture to ask it of.
        """
        if sum(given is not None for given in (pictures, boxes, points)) != 1:
            raise ConfigError("Predictor.predict: expected one of pictures, boxes and points")
        if boxes is not None:
            return self._boxes(_rows("boxes", boxes, 4))
        if points is not None:
            return self._points([Click(*point) for point in _rows("points", points, 3)])
        if isinstance(pictures, (str, Path, np.ndarray, Image.Image)):
            return next(self.stream([pictures]))
        return list(self.stream(pictures or (), batch_size))

    def stream(self, pictures: Sequence[Picture], batch_size: int | None = None) -> Iterator[Prediction]:
        """Answers without a prompt, in the order of the pictures; holds one batch at a time."""
        size = batch_size or pictures_at_once(self._run.device)
        for start in range(0, len(pictures), size):
            batch = collate([self._fit(picture) for picture in pictures[start : start + size]])
            with self._lock:
                answers: list[Any] = [answer for _, answer in self._run.run_through([batch], self._task.examine)]
            yield from (self._prediction(answer, self._task.evaluate.presence) for answer in answers)

    def set_image(self, picture: Picture) -> None:
        """Encode the picture that this thread's next prompts are asked of.

        Raises:
            DataError: an unreadable one.
            ConfigError: an exported model, which hears no prompt.
        """
        if isinstance(self._run, Exported):
            raise ConfigError("Predictor.set_image: an exported model answers without a prompt: load the run itself")
        fitted = self._fit(picture)
        with self._lock, torch.inference_mode(), autocast(self._run.device, self._run.precision):
            value = self._run.model.encode(torch.from_numpy(fitted.image)[None].to(self._run.device))
        self._own.encoded = Encoded(value, fitted.geometry)

    def _boxes(self, boxes: Sequence[Box]) -> list[Prediction]:
        if not boxes:
            return []
        encoded = self._encoded()
        for box in boxes:
            check_prompts(encoded.geometry.native_size, box=box)
        corners = torch.tensor([[*_fitted(box[:2], encoded.geometry), *_fitted(box[2:], encoded.geometry)] for box in boxes])
        value = encoded.value.expand(len(boxes), -1, -1, -1)
        with self._lock, torch.inference_mode(), autocast(self._run.device, self._run.precision):
            found = self._run.model.decode(value, boxes=corners.to(self._run.device))
        return self._answered(found.logits.float(), found.quality, encoded.geometry)

    def _points(self, clicks: Sequence[Click]) -> Prediction:
        encoded = self._encoded()
        if not clicks:
            raise ConfigError("Predictor.predict: expected one point or more, got none")
        check_prompts(encoded.geometry.native_size, clicks=clicks)
        places = [Click(*_fitted(click[:2], encoded.geometry), click.label) for click in clicks]
        with self._lock, torch.inference_mode(), autocast(self._run.device, self._run.precision):
            before = None if places[0].label else self._run.model.decode(encoded.value)  # not polyp is clicked in an answer
            found = answer_clicks(self._run.model, encoded.value, places, before)
        return self._answered(found.logits.float(), found.quality, encoded.geometry)[0]

    def _answered(self, logits: Tensor, quality: Tensor, geometry: Geometry) -> list[Prediction]:
        """Who prompts has seen a polyp: nothing is refused."""
        own = qualities(quality) if self._task.train.quality else [None] * len(logits)
        with torch.inference_mode():
            maps = [to_native(logits[row : row + 1], geometry) for row in range(len(logits))]
        return [self._prediction(Answer(found, value), None) for found, value in zip(maps, own, strict=True)]

    def _prediction(self, answer: Answer, presence: float | None) -> Prediction:
        shown = answer.shown(presence)
        return Prediction(shown, shown > self.threshold, answer.quality, answer.refused(presence))

    def _encoded(self) -> Encoded:
        encoded: Encoded | None = getattr(self._own, "encoded", None)
        if encoded is None:
            raise ConfigError("Predictor.predict: boxes and points are asked of the picture of set_image: call it first, in this "
                              "thread")
        return encoded

    def _fit(self, picture: Picture) -> Fitted:
        return fit_picture(_pixels(picture), "", self._run.model.spec)


def _pixels(picture: Picture) -> Pixels:
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    if not isinstance(picture, np.ndarray):
        return read_image(Path(picture))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise DataError(f"expected an RGB picture as uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    return picture


def _rows(name: str, given: Any, numbers: int) -> list[Any]:
    """Prompts as tuples of so many numbers each, from lists or an array (n, numbers). Raises ConfigError: it is neither."""
    try:
        rows = [tuple(value.item() if isinstance(value, np.generic) else value for value in row) for row in given]
        fits = all(len(row) == numbers and all(isinstance(value, (int, float)) for value in row) for row in rows)
    except TypeError:
        fits = False
    if not fits:
        raise ConfigError(f"Predictor.predict: expected {name} as a list of {numbers} numbers each, got {given!r:.80}")
    return rows


def _fitted(place: Sequence[float], geometry: Geometry) -> tuple[float, float]:
    """A place (x, y) of the picture in pixels of the model's input."""
    x, y = ((value + 0.5) * content / native - 0.5 for value, content, native in
            zip(place, geometry.content_size[::-1], geometry.native_size[::-1], strict=True))
    return x, y
