"""The annotated clip: H.264 (else VP9) in mp4, as browsers play it, the disclaimer below every frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg_app.export.caption import with_strip
from gps_seg_app.inference.model_card import DISCLAIMER
from gps_seg_app.limits import AppError

CODECS = ("libx264", "libvpx-vp9")  # the first that this FFmpeg can write
SETTINGS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libvpx-vp9": {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "8"},
}
TIME_BASE = Fraction(1, 90_000)  # seconds; fine enough for any frame rate
SEEKABLE = 25  # frames between two that a player can jump to


class Writer:
    """Takes frames in order; :func:`writing` makes and closes it."""

    def __init__(self, container: Any, lines: tuple[str, ...], rate: float, codec: str) -> None:
        self._container, self._lines, self._codec = container, (*lines, DISCLAIMER), codec
        self._stream: Any = None
        self._rate = Fraction(max(rate, 1e-3)).limit_denominator(1001)

    def write(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        """Add one frame (H, W, 3); all have one size, and times rise."""
        import av

        whole = _even(with_strip(pixels, self._lines))
        frame = av.VideoFrame.from_ndarray(whole, format="rgb24")
        frame.pts, frame.time_base = round(seconds / TIME_BASE), TIME_BASE
        if self._stream is None:
            self._stream = self._open(whole.shape[1], whole.shape[0])
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _open(self, width: int, height: int) -> Any:
        stream = self._container.add_stream(self._codec, rate=self._rate, options=SETTINGS[self._codec])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = TIME_BASE, SEEKABLE
        return stream


@contextmanager
def writing(path: Path, *, rate: float, lines: tuple[str, ...] = (), codec: str | None = None) -> Iterator[Writer]:
    """A writer of an mp4 file, complete once the block ends; after an error the file is removed.

    Args:
        rate: frames a second on average, a hint for the encoder; each frame bears its own time.
        lines: of text, below every frame, above the disclaimer.
        codec: default: the first of CODECS that there is.

    Raises:
        AppError: the disk is full or the folder cannot be written.
    """
    import av

    chosen = codec or next((name for name in CODECS if name in av.codecs_available), CODECS[-1])
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            writer = Writer(container, lines, rate, chosen)
            yield writer
            writer.finish()
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, (av.FFmpegError, OSError)):
            raise AppError("The annotated video cannot be written: check the space on the disk.") from None
        raise


def _even(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both sides even, as 4:2:0 colour needs, by repeating the last row or column."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else pixels
