"""What the app takes at most, and the error whose text the page shows."""

from __future__ import annotations

from dataclasses import dataclass

from gps_seg.errors import GpsSegError


class AppError(GpsSegError):
    """What a user of the page can mend: one sentence that says what was expected, what came and what to do."""


@dataclass(frozen=True)
class Limits:
    """The most the app takes of anything; each is checked before memory or time is spent.

    Attributes:
        upload_bytes: of a picture or a DICOM file. video_bytes: of a clip. batch_bytes: of an archive.
        pixels: of a picture after decoding. picture_side: of its longer side.
        batch_files: pictures in a batch. unpacked_bytes: of an archive once unpacked, all files together.
        video_seconds, video_frames, video_side: of a clip; the last is its longer side in pixels.
        dicom_frames: of one multi-frame object.
    """

    upload_bytes: int = 25_000_000
    pixels: int = 40_000_000
    picture_side: int = 30_000
    batch_files: int = 200
    batch_bytes: int = 200_000_000
    unpacked_bytes: int = 500_000_000
    video_bytes: int = 200_000_000
    video_seconds: float = 300.0
    video_frames: int = 9_000
    video_side: int = 4_096
    dicom_frames: int = 2_000
