"""A clip, frame by frame: steady contours, a table, a timeline and an annotated video, in memory that does not grow with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gps_seg_app.answer.regions import Finding, find
from gps_seg_app.answer.render import contours
from gps_seg_app.answer.result import Seen, see
from gps_seg_app.inference.model import Model
from gps_seg_app.intake.clips import Clip, Cut, Frame, probe, read_frames
from gps_seg_app.jobs.clip_writer import writing
from gps_seg_app.jobs.frames import FrameRow, Settings, describe, frames_csv
from gps_seg_app.jobs.overlap import behind, overlapped
from gps_seg_app.jobs.steady import Presence, Smoother, switches
from gps_seg_app.jobs.timeline import timeline_png
from gps_seg_app.limits import AppError, Limits

__all__ = ["FrameRow", "Progress", "Settings", "VideoResult", "run_video"]

VIDEO, TABLE, TIMELINE = "annotated.mp4", "frames.csv", "timeline.png"
# Frames in memory: one assessed or resized while the model looks at another, one read ahead, and two to be drawn and packed. Not
# several a batch: the encoder is no faster per frame then, and in bf16 rounds otherwise than for a single picture.
WORKERS, AHEAD, BEHIND = 2, 3, 2


@dataclass(frozen=True, eq=False)
class VideoResult:
    """A clip's answer.

    Attributes:
        rows: of every frame looked at, for a chart.
        raw_switches, switches: how often a finding appears or goes, frame by frame on its own and as shown: flicker.
        frames_per_second: looked at, all work included.
        settings: as they were used, threshold included.
        video: None if it was not asked for. note: a sentence if the clip was read in part only, else empty.
    """

    rows: tuple[FrameRow, ...]
    raw_switches: int
    switches: int
    frames_per_second: float
    video: Path | None
    table: Path
    timeline: Path
    note: str
    settings: Settings


@dataclass(frozen=True, eq=False)
class Progress:
    """After one frame: how many of about how many, seconds left, its row; the last one of a clip bears the result."""

    done: int
    total: int
    seconds_left: float
    row: FrameRow
    result: VideoResult | None = None


def run_video(
    path: Path, model: Model, out: Path, *, settings: Settings = Settings(), limits: Limits = Limits(),  # noqa: B008  (frozen)
    cancel: threading.Event | None = None,
) -> Iterator[Progress]:
    """Work through a clip and write ``annotated.mp4``, ``frames.csv`` and ``timeline.png`` into ``out``.

    A frame of the annotated video keeps the time it has in the clip, and bears its own contour, never an older one. A clip
    that is damaged half-way gives what was read, with a note. After a cancel, an error or an early close nothing stays
    in ``out``; a cancelled run just ends, without a result.

    Raises:
        AppError: as ``clips.probe`` and ``clips.read_frames``, or a setting out of range.
    """
    if settings.stride < 1 or settings.persistence < 1 or settings.smoothing < 0 or not 0 < settings.lower <= 1:
        raise AppError("Expected a stride and a persistence of at least 1 frame and a smoothing of at least 0 seconds.")
    if settings.threshold is None:
        settings = replace(settings, threshold=model.threshold_of(settings.delta or model.names[0]))
    clip = probe(path, limits)
    files = [out / name for name in (VIDEO, TABLE, TIMELINE)]
    finished = False
    try:
        for step in _run(path, model, out, clip, settings, (limits, cancel)):
            finished = step.result is not None
            yield step
    except OSError:  # without its text, which names the folder
        raise AppError("The results of this video cannot be written: check the space on the disk.") from None
    finally:
        if not finished:
            for file in files:
                file.unlink(missing_ok=True)


def _run(
    path: Path, model: Model, out: Path, clip: Clip, settings: Settings, stops: tuple[Limits, threading.Event | None]
) -> Iterator[Progress]:
    limits, cancel = stops
    eye, rows, note, start = _Eye(model, settings), [], "", time.monotonic()
    total = max(1, -(-clip.frames // settings.stride))
    with ExitStack() as stack:
        draw = stack.enter_context(_drawing(out, clip, settings))
        looked = overlapped(read_frames(path, limits, stride=settings.stride), eye.see, workers=WORKERS, most=AHEAD)
        try:
            for frame, seen in stack.enter_context(closing(looked)):  # type: ignore[type-var]
                row, finding = eye.look(frame, seen)
                draw(frame, finding)
                rows.append(row)
                if cancel is not None and cancel.is_set():
                    return
                total = max(total, len(rows))
                spent = time.monotonic() - start
                yield Progress(len(rows), total, spent / len(rows) * (total - len(rows)), rows[-1])
        except Cut as error:
            note = f"Only the first {rows[-1].seconds:.1f} seconds could be read. {error}" if rows else ""
            if not rows:
                raise
    spent = time.monotonic() - start
    yield Progress(len(rows), len(rows), 0.0, rows[-1], _finish(rows, out, spent, note, settings))


@contextmanager
def _drawing(out: Path, clip: Clip, settings: Settings) -> Iterator[Callable[[Frame, Finding], None]]:
    """What draws a frame's finding and writes it to the annotated video, a frame or two behind; nothing where none is wanted."""
    if not settings.annotate:
        yield lambda *_: None
        return
    with writing(out / VIDEO, rate=clip.rate / settings.stride, lines=(describe(settings),)) as writer, behind(BEHIND) as calls:
        yield lambda frame, finding: calls.do(
            lambda: writer.write(contours(frame.pixels, finding), frame.seconds))


