"""Many pictures at once: from files or a zip to one zip of results, with progress, time left and a way to stop.

Pictures are called "image 1", "image 2", ... in the order they came; their file names appear only if the user opts in.
"""

from __future__ import annotations

import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gps_seg_app.answer.render import contours
from gps_seg_app.answer.result import Result
from gps_seg_app.export.files import add, files, readme
from gps_seg_app.export.table import csv_text
from gps_seg_app.inference.model_card import ModelCard
from gps_seg_app.intake.archive import Entry, entries, read_entry
from gps_seg_app.intake.dicom import count_frames, dicom_frames, is_dicom
from gps_seg_app.intake.pictures import Picture, read_upload
from gps_seg_app.limits import AppError, Limits

THUMBNAIL = 320  # pixels of the longer side
COLUMNS = ("image", "outcome", "regions", "confidence", "largest_area_px", "field_percent", "threshold", "sha256", "note")
CANCELLED = "Cancelled: the remaining pictures were not looked at."
Analyse = Callable[[Picture], Result]


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a batch, small enough to keep.

    Attributes:
        state: found, none or not_assessable; empty without a result.
        words: the answer, or why there is none.
        confidence: of the surest region; 0 without a region or a result.
        thumbnail: the picture with its contours, longer side at most 320 pixels; None without a result.
        failed: whether the file could not be read.
    """

    label: str
    state: str
    words: str
    regions: int
    confidence: float
    thumbnail: NDArray[np.uint8] | None
    failed: bool


@dataclass(frozen=True, eq=False)
class Progress:
    """After one picture: how many are done, of how many, seconds left at the speed so far, and the picture's own answer."""

    done: int
    total: int
    seconds_left: float
    item: Item


def count(source: Path | Sequence[Path], limits: Limits = Limits()) -> int:  # noqa: B008  (frozen)
    """How many files of a batch will be looked at. Raises AppError as :func:`read_batch`."""
    return len(entries(source, limits))


def read_batch(
    source: Path | Sequence[Path], limits: Limits = Limits(), *, names: bool = False,  # noqa: B008
) -> Iterator[tuple[str, Picture | AppError]]:
    """Pictures of several files or of one zip, one at a time; a file that cannot be read gives its error and the rest goes on.

    DICOM files give a picture a frame ("image 3, frame 1"). In a zip, folders and what operating systems add (``__MACOSX``,
    ``.DS_Store``, ``Thumbs.db``) are passed over; a zip within it gives an error; nothing is ever written to disk, so no
    path inside it can lead anywhere.

    Args:
        source: one zip file, or files.
        names: show file names instead of numbers.

    Raises:
        AppError: at once, before any picture: nothing to read, too many files, a damaged or encrypted zip, or one that
            unpacks to too much.
    """
    found = entries(source, limits)
    return _pictures(found, limits, names=names)


def _pictures(found: Sequence[Entry], limits: Limits, *, names: bool) -> Iterator[tuple[str, Picture | AppError]]:
    for number, entry in enumerate(found, start=1):
        label = entry.name if names and entry.name else f"image {number}"
        try:
            data = read_entry(entry, limits)
            if not is_dicom(data[:132]):
                yield label, read_upload(data, limits)
                continue
            many = count_frames(data, limits) > 1
            for frame, picture in enumerate(dicom_frames(data, limits), start=1):
                yield f"{label}, frame {frame}" if many else label, picture
        except AppError as error:
            yield label, error


def run_batch(
    source: Path | Sequence[Path], analyse: Analyse, card: ModelCard, out: Path, *, limits: Limits = Limits(),  # noqa: B008
    names: bool = False, cancel: threading.Event | None = None,
) -> Iterator[Progress]:
    """Answer every picture and write ``out``, one zip: a folder a picture, ``summary.csv`` and ``README.txt``.

    One picture is in memory at a time. After a cancel the zip holds what was done until then, and its summary says so.
    If the generator is closed early or fails, the unfinished zip is removed.

    Args:
        analyse: from picture to result, such as ``lambda picture: result.analyse(picture, predictor)``.
        names: show file names instead of numbers, in labels and in the exports.
        cancel: set it to stop after the picture in work.

    Raises:
        AppError: as :func:`read_batch`, before the first step.
    """
    total = count(source, limits)
    unfinished = out.with_name(out.name + ".part")
    try:
        with zipfile.ZipFile(unfinished, "w", allowZip64=True) as archive:
            yield from _steps(read_batch(source, limits, names=names), archive, analyse, card, (total, names, cancel))
        unfinished.replace(out)
    except OSError:  # without its text, which names the folder
        raise AppError("The results cannot be written: check the space on the disk.") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _steps(
    pictures: Iterator[tuple[str, Picture | AppError]], archive: zipfile.ZipFile, analyse: Analyse, card: ModelCard,
    settings: tuple[int, bool, threading.Event | None],
) -> Iterator[Progress]:
    total, names, cancel = settings
    rows: list[Sequence[object]] = []
    start, stopped, done = time.monotonic(), False, 0
    for done, (label, picture) in enumerate(pictures, start=1):
        item, row = _answer(label, picture, analyse, card, archive, f"{done:04d}", names=names)
        rows.append(row)
        total = max(total, done)  # frames of a DICOM object are counted as they come
        left = (time.monotonic() - start) / done * (total - done)
        yield Progress(done, total, left, item)
        if cancel is not None and cancel.is_set():
            stopped = done < total
            break
    add(archive, "summary.csv", summary_csv(rows, note=CANCELLED if stopped else "").encode())
    add(archive, "README.txt", readme(card).encode())


def _answer(
    label: str, picture: Picture | AppError, analyse: Analyse, card: ModelCard, archive: zipfile.ZipFile, folder: str, *,
    names: bool,
) -> tuple[Item, Sequence[object]]:
    if isinstance(picture, AppError):
        row: Sequence[object] = label, "unreadable", "", "", "", "", "", "", str(picture)
        return Item(label, "", str(picture), 0, 0.0, None, failed=True), row
    try:
        result = analyse(picture)
    except AppError as error:
        return Item(label, "", str(error), 0, 0.0, None, failed=True), (
            label, "failed", "", "", "", "", "", picture.sha256, str(error))
    for name, data in files(result, card, name=label if names else None).items():
        if name != "README.txt":  # the same for all: once, at the top
            add(archive, f"{folder}/{name}", data)
    found = result.finding
    largest = max((one.area_px for one in found.regions), default=0)
    row = (label, found.state, len(found.regions), f"{found.confidence:.4f}", largest, f"{found.field_percent:.4f}",
           f"{result.threshold:g}", picture.sha256, found.words)
    return Item(label, found.state, found.words, len(found.regions), found.confidence, _thumbnail(result), failed=False), row


def summary_csv(rows: Sequence[Sequence[object]], *, note: str = "") -> str:
    """A row a picture, after ``#`` lines with the disclaimer and, if there is one, a note."""
    return csv_text((note,), COLUMNS, ([plain(cell) for cell in row] for row in rows))


def plain(cell: object) -> str:
    """A cell that no spreadsheet takes for a formula: a file may be called ``=HYPERLINK(...)``."""
    text = str(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def by_confidence(items: Sequence[Item]) -> list[Item]:
    """For a gallery: the surest first, then those without a region, then the unreadable; else in their order."""
    return sorted(items, key=lambda item: (item.failed, -item.confidence))


def _thumbnail(result: Result) -> NDArray[np.uint8]:
    drawn = Image.fromarray(contours(result.picture.pixels, result.finding))
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(drawn)
