"""Frames of a clip, one at a time: mp4, mov and avi, by content, with limits on everything, and no way to the network.

The container format is fixed before FFmpeg sees the file, and FFmpeg reads it through a Python file object: play lists and
other formats that open further files or addresses are never tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg_app.intake.pictures import GONE, file_kind
from gps_seg_app.limits import AppError, Limits

WANTED = "Expected an mp4, mov or avi video"
DAMAGED = "This video is cut short, damaged or of an unusual kind: export it again, best as mp4 with H.264."
QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
USUAL_RATE = 25.0


@dataclass(frozen=True)
class Clip:
    """What a video says of itself: pixels (as stored, not turned upright), frames (estimated where it does not say), seconds,
    mean frames a second."""

    width: int
    height: int
    frames: int
    seconds: float
    rate: float


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame: number from 0, seconds from the first frame (rising strictly), uint8 RGB (H, W, 3)."""

    index: int
    seconds: float
    pixels: NDArray[np.uint8]


class Cut(AppError):
    """Raised in the middle of a clip whose first frames were fine."""


def probe(path: Path, limits: Limits = Limits()) -> Clip:  # noqa: B008  (frozen)
    """Look at a video's header.

    Raises:
        AppError: not such a video, no picture in it, damaged, or over the limits.
    """
    with _opened(path, limits) as (_, _, clip):
        return clip


def read_frames(path: Path, limits: Limits = Limits(), *, stride: int = 1) -> Iterator[Frame]:  # noqa: B008
    """Every ``stride``-th frame, the first included; memory holds one.

    Raises:
        AppError: as :func:`probe`; no frame at all; more frames or seconds than the header said and the limits allow.
        Cut: damaged after the first frame, or the frame size changes.
    """
    with _opened(path, limits) as (container, stream, clip):
        first, last = 0.0, -1.0
        index = -1
        for index, frame in enumerate(_decoded(container, stream)):
            seconds = float(frame.time) if frame.time is not None else index / clip.rate
            first = seconds if index == 0 else first
            last = max(seconds - first, last + 1e-3)  # some files repeat a time, or go back
            if index >= limits.video_frames or last > limits.video_seconds:
                raise AppError(_too_long(limits, "this one is longer"))
            if (frame.width, frame.height) != (clip.width, clip.height):
                raise Cut("This video changes its frame size: export it again with one size.")
            if index % stride == 0:
                yield Frame(index, last, _pixels(frame, index))
        if index < 0:
            raise AppError(f"{WANTED}; no frame of this one can be read: export it again, best as mp4 with H.264.")


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[tuple[Any, Any, Clip]]:
    import av

    kind = _container_format(path, limits)
    with path.open("rb") as file:
        try:
            container = av.open(file, format=kind, metadata_errors="ignore")
        except _failures():
            raise AppError(DAMAGED) from None
        with container:
            yield container, *_checked(container, limits)


def _container_format(path: Path, limits: Limits) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        raise AppError(GONE) from None
    if size == 0:
        raise AppError(f"{WANTED}; this file is empty: upload another.")
    if size > limits.video_bytes:
        raise AppError(f"{WANTED} of at most {limits.video_bytes / 1e6:.0f} MB; this one has {size / 1e6:.0f} MB: cut it.")
    if head[4:8] in QUICKTIME and file_kind(head) in ("video", "unknown"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    kind = file_kind(head)
    raise AppError(f"{WANTED}; this file's content is {'of another kind' if kind in ('unknown', 'video') else kind}: "
                   "export it as mp4.")


def _checked(container: Any, limits: Limits) -> tuple[Any, Clip]:
    """The first picture stream, ready to decode, and what it is."""
    if not container.streams.video:
        raise AppError(f"{WANTED}; this file holds no picture, sound alone perhaps: upload another.")
    stream = container.streams.video[0]
    codec = stream.codec_context
    if codec is None:
        raise AppError(DAMAGED)
    width, height = int(codec.width), int(codec.height)
    if min(width, height) < 1:
        raise AppError(DAMAGED)
    if max(width, height) > limits.video_side:
        raise AppError(f"{WANTED} of at most {limits.video_side:,} pixels a side; this one has {width} x {height}: "
                       "export it smaller.")
    rate = float(stream.average_rate or stream.guessed_rate or 0) or USUAL_RATE
    seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
    frames = int(stream.frames) or round(seconds * rate)
    if seconds > limits.video_seconds or frames > limits.video_frames:
        raise AppError(_too_long(limits, f"this one has {seconds:,.0f} seconds and about {frames:,} frames"))
    codec.thread_type = "AUTO"
    codec.options = {"max_pixels": str(limits.video_side**2)}  # a stream may hold larger frames than the header says
    return stream, Clip(width, height, frames, seconds, rate)


def _too_long(limits: Limits, what: str) -> str:
    return (f"{WANTED} of at most {limits.video_seconds:.0f} seconds and {limits.video_frames:,} frames; {what}: "
            "cut it into parts.")


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Up to the first packet that cannot be read; what the decoder holds by then, as it works ahead, still comes."""
    found, packets = False, container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames, broken = [] if packet is None else packet.decode(), False
        except _failures():
            frames, broken = _rest(stream), True
        for frame in frames:
            found = True
            yield frame
        if broken:
            raise (Cut if found else AppError)(DAMAGED)
        if packet is None:
            return


def _pixels(frame: Any, index: int) -> NDArray[np.uint8]:
    """RGB, upright: a hand-held device writes its frames as the sensor lies, and beside them how to turn them."""
    try:
        return _upright(frame.to_ndarray(format="rgb24"), frame)
    except _failures():
        raise (Cut if index else AppError)(DAMAGED) from None


def _upright(pixels: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """As the frame's display matrix turns and mirrors it; one that does anything else, such as 45 degrees, is left aside.

    Source: ISO/IEC 14496-12, 6.2.2: (x, y) is shown at (a x + c y, b x + d y).
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, c, d = (0, 0, 0, 0) if matrix is None else np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist()
    if a and d and not (b or c):
        pixels = pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    elif b and c and not (a or d):
        pixels = pixels.swapaxes(0, 1)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]
    return np.ascontiguousarray(pixels)


def _rest(stream: Any) -> list[Any]:
    try:
        return list(stream.codec_context.decode(None))
    except _failures():
        return []


def _failures() -> tuple[type[Exception], ...]:
    """What PyAV raises on bytes it cannot read."""
    import av

    return (av.FFmpegError, ValueError, EOFError, OSError, RuntimeError, ZeroDivisionError, MemoryError, NotImplementedError)
