from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from gps_seg_app.answer.result import Result
from gps_seg_app.export.files import bundle
from gps_seg_app.inference.model_card import card
from gps_seg_app.intake.dicom import PIXEL_TAGS, count_frames, dicom_frames, is_dicom, read_dicom
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.limits import AppError, Limits
from support.answers import answer, run_folder, scene
from support.dicoms import SECRETS, make

PIXELS = scene(size=(48, 64))[0]


def test_an_uncompressed_rgb_object_comes_back_to_the_bit() -> None:
    data = make(PIXELS[None])
    (picture,) = read_dicom(data)
    assert is_dicom(data) and np.array_equal(picture.pixels, PIXELS) and picture.pixels.dtype == np.uint8
    assert len(picture.sha256) == 64


def test_every_frame_of_a_multi_frame_object_comes_in_order() -> None:
    frames = np.stack([PIXELS, PIXELS[::-1], PIXELS // 2])
    data = make(frames)
    assert count_frames(data) == 3
    assert all(np.array_equal(picture.pixels, frame) for picture, frame in zip(read_dicom(data), frames, strict=True))


def test_ybr_full_is_turned_into_rgb() -> None:
    ybr = np.asarray(Image.fromarray(PIXELS).convert("YCbCr"))
    (picture,) = read_dicom(make(ybr[None], "YBR_FULL"))
    assert np.abs(picture.pixels.astype(int) - PIXELS).max() <= 3


@pytest.mark.parametrize(("syntax", "kind", "off"), [(JPEGBaseline8Bit, "YBR_FULL", 12), (JPEG2000Lossless, "YBR_RCT", 0)])
def test_compressed_objects_open(syntax: str, kind: str, off: int) -> None:
    pictures = read_dicom(make(np.stack([PIXELS, PIXELS[:, ::-1]]), kind, syntax))
    assert len(pictures) == 2
    assert np.percentile(np.abs(pictures[0].pixels.astype(int) - PIXELS), 99) <= off
    assert np.percentile(np.abs(pictures[1].pixels.astype(int) - PIXELS[:, ::-1]), 99) <= off


def test_rle_opens() -> None:
    dataset = pydicom.dcmread(io.BytesIO(make(PIXELS[None])))
    dataset.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert np.array_equal(read_dicom(buffer.getvalue())[0].pixels, PIXELS)


def test_grey_is_shown_as_it_is_or_through_its_window_and_never_stretched() -> None:
    grey = PIXELS[..., 0] // 2 + 20
    assert np.array_equal(read_dicom(make(grey[None], "MONOCHROME2"))[0].pixels, np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(read_dicom(make(grey[None], "MONOCHROME1"))[0].pixels[..., 1], 255 - grey)
    deep = grey.astype(np.uint16) << 4
    assert np.abs(read_dicom(make(deep[None], "MONOCHROME2", bits=12))[0].pixels[..., 0].astype(int) - grey).max() <= 1
    half = make(grey[None], "MONOCHROME2", WindowCenter="64", WindowWidth="128")
    assert np.abs(read_dicom(half)[0].pixels[..., 2].astype(int) - np.minimum(255, 2 * grey.astype(int))).max() <= 2


def test_palette_colours_are_looked_up() -> None:
    index = (np.arange(48 * 64, dtype=np.int64) % 256).astype(np.uint8).reshape(48, 64)
    tables = {f"{color}PaletteColorLookupTableDescriptor": [256, 0, 16] for color in ("Red", "Green", "Blue")}
    for number, color in enumerate(("Red", "Green", "Blue")):
        tables[f"{color}PaletteColorLookupTableData"] = ((np.arange(256) * 256 // (number + 1)).astype(np.uint16)).tobytes()  # type: ignore[assignment]
    pixels = read_dicom(make(index[None], "PALETTE COLOR", **tables))[0].pixels
    assert np.array_equal(pixels[..., 0], index) and np.array_equal(pixels[..., 1], index // 2)


@pytest.mark.parametrize(("syntax", "kind"), [(ExplicitVRLittleEndian, "RGB"), (JPEGBaseline8Bit, "YBR_FULL")])
def test_no_identifying_value_is_in_any_exported_byte_log_or_warning(
    syntax: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    data = make(np.stack([PIXELS, PIXELS]), kind, syntax)
    assert b"Secretname" in data and b"SECRETPRIVATE" in data
    for picture in read_dicom(data):
        found: Result = answer(picture.pixels, np.where(picture.pixels[..., 0] > 150, np.float32(0.9), np.float32(0.1)))
        packed = bundle(found, card(run_folder(tmp_path)))
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            everything = packed + b"".join(archive.read(name) for name in archive.namelist())
        check_silent(everything.decode("latin-1"))
    output = capfd.readouterr()
    check_silent(caplog.text + output.out + output.err)


def check_silent(text: str) -> None:
    for value in (*SECRETS.values(), "SECRET", "Secret"):
        assert value not in text


def test_tags_that_name_someone_are_not_even_parsed() -> None:
    assert not set(SECRETS) & set(PIXEL_TAGS)


@pytest.mark.parametrize("cut", [140, 200, 700, 1500, 3000, -4000, -1])
def test_an_object_cut_short_is_one_sentence_without_any_value(cut: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AppError) as raised:
        read_dicom(make(PIXELS[None])[:cut])
    assert raised.value.args[0].endswith(".") and raised.value.__cause__ is None
    check_silent(str(raised.value) + caplog.text)


def test_flipped_bytes_give_pictures_or_a_sentence_and_never_a_value(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    data, random = make(PIXELS[None], "YBR_FULL", JPEGBaseline8Bit), np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for at in random.integers(132, min(len(data), 1400), 4):
            broken[at] = random.integers(0, 256)
        try:
            assert all(isinstance(picture, Picture) for picture in read_dicom(bytes(broken)))
        except AppError as error:
            check_silent(str(error))
    check_silent(caplog.text)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "this file is empty"),
    (b"\x89PNG\r\n\x1a\n" + bytes(500), "not DICOM"),
    (make(PIXELS[None], syntax=JPEGLSLossless), "kind of compression is unknown"),
    (make(PIXELS[None], syntax=MPEG4HP41), "holds a film: export it as mp4"),
    (make(PIXELS[None], syntax=DeflatedExplicitVRLittleEndian), "deflated as a whole"),
    (make(PIXELS[None], "YBR_FULL", JPEGBaseline8Bit, NumberOfFrames=9), "cut short, damaged or of an unusual kind"),
    (make(PIXELS[None], Rows=0), "holds none"),
    (make(PIXELS[None], Rows=60_000, Columns=60_000), "at most 40 megapixels; this one has 60000 x 60000"),
    (make(PIXELS[None], NumberOfFrames=5_000), "at most 2,000 frames; this one has 5,000"),
    (make(PIXELS[None], NumberOfFrames=2_000, Rows=400, Columns=400), "at most 500 MB once unpacked"),
])
def test_what_cannot_be_opened_is_said_in_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(AppError, match=message):
        read_dicom(data)


def test_a_report_object_holds_no_picture() -> None:
    dataset = pydicom.dcmread(io.BytesIO(make(PIXELS[None])))
    del dataset.PixelData, dataset.Rows
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    with pytest.raises(AppError, match="a report or another kind of document"):
        read_dicom(buffer.getvalue())


def test_a_file_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(AppError, match="at most 0 MB; this one has 0.0 MB"):
        dicom_frames(make(PIXELS[None]), Limits(upload_bytes=100))
