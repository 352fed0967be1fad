"""A model in memory that answers one picture at a time: embeddings kept, prompts decoded, several deltas on one base."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gps_seg.data.transforms import Geometry, fit_image
from gps_seg.metrics.temperature import rescale
from gps_seg.runs.calibration import Calibration, read_calibration
from gps_seg.runs.device import autocast
from gps_seg.tasks.segmentation.flips import averaged
from gps_seg.tasks.segmentation.native import to_native
from gps_seg.tasks.segmentation.quality import qualities
from gps_seg_app.inference.model import Timing
from gps_seg_app.inference.model_card import ModelCard, card
from gps_seg_app.inference.prompts import Places, inside, pull, rounds
from gps_seg_app.inference.runs import Loaded, load_runs
from gps_seg_app.limits import AppError

Pixels = NDArray[np.uint8]
Probability = NDArray[np.float32]
Point = tuple[float, float, int]
Box = tuple[float, float, float, float]
SMALLER = 0.8  # of the input size: the scale of the fifth augmentation
TURNS: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (0, 1))  # axes to flip


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the encoder made of one picture.

    Attributes:
        value: (1, C, g, g) on the model's device.
        image: the fitted picture (1, 3, S, S), for the untuned base, which answers boxes.
        geometry: how the picture was fitted into the input.
        name: of the delta it was made with.
        timing: of the resizing and the encoder; ``post_ms`` is zero.
        clicked: logits after clicks, by box and clicks, of a run that hears them.
    """

    value: Tensor
    image: Tensor
    geometry: Geometry
    name: str
    timing: Timing
    clicked: dict[Box | None, dict[Places, Tensor]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.geometry.native_size


class Predictor:
    """One base model with one or more deltas. May be called from several threads: one of them computes at a time.

    Args:
        runs: name -> run folder; the first is the default. All must be of one base and one input size.
        device: auto, cpu or cuda.
        precision: as for training; default: the first run's own, so that masks are those of ``gps-seg predict``.
        cache: embeddings kept, 4 MB each.
        threshold: operating point for all runs, on the scale of :meth:`probability`; default: each run's own.
        fast: look at three quarters of the input size; thresholds and calibrations stay those of the whole.

    Raises:
        AppError: no run, or runs that do not go together.
        CheckpointError: a run is missing or damaged.
    """

    def __init__(self, runs: Mapping[str, Path], *, device: str = "auto", precision: str | None = None, cache: int = 8,
                 threshold: float | None = None, fast: bool = False) -> None:
        self._loaded: Loaded = load_runs(runs, device=device, precision=precision, fast=fast)
        self.fast = fast
        self._folders = {name: Path(folder) for name, folder in runs.items()}
        self._calibration: dict[str, Calibration | None] = {name: read_calibration(path) for name, path in self._folders.items()}
        self._base: tuple[Tensor, Tensor] | None = None  # the last picture a box was drawn on, and the base's embedding
        self._kept: OrderedDict[tuple[str, str], Embedding] = OrderedDict()
        self._most, self._lock, self._threshold = cache, threading.Lock(), threshold

    @property
    def names(self) -> tuple[str, ...]:
        """The deltas, the default first."""
        return tuple(self._folders)

    @property
    def threshold(self) -> float:
        """The default delta's operating point, on the scale of what :meth:`probability` returns."""
        return self.threshold_of(self.names[0])

    @property
    def calibrated(self) -> bool:
        """Whether the default delta's probabilities are calibrated."""
        return self.calibration(self.names[0]) is not None

    @property
    def device(self) -> str:
        """Where it computes and in which precision, in words."""
        return f"{self._loaded.device} ({self._loaded.precision})"

    @property
    def input_size(self) -> int:
        """Pixels of a side of what the model looks at."""
        return self._loaded.model.spec.input_size

    def folder(self, name: str) -> Path:
        """A delta's run folder. Raises AppError for an unknown name."""
        return self._folders[self._known(name)]

    def card(self, name: str) -> ModelCard:
        """A delta's model card. Raises AppError for an unknown name, CheckpointError for a damaged run folder."""
        return card(self.folder(name), fast=self.fast)

    def calibration(self, name: str) -> Calibration | None:
        """A delta's calibration, if it has one."""
        return self._calibration[self._known(name)]

    def threshold_of(self, name: str) -> float:
        """A delta's operating point: the calibration's; of an older one, the run's own, moved as the probabilities were."""
        if self._threshold is not None:
            return self._threshold
        calibration = self.calibration(name)
        if calibration is not None and calibration.threshold is not None:
            return calibration.threshold
        return self.on_its_scale(self._loaded.thresholds[name], name)

    def on_its_scale(self, probability: float, name: str) -> float:
        """A probability as the model was trained to give it, on the scale of what :meth:`probability` returns."""
        calibration = self.calibration(name)
        return probability if calibration is None else rescale(probability, calibration.temperature)

    def warm_up(self) -> None:
        """Run once on a grey picture, so that the first user does not wait for copies and kernels."""
        for name in self.names:
            self.probability(self._embed(np.full((64, 64, 3), 127, np.uint8), name, 1.0))

    def embed(self, pixels: Pixels, name: str | None = None) -> Embedding:
        """Encode a picture (H, W, 3), or find it among the last ones."""
        name = self._known(name)
        key = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest(), name
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = self._embed(pixels, name, 1.0)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made

    def probability(self, embedding: Embedding, points: Sequence[Point] = (), box: Box | None = None) -> Probability:
        """Probability of polyp (H, W) at the picture's own size, calibrated where the run is; 0 where the run answers that there
        is no polyp, by its own quality, and nobody says otherwise by a prompt.

        Args:
            points: (x, y, label) in the picture's pixels; label 1 is polyp, 0 is background. See ``prompts``.
            box: x0, y0, x1, y1 in the picture's pixels. Inside it the run answers what the box holds, or the untuned base
                for a run not tuned with boxes (whose first box on a picture costs another encoding); outside, the answer stays.
        """
        logits, quality = self._decode(embedding, points, box)
        found = self._native(logits, embedding)
        return found if points or box is not None else self._shown(found, quality, embedding)

    def _shown(self, probability: Probability, quality: float, embedding: Embedding) -> Probability:
        presence = self._loaded.presence[embedding.name]
        return np.zeros_like(probability) if presence is not None and quality < presence else probability

    def predict(self, pixels: Pixels, name: str | None = None, *, keep: bool = True) -> tuple[Probability, Timing]:
        """Probability (H, W) without prompts, and what it cost; of a picture kept before, what encoding it cost then.

        Args:
            keep: False for the frames of a clip, which would push users' pictures out of the embeddings kept.
        """
        embedding = self.embed(pixels, name) if keep else self._embed(pixels, self._known(name), 1.0)
        start = time.perf_counter()
        logits, quality = self._decode(embedding, (), None)
        decoded = time.perf_counter()
        probability = self._shown(self._native(logits, embedding), quality, embedding)
        end = time.perf_counter()
        spent = embedding.timing
        return probability, Timing(spent.pre_ms, spent.model_ms + 1e3 * (decoded - start), 1e3 * (end - decoded))

    def disagreement(self, pixels: Pixels, name: str | None = None) -> Probability:
        """Standard deviation (H, W), 0..0.5, of the probability over four flips and one smaller scale: five passes.

        It tells where the answer hangs on how the picture was held, not how likely the answer is wrong.
        """
        name = self._known(name)
        count, mean, squares = 0, np.zeros(pixels.shape[:2], np.float32), np.zeros(pixels.shape[:2], np.float32)
        for flips, scale in [*((turn, 1.0) for turn in TURNS), ((), SMALLER)]:
            held = np.ascontiguousarray(np.flip(pixels, flips))
            embedding = self.embed(held, name) if not flips and scale == 1.0 else self._embed(held, name, scale)
            found = np.flip(self._native(self._decode(embedding, (), None, mirrored=False)[0], embedding), flips)
            count += 1
            change = found - mean
            mean += change / count
            squares += change * (found - mean)
        return np.sqrt(squares / count)

    def _known(self, name: str | None) -> str:
        if name is None:
            return self.names[0]
        if name not in self._folders:
            raise AppError(f"Expected one of the loaded models ({', '.join(self.names)}), got {name!r}: choose from the list.")
        return name

    def _embed(self, pixels: Pixels, name: str, scale: float) -> Embedding:
        """Encode without looking among the kept; ``scale`` makes the picture smaller inside the input square."""
        start, spec = time.perf_counter(), self._loaded.model.spec
        resized, geometry = fit_image(pixels, max(1, round(scale * spec.input_size)), spec.resize)
        geometry = replace(geometry, input_size=spec.input_size)
        image = torch.from_numpy(spec.normalise(resized))[None].to(self._loaded.device)
        ready = time.perf_counter()
        with self._lock, torch.inference_mode():
            began = time.perf_counter()  # waiting for another user is not the model's time
            value = self._encode(image, name)
            if value.is_cuda:
                torch.cuda.synchronize()
            end = time.perf_counter()
        return Embedding(value, image, geometry, name, Timing(1e3 * (ready - start), 1e3 * (end - began), 0.0))

    def _encode(self, image: Tensor, name: str | None) -> Tensor:
        """By a delta, or with None by the base. The lock is held."""
        loaded = self._loaded
        loaded.switch(name)
        with autocast(loaded.device, loaded.precision):
            return loaded.model.encode(image).float()

    def _decode(
        self, embedding: Embedding, points: Sequence[Point], box: Box | None, *, mirrored: bool = True
    ) -> tuple[Tensor, float]:
        """Logits (1, 1, h, w) of the padded input, divided by the temperature, with prompts applied; and the quality without.

        Without prompts they are means over mirror images where the run says so, and ``mirrored`` does not say otherwise.
        """
        geometry, loaded = embedding.geometry, self._loaded
        scale = [content / (native * geometry.input_size)  # the picture's pixels -> parts of the input's side
                 for content, native in zip(geometry.content_size[::-1], geometry.native_size[::-1], strict=True)]
        calibration, heard = self._calibration[embedding.name], loaded.heard[embedding.name]
        places = tuple((x * scale[0], y * scale[1], label) for x, y, label in points)
        with self._lock, torch.inference_mode(), autocast(loaded.device, loaded.precision):
            loaded.switch(embedding.name)
            whole = mirrored and embedding.name in loaded.flips and not points and box is None
            plain = averaged(loaded.model, embedding.image, [geometry]) if whole else loaded.model.decode(embedding.value)
            logits, [quality] = plain.logits.float(), qualities(plain.quality)
            if box is not None:
                corners = torch.tensor([box], dtype=torch.float32) * torch.tensor([*scale, *scale])
                logits = inside(logits, self._answer_box(embedding, corners), corners)
            if "clicks" in heard and points:
                loaded.switch(embedding.name)  # a box may have been answered by the base
                corrects = box is not None or not places[0][2]  # as in training: what is not polyp is clicked in an answer
                logits = self._click(embedding, places, box, logits if corrects else None)
        logits = logits if calibration is None else logits / calibration.temperature
        with torch.inference_mode():
            return logits if "clicks" in heard else pull(logits, embedding.value, places), quality

    def _ask(self, value: Tensor, **prompts: Any) -> Tensor:
        """Logits (1, 1, h, h) of the delta that is on. The lock is held."""
        return self._loaded.model.decode(value, **prompts).logits.float()

    def _click(self, embedding: Embedding, places: Places, box: Box | None, before: Tensor | None) -> Tensor:
        """A round a click, in a run that was tuned with clicks; rounds before are known. The lock is held."""
        side = self._loaded.model.spec.input_size

        def decode(points: tuple[Tensor, Tensor], masks: Tensor | None) -> Tensor:
            device = embedding.value.device
            return self._ask(embedding.value, points=(points[0].to(device), points[1].to(device)), masks=masks)

        clicks = tuple((x * side - 0.5, y * side - 0.5, label) for x, y, label in places)  # SAM's first pixel has its centre at 0
        return rounds(decode, clicks, before, embedding.clicked.setdefault(box, {}))

    def _answer_box(self, embedding: Embedding, corners: Tensor) -> Tensor:
        """The answer to a box (1, 4), in parts of the input's side: the run's, if it hears boxes, else the base's. Lock held."""
        loaded, image = self._loaded, embedding.image
        boxes = (corners * loaded.model.spec.input_size).to(image.device)
        if "box" in loaded.heard[embedding.name]:
            return self._ask(embedding.value, boxes=boxes)
        loaded.switch(None)
        if self._base is None or self._base[0] is not image:
            self._base = image, self._encode(image, None)
        return self._ask(self._base[1], boxes=boxes)

    @staticmethod
    def _native(logits: Tensor, embedding: Embedding) -> Probability:
        with torch.inference_mode():
            return to_native(logits, embedding.geometry)
