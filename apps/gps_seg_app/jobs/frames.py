"""How a clip is worked through, and what is noted of each frame."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from gps_seg_app.export.table import csv_text


@dataclass(frozen=True)
class Settings:
    """How a clip is worked through.

    Attributes:
        stride: every how many frames one is looked at; only those are in the table and in the annotated video.
        delta: of the predictor; None: its first. threshold: None: that delta's own.
        smoothing: time constant in seconds of the exponential smoothing; 0: off.
        persistence: frames looked at, in a row, that a finding must be there to appear, and be gone to go.
        lower: part of the threshold to which probabilities may fall before a finding that is shown counts as gone.
        annotate: write the annotated video.
        model: says which model it is and which version runs it, in results.
    """

    stride: int = 1
    delta: str | None = None
    threshold: float | None = None
    smoothing: float = 0.15
    persistence: int = 3
    lower: float = 0.8
    annotate: bool = True
    model: str = ""


@dataclass(frozen=True)
class FrameRow:
    """One frame that was looked at; ``raw``: on its own, else smoothed and as shown.

    Attributes:
        frame: number in the clip, from 0. seconds: from its first frame.
        area_px, percent: marked pixels, and their part of the visible field.
        confidence: mean probability of the surest region; 0 without one.
        shown: whether a finding is shown. scene: whether a scene begins. assessable: whether the model was asked at all.
    """

    frame: int
    seconds: float
    raw_area_px: int
    raw_percent: float
    raw_confidence: float
    raw_regions: int
    area_px: int
    percent: float
    confidence: float
    regions: int
    shown: bool
    scene: bool
    assessable: bool


def frames_csv(rows: list[FrameRow], settings: Settings, *, note: str = "") -> str:
    """A row a frame looked at, after ``#`` lines with disclaimer, settings and, if there is one, a note."""
    columns = [field.name for field in fields(FrameRow)]
    return csv_text((describe(settings), note), columns, ([_cell(value) for value in astuple(row)] for row in rows))


def _cell(value: float) -> str:
    return str(int(value)) if isinstance(value, int) else f"{value:.4f}"


def describe(settings: Settings) -> str:
    """In one line, for the table and the video."""
    looked = "every frame" if settings.stride == 1 else f"1 frame in {settings.stride}"
    model = f"{settings.model}, " if settings.model else ""
    cut = "" if settings.threshold is None else f"threshold {settings.threshold:g}; "
    return (f"{model}{cut}polyp segmentation of {looked}; smoothed over {settings.smoothing:g} s; a finding appears and goes "
            f"after {settings.persistence} frames.")
