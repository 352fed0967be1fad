from __future__ import annotations

import csv
import io
import os
import struct
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gps_seg_app.answer.result import analyse
from gps_seg_app.inference.model_card import DISCLAIMER
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.clips import probe, read_frames
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.jobs.clip_writer import CODECS, writing
from gps_seg_app.jobs.steady import Presence, Smoother, switches
from gps_seg_app.jobs.video import Settings, run_video
from gps_seg_app.limits import AppError, Limits
from support.answers import scene

SIZE = (96, 128)
WALL, _ = scene(1, SIZE)
MARK = (250, 30, 240)


class Magenta:
    """A model that finds one colour: probability 0.9 where it is, 0.05 elsewhere. It counts its calls."""

    names = ("magenta",)
    calls = 0

    def threshold_of(self, name: str) -> float:
        return 0.5

    def predict(
        self, pixels: NDArray[np.uint8], name: str | None = None, *, keep: bool = True
    ) -> tuple[NDArray[np.float32], Any]:
        self.calls += 1
        near = np.abs(pixels.astype(np.int64) - MARK).max(axis=2) < 90
        return np.where(near, np.float32(0.9), np.float32(0.05)), None


def still(*, mark: bool) -> NDArray[np.uint8]:
    pixels = WALL.copy()
    if mark:
        cv2.circle(pixels, (60, 50), 16, MARK, -1)
    return pixels


