"""What ``gps-seg predict`` asks of a model that segments and of one that classifies, and what it writes of their answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gps_seg.commands.coco import annotations_of, check_coco, write_coco
from gps_seg.commands.manifest import Line
from gps_seg.data.images import read_image, write_image, write_mask
from gps_seg.errors import ConfigError
from gps_seg.files import write_text
from gps_seg.metrics.plots.pictures import overlay
from gps_seg.runs.exported import Exported
from gps_seg.runs.load import Run
from gps_seg.runs.predictor import Pixels, Prediction, Predictor
from gps_seg.tasks.segmentation.task import Segmentation

CLASSES_FILE, PRESENCE_FILE = "predictions.csv", "presence.csv"
NOTHING = "no polyp above the threshold"


@dataclass(frozen=True)
class Wanted:
    """What to write.

    Attributes:
        threshold: of masks; default: the run's own.
        overlays: pictures with the outline, too.
        overwrite: replace what is there. resume: leave what is there, and do what is missing.
        coco: file for all masks as one COCO document.
    """

    threshold: float | None = None
    overlays: bool = True
    overwrite: bool = False
    resume: bool = False
    coco: Path | None = None


class Kind(Protocol):
    """What differs between masks and classes."""

    def settings(self) -> Line:
        """What decides the answers, beside the model."""

    def files(self, images: Sequence[Path]) -> list[str]:
        """What will be written, by name."""

    def is_there(self, path: Path) -> bool:
        """Whether what was written of an image still is."""

    def read(self, path: Path) -> Any:
        """What is answered. Raises DataError."""

    def answers(self, read: Sequence[Any]) -> Iterable[Any]:
        """One an image."""

    def write(self, path: Path, read: Any, answer: Any) -> tuple[str, Line]:
        """Files of one image; what to say, and what the manifest keeps."""

    def finish(self, found: Lines) -> None:
        """What is written once, of all."""


class Lines(Protocol):
    """The manifest's lines about images that were read, from the first one."""

    def __call__(self) -> Iterator[Line]:
        """Each time anew."""
        ...


def kind_of(run: Run | Exported, out: Path, wanted: Wanted) -> Kind:
    """Masks or classes. Raises ConfigError: what classifiers do not have, or ``overwrite`` and ``resume`` together."""
    if wanted.overwrite and wanted.resume:
        raise ConfigError("--resume goes on with what is there, --overwrite replaces it: leave one out")
    check_coco(wanted.coco, run.task, replace=wanted.overwrite or wanted.resume)
    if isinstance(run.task, Segmentation):
        return _Masks(run, out, wanted)
    if wanted.threshold is not None:
        kind = type(run.task).__name__.lower()
        raise ConfigError(f"--threshold: only masks have one, and the run in {run.folder} is one of {kind}")
    return _Classes(run, out)


class _Masks:
    """See :class:`Kind`."""

    def __init__(self, run: Run | Exported, out: Path, wanted: Wanted) -> None:
        task: Any = run.task
        self.predictor, self.out, self.wanted = Predictor(run, threshold=wanted.threshold), out, wanted
        self.has_quality = bool(task.train.quality)

    def settings(self) -> Line:
        evaluate = self.predictor.evaluate
        return {"threshold": self.predictor.threshold, "presence": evaluate.presence, "flips": evaluate.flips,
                "overlays": self.wanted.overlays, "coco": self.wanted.coco is not None}

    def files(self, images: Sequence[Path]) -> list[str]:
        return [*(f"{path.stem}.png" for path in images), *([PRESENCE_FILE] * self.has_quality)]

    def is_there(self, path: Path) -> bool:
        return (self.out / f"{path.stem}.png").is_file()

    def read(self, path: Path) -> Pixels:
        return read_image(path)

    def answers(self, read: Sequence[Pixels]) -> Iterator[Prediction]:
        return self.predictor.stream(read, len(read))

    def write(self, path: Path, read: Pixels, answer: Prediction) -> tuple[str, Line]:
        name, area = f"{path.stem}.png", float(answer.mask.mean())
        if self.wanted.overlays:
            write_image(self.out / "overlays" / name, overlay(read, answer.mask))
        write_mask(self.out / name, answer.mask)
        nothing = f"no polyp: quality {answer.quality:.2f}" if answer.refused else NOTHING
        parts = {"annotations": annotations_of(answer.mask, answer.probability)} if self.wanted.coco else {}
        return f"{100 * area:.1f} % of the area" if area else nothing, {
            "mask": name, "size": answer.mask.shape, "answer": answer.answer, "probability": float(answer.probability.max()),
            "quality": answer.quality, "area": area,
            "regions": [{"box": one.box, "area": one.area, "probability": one.probability} for one in answer.regions], **parts,
        }

    def finish(self, found: Lines) -> None:
        if self.has_quality:
            rows = ([one["image"], f"{one['quality']:.4f}", "polyp" if one["area"] else "none", f"{one['area']:.4f}"]
                    for one in found())
            _write_table(self.out / PRESENCE_FILE, ["file", "presence", "answer", "area"], rows)
        if self.wanted.coco is not None:
            write_coco(self.wanted.coco, found)


class _Classes:
    """See :class:`Kind`."""

    def __init__(self, run: Run | Exported, out: Path) -> None:
        self.run, self.out = run, out

    def settings(self) -> Line:
        return {"classes": list(self.run.classes)}

    def files(self, images: Sequence[Path]) -> list[str]:
        return [CLASSES_FILE]

    def is_there(self, path: Path) -> bool:
        return True

    def read(self, path: Path) -> Any:
        return self.run.task.unlabelled(self.run.model, [path])[0]

    def answers(self, read: Sequence[Any]) -> Iterator[Any]:
        return (found for _, found in self.run.run_through([self.run.task.collate(read)]))

    def write(self, path: Path, read: Any, answer: Any) -> tuple[str, Line]:
        best, name = float(answer.max()), self.run.classes[int(answer.argmax())]
        return f"{name} ({best:.4f})", {"answer": name, "probability": best}

    def finish(self, found: Lines) -> None:
        rows = ([one["image"], one["answer"], f"{one['probability']:.4f}"] for one in found())
        _write_table(self.out / CLASSES_FILE, ["file", "class", "probability"], rows)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())