class _Eye:
    """What is remembered from one frame to the next."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.delta = model, settings.delta or model.names[0]
        self.threshold = model.threshold_of(self.delta) if settings.threshold is None else settings.threshold
        self.lower = self.threshold * settings.lower
        self.smoother, self.presence = Smoother(settings.smoothing), Presence(settings.persistence)

    def see(self, frame: Frame) -> Seen:
        """What the model makes of a frame on its own; frames may be seen in any order and several at once."""
        return see(frame.pixels, self.model, self.delta, keep=False)

    def look(self, frame: Frame, seen: Seen) -> tuple[FrameRow, Finding]:
        """The row of the next frame, and the finding to draw on it."""
        assessment, probability = seen.assessment, seen.probability
        if not assessment.assessable:
            self.smoother.forget()
            self.presence.forget()
            nothing = find(probability, self.threshold, assessment)
            return _row(frame, nothing, nothing, shown=False, scene=False, assessable=False), nothing
        smoothed, scene = self.smoother.update(probability, frame.pixels, frame.seconds)
        raw, steady = (find(values, self.threshold, assessment) for values in (probability, smoothed))
        weak = steady if steady.regions else find(smoothed, self.lower, assessment)
        shown = self.presence.update(above=bool(steady.regions), above_lower=bool(weak.regions)) and bool(weak.regions)
        # while a finding holds on between the two thresholds, its outline is the lower one's; below both there is none
        drawn = weak if shown else find(np.zeros_like(probability), self.threshold, assessment)
        return _row(frame, raw, drawn, shown=shown, scene=scene, assessable=True), drawn


def _row(frame: Frame, raw: Finding, drawn: Finding, *, shown: bool, scene: bool, assessable: bool) -> FrameRow:
    return FrameRow(frame.index, frame.seconds, *_numbers(raw), *_numbers(drawn), shown=shown, scene=scene, assessable=assessable)


def _numbers(finding: Finding) -> tuple[int, float, float, int]:
    return finding.area_px, finding.field_percent, finding.confidence, len(finding.regions)


def _finish(rows: list[FrameRow], out: Path, spent: float, note: str, settings: Settings) -> VideoResult:
    (out / TABLE).write_text(frames_csv(rows, settings, note=note), encoding="utf-8")
    (out / TIMELINE).write_bytes(timeline_png(rows))
    return VideoResult(
        tuple(rows), switches([row.raw_regions > 0 for row in rows]), switches([row.shown for row in rows]),
        len(rows) / max(spent, 1e-9), out / VIDEO if settings.annotate else None, out / TABLE, out / TIMELINE, note,
        settings)