def film(
    path: Path, frames: Sequence[NDArray[np.uint8]], *, kind: str = "mp4", codec: str = "libx264",
    times: Sequence[float] | None = None,
) -> Path:
    times = times or [index / 25 for index in range(len(frames))]
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "12"} if codec == "libx264" else {"q": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if codec == "libx264":
            stream.codec_context.time_base = Fraction(1, 90_000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if codec == "libx264":
                frame.pts, frame.time_base = round(times[index] * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def flickering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames: nothing, then a mark that is lost in every fourth frame, then nothing but a flash."""
    marks = [False] * 8 + [index % 4 != 3 for index in range(20)] + [False] * 7 + [True] + [False] * 4
    return film(tmp_path_factory.mktemp("film") / "flicker.mp4", [still(mark=mark) for mark in marks])


def run(path: Path, out: Path, **more: Any) -> Any:
    return list(run_video(path, Magenta(), out, settings=Settings(**more)))[-1].result


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("mov", "libx264"), ("avi", "mpeg4")])
def test_mp4_mov_and_avi_are_read_whatever_the_name(tmp_path: Path, kind: str, codec: str) -> None:
    path = film(tmp_path / "clip.dat", [still(mark=index > 3) for index in range(8)], kind=kind, codec=codec)
    clip, frames = probe(path), list(read_frames(path))
    assert (clip.width, clip.height, clip.frames) == (128, 96, 8) and [frame.index for frame in frames] == list(range(8))
    assert [frame.seconds for frame in frames] == pytest.approx([index / 25 for index in range(8)], abs=2e-3)
    assert np.abs(frames[7].pixels.astype(int) - still(mark=True)).mean() < 8


@pytest.mark.parametrize(("matrix", "shown"), [
    ((1, 0, 0, 1), lambda x: x), ((0, 1, -1, 0), lambda x: np.rot90(x, -1)), ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    ((0, -1, 1, 0), np.rot90), ((-1, 0, 0, 1), np.fliplr), ((1, 0, 0, -1), np.flipud), ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    ((0, 0, 0, 0), lambda x: x), ((0.707, 0.707, -0.707, 0.707), lambda x: x),
])
def test_a_clip_that_says_how_to_turn_it_is_read_upright(tmp_path: Path, matrix: tuple[float, ...], shown: Any) -> None:
    path = film(tmp_path / "clip.mp4", [still(mark=True)] * 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the track header's display matrix (ISO/IEC 14496-12, 8.3.2)
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    pixels = next(iter(read_frames(path))).pixels
    upright = shown(still(mark=True))
    assert pixels.shape == upright.shape and np.abs(pixels.astype(int) - upright).mean() < 8
    (tmp_path / "out").mkdir()
    assert len(run(path, tmp_path / "out").rows) == 3


def test_variable_frame_rates_keep_their_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.52, 1.7]
    path = film(tmp_path / "vfr.mp4", [still(mark=True)] * 5, times=times)
    assert [frame.seconds for frame in read_frames(path)] == pytest.approx(times, abs=1e-3)
    result = run(path, tmp_path, persistence=1)
    with av.open(str(result.video)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times, abs=2e-3)


def test_smoothing_and_persistence_take_away_flicker(flickering: Path, tmp_path: Path) -> None:
    result = run(flickering, tmp_path)
    assert result.raw_switches == 12 and result.switches == 2 and len(result.rows) == 40
    shown = [row.frame for row in result.rows if row.shown]
    assert 8 <= shown[0] <= 14 and shown == list(range(shown[0], shown[-1] + 1)) and shown[-1] < 36
    assert all((row.area_px > 0) == row.shown for row in result.rows)


def test_without_smoothing_and_persistence_every_frame_stands_for_itself(flickering: Path, tmp_path: Path) -> None:
    result = run(flickering, tmp_path, smoothing=0.0, persistence=1)
    assert result.switches == result.raw_switches == 12
    assert [row.area_px for row in result.rows] == [row.raw_area_px for row in result.rows]


def test_the_table_has_seconds_areas_and_confidences_raw_and_smoothed(flickering: Path, tmp_path: Path) -> None:
    result = run(flickering, tmp_path, stride=2)
    lines = result.table.read_text().splitlines()
    assert lines[0] == f"# {DISCLAIMER}" and "1 frame in 2" in lines[1]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [int(row["frame"]) for row in rows] == list(range(0, 40, 2))
    assert [float(row["seconds"]) for row in rows] == pytest.approx([index / 25 for index in range(0, 40, 2)], abs=2e-3)
    assert {"raw_area_px", "raw_percent", "raw_confidence", "raw_regions", "area_px", "percent", "confidence", "regions",
            "shown"} <= set(rows[0])


def test_every_frame_of_the_annotated_video_carries_the_disclaimer_below_the_picture(flickering: Path, tmp_path: Path) -> None:
    result = run(flickering, tmp_path)
    with av.open(str(result.video)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 40 and frames[0].shape[0] > SIZE[0] + 40 and frames[0].shape[1] >= 320
    strips = np.stack([frame[SIZE[0] + 4 :] for frame in frames]).astype(int)
    assert all((strip.max(axis=2) > 200).mean() > 0.02 for strip in strips)  # words are there
    assert np.abs(strips - strips[0]).mean() < 3  # and the same in all frames
    shown = next(row.frame for row in result.rows if row.shown)
    cyan = [((frame[: SIZE[0], : SIZE[1]] @ np.array([-1, 1, 1])) > 130).sum() for frame in (frames[0], frames[shown])]
    assert cyan[1] > cyan[0] + 20


def test_the_timeline_is_a_picture_with_the_disclaimer(flickering: Path, tmp_path: Path) -> None:
    data = run(flickering, tmp_path, stride=4).timeline.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert min(opened.size) > 300 and opened.info["Disclaimer"] == DISCLAIMER and "Software" not in opened.info


def test_dark_frames_are_not_shown_to_the_model_and_end_what_was_shown(tmp_path: Path) -> None:
    frames = [still(mark=True)] * 6 + [np.zeros((*SIZE, 3), np.uint8)] * 3 + [still(mark=True)] * 2
    model = Magenta()
    steps = list(run_video(film(tmp_path / "a.mp4", frames), model, tmp_path))
    rows = steps[-1].result.rows if steps[-1].result else ()
    assert model.calls == 8 and [row.assessable for row in rows] == [True] * 6 + [False] * 3 + [True] * 2
    assert rows[5].shown and not any(row.shown for row in rows[6:])


def test_a_cancelled_or_abandoned_run_leaves_no_file(flickering: Path, tmp_path: Path) -> None:
    cancel, steps = threading.Event(), []
    for step in run_video(flickering, Magenta(), tmp_path, cancel=cancel):
        steps.append(step)
        if step.done == 30:  # the encoder looks ahead, so the file begins late
            assert (tmp_path / "annotated.mp4").exists()
            cancel.set()
    assert len(steps) == 30 and steps[-1].result is None and not list(tmp_path.iterdir())
    running = run_video(flickering, Magenta(), tmp_path)
    next(running)
    running.close()
    assert not list(tmp_path.iterdir())


def test_progress_counts_to_the_end_and_estimates_the_rest(flickering: Path, tmp_path: Path) -> None:
    steps = list(run_video(flickering, Magenta(), tmp_path, settings=Settings(stride=3, annotate=False)))
    assert [step.done for step in steps] == [*range(1, 15), 14] and {step.total for step in steps} == {14}
    assert steps[3].seconds_left > 0 and steps[-1].seconds_left == 0 and steps[-1].result is not None
    assert steps[-1].result.video is None and not (tmp_path / "annotated.mp4").exists()


def test_a_clip_damaged_half_way_gives_what_was_read_with_a_note(tmp_path: Path) -> None:
    path = film(tmp_path / "broken.mp4", [np.roll(WALL, 5 * index, axis=1) for index in range(40)])
    data = bytearray(path.read_bytes())
    middle, end = len(data) // 2, len(data) - 3000  # the index is at the end
    data[middle:end] = bytes([255]) * (end - middle)
    path.write_bytes(data)
    result = run(path, tmp_path)
    assert 0 < len(result.rows) < 40 and result.note.startswith("Only the first")
    assert result.note in result.table.read_text()


@pytest.mark.parametrize(("data", "message"), [
    (b"", "this file is empty"),
    (b"hello, I am a text", "content is text"),
    (b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:9/x.ts\n", "content is"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "content is PNG"),
    (b"\x1a\x45\xdf\xa3" + bytes(100), "content is of another kind"),
    (b"\0\0\0\x18ftypmp42" + bytes(200), "cut short, damaged|holds no picture"),
    (b"RIFF\0\0\0\0AVI " + bytes(200), "cut short, damaged|holds no picture"),
])
def test_what_is_no_video_is_said_in_one_sentence(
    tmp_path: Path, data: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Surname.mp4"
    path.write_bytes(data)
    with pytest.raises(AppError, match=message) as raised:
        run(path, tmp_path)
    output = capfd.readouterr()
    assert "Surname" not in str(raised.value) + output.out + output.err and output.err == ""
    assert [file.name for file in tmp_path.iterdir()] == ["Surname.mp4"]


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(AppError, match="holds no picture, sound alone perhaps"):
        probe(tmp_path / "a.mp4")


def test_a_video_without_a_frame_is_one_sentence(flickering: Path, tmp_path: Path) -> None:
    data = flickering.read_bytes()
    path = tmp_path / "none.mp4"
    start = data.index(b"mdat") + 4
    end = data.index(b"moov", start) - 4 if data.find(b"moov", start) > 0 else len(data)
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(AppError, match="no frame of this one can be read|cut short, damaged"):
        run(path, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["none.mp4"]


@pytest.mark.parametrize(("limits", "message"), [
    (Limits(video_side=100), "at most 100 pixels a side; this one has 128 x 96"),
    (Limits(video_seconds=1.0), "at most 1 seconds"), (Limits(video_frames=20), "20 frames; this one has 2 seconds and about 40"),
    (Limits(video_bytes=1_000), "at most 0 MB"),
])
def test_a_video_over_the_limits_is_refused_by_its_header(flickering: Path, limits: Limits, message: str) -> None:
    with pytest.raises(AppError, match=message):
        probe(flickering, limits)


def test_a_file_that_is_gone_is_said_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="cannot be read any more") as raised:
        probe(tmp_path / "Surname.mp4")
    assert "Surname" not in str(raised.value)


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"persistence": 0}, {"smoothing": -1.0}, {"lower": 0.0}])
def test_settings_out_of_range_are_refused(flickering: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(AppError, match="at least 1 frame"):
        run(flickering, tmp_path, **wrong)


@pytest.mark.parametrize("codec", CODECS)
def test_odd_sizes_are_written_with_either_codec(tmp_path: Path, codec: str) -> None:
    with writing(tmp_path / "odd.mp4", rate=25, codec=codec) as writer:
        for index in range(5):
            writer.write(np.full((91, 333, 3), 40 * index, np.uint8), index / 25)
    with av.open(str(tmp_path / "odd.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 5 and frames[0].width == 334 and frames[0].height % 2 == 0


def test_smoothing_follows_time_and_begins_anew_at_a_cut() -> None:
    low, high = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    dark, bright = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 200, np.uint8)
    smoother = Smoother(0.5)
    assert smoother.update(low, dark, 0.0)[1] and smoother.update(high, dark, 0.5)[0][0, 0] == pytest.approx(1 - np.exp(-1))
    once, twice = Smoother(0.5), Smoother(0.5)
    for one, times in ((once, (0.0, 0.4)), (twice, (0.0, 0.2, 0.4))):
        values = [one.update(low if seconds == 0 else high, dark, seconds)[0] for seconds in times]
        assert values[-1][0, 0] == pytest.approx(1 - np.exp(-0.8))
    value, fresh = smoother.update(low, bright, 0.54)
    assert fresh and not value.any()


def test_presence_needs_frames_in_a_row_and_falls_only_below_the_lower_threshold() -> None:
    presence, shown = Presence(2), []
    for probability in (0.6, 0.4, 0.6, 0.6, 0.45, 0.45, 0.45, 0.3, 0.6, 0.3, 0.3, 0.45):
        shown.append(presence.update(above=probability > 0.5, above_lower=probability > 0.4))
    assert shown == [False, False, False, True, True, True, True, True, True, True, False, False]
    assert switches(shown) == 2


def test_a_folder_that_is_gone_is_one_sentence(flickering: Path, tmp_path: Path) -> None:
    for annotate in (True, False):
        with pytest.raises(AppError, match="cannot be written: check the space") as raised:
            run(flickering, tmp_path / "missing", annotate=annotate)
        assert "missing" not in str(raised.value)


def test_the_real_model_looks_at_a_clip(flickering: Path, tmp_path: Path, trained: Callable[..., Path]) -> None:
    predictor = Predictor({"tiny": trained()}, device="cpu", precision="fp32")
    out = tmp_path / "out"
    out.mkdir()
    result = list(run_video(flickering, predictor, out, settings=Settings(stride=10)))[-1].result
    assert result is not None and len(result.rows) == 4 and result.frames_per_second > 0
    assert {path.name for path in out.iterdir()} == {"annotated.mp4", "frames.csv", "timeline.png"}


@pytest.mark.skipif(not Path(os.environ.get("GPS_SEG_DATA", "/nowhere"), "colonoscopy-clip", "polyp.mp4").is_file(),
                    reason="needs GPS_SEG_DATA/colonoscopy-clip/polyp.mp4")
def test_a_real_clip_is_read_to_its_end() -> None:
    path = Path(os.environ["GPS_SEG_DATA"]) / "colonoscopy-clip" / "polyp.mp4"
    assert sum(1 for _ in read_frames(path, stride=1)) == probe(path).frames == 53


def test_frames_of_a_clip_are_answered_as_single_pictures(tmp_path: Path, trained: Callable[..., Path]) -> None:
    predictor = Predictor({"one": trained()}, device="cpu", precision="bf16")
    limit = float(np.median(predictor.predict(still(mark=True))[0]))
    path = film(tmp_path / "clip.mp4", [np.roll(still(mark=True), 3 * index, axis=1) for index in range(9)])
    settings = Settings(smoothing=0.0, persistence=1, threshold=limit)
    result = list(run_video(path, predictor, tmp_path, settings=settings))[-1].result
    assert result is not None and any(row.raw_regions for row in result.rows)
    for row, frame in zip(result.rows, read_frames(path), strict=True):
        alone = analyse(Picture(frame.pixels, "0"), predictor, threshold=limit).finding
        assert (row.raw_area_px, row.raw_confidence, row.raw_regions) == (
            alone.area_px, alone.confidence, len(alone.regions))
