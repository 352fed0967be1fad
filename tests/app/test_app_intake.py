"""What happens to the bytes of an upload, good and hostile."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.intake.pictures import file_kind, read_upload
from gps_seg_app.limits import AppError, Limits

PIXELS = phantom(3, size=(72, 96))[0]
GPS_INFO, MAKE, ORIENTATION = 0x8825, 0x010F, 0x0112


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.png", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_files_arrive_to_the_bit_with_the_sha256_of_their_bytes(kind: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PIXELS), kind)
    (tmp_path / "upload").write_bytes(data)
    for source in (data, tmp_path / "upload"):
        picture = read_upload(source)
        assert np.array_equal(picture.pixels, PIXELS) and picture.pixels.dtype == np.uint8
        assert picture.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_files_arrive_about_right(kind: str) -> None:
    found = read_upload(encoded(Image.fromarray(PIXELS), kind, quality=95)).pixels
    assert found.shape == PIXELS.shape and np.abs(found.astype(int) - PIXELS).mean() < 4


HOSTILE = {
    "empty": (b"", "this file is empty: upload another"),
    "zip renamed": (archive(), "content is a ZIP archive: use the Batch tab"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "content is an SVG drawing"),
    "html": (b"<!DOCTYPE html><script>alert(1)</script>", "content is a web page"),
    "text": (b"not a picture at all", "content is text"),
    "program": (b"\x7fELF" + bytes(100), "content is a program"),
    "pdf": (b"%PDF-1.7 ...", "content is a PDF"),
    "gif": (encoded(Image.fromarray(PIXELS), "GIF"), "content is a GIF"),
    "dicom": (bytes(128) + b"DICM" + bytes(40), "content is DICOM: open it as a DICOM object"),
    "video": (b"\0\0\0\x20ftypisom" + bytes(40), "content is a video: use the Video tab"),
    "noise": (bytes(range(256)) * 4, "content is of an unknown kind"),
    "truncated jpeg": (encoded(Image.fromarray(PIXELS), "JPEG")[:900], "JPEG file is cut short, damaged"),
    "truncated png": (encoded(Image.fromarray(PIXELS), "PNG")[:900], "PNG file is cut short, damaged"),
    "only the first bytes of a tiff": (b"II*\0" + bytes(3), "TIFF file is cut short, damaged"),
    "only the first bytes of a webp": (b"RIFF\0\0\0\0WEBPVP8 ", "WebP file is cut short, damaged"),
    "png bomb": (png_header(60_000, 60_000), "of at most 40 megapixels"),
    "png just over": (png_header(8_000, 5_001), "this one has 8000 x 5001: shrink it"),
    "png with a side of a million": (png_header(1_000_000, 2), "this one has 1000000 x 2: shrink it"),
    "too many bytes": (b"\x89PNG\r\n\x1a\n" + bytes(25_000_000), "at most 25 MB; this one has 25.0 MB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence(name: str) -> None:
    data, words = HOSTILE[name]
    with pytest.raises(AppError) as caught:
        read_upload(data)
    text = str(caught.value)
    assert words in text and text.endswith(".") and "\n" not in text and text[0].isupper()
    assert caught.value.__cause__ is None  # nothing of a decoder's own text reaches the page


def test_bytes_flipped_anywhere_end_in_a_picture_or_a_sentence() -> None:
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP"):
        good = np.frombuffer(encoded(Image.fromarray(PIXELS[:24, :24]), kind), np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[random.integers(0, len(bad), 6)] = random.integers(0, 256, 6)
            with suppress(AppError):  # and no other error
                assert read_upload(bad.tobytes()).pixels.ndim == 3


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        found = read_upload(encoded(Image.fromarray(values), kind)).pixels
        assert found.shape == (64, 64, 3) and np.abs(found[..., 0] - values / 257.0).max() <= 1
        assert (found[..., 0] == found[..., 2]).all()


def test_cmyk_palette_and_two_colour_files_become_rgb() -> None:
    picture = Image.fromarray(PIXELS)
    assert read_upload(encoded(picture.convert("CMYK"), "JPEG")).pixels.shape == PIXELS.shape
    palette = picture.convert("P")
    assert np.array_equal(read_upload(encoded(palette, "PNG")).pixels, np.asarray(palette.convert("RGB")))
    assert set(np.unique(read_upload(encoded(picture.convert("1"), "PNG")).pixels)) <= {0, 255}


def test_what_transparency_hides_stays_hidden() -> None:
    with_alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    with_alpha[:20, :20, 3] = 0
    found = read_upload(encoded(Image.fromarray(with_alpha), "PNG")).pixels
    assert not found[:20, :20].any() and np.array_equal(found[20:], PIXELS[20:])


def test_orientation_is_applied_and_the_place_where_it_was_taken_is_gone() -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Maker of Cameras"
    exif.get_ifd(GPS_INFO)[1] = "N"
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    assert b"Maker of Cameras" in data
    found = read_upload(data)
    assert np.array_equal(found.pixels, np.rot90(PIXELS, -1))
    assert set(vars(found)) == {"pixels", "sha256", "frame", "frames"} and type(found.pixels) is np.ndarray


def test_one_pixel_and_eight_thousand_pixels_are_read() -> None:
    assert read_upload(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")).pixels.tolist() == [[[9, 8, 7]]]
    large = encoded(Image.new("RGB", (7680, 4320), (150, 80, 60)), "PNG", compress_level=1)
    assert read_upload(large).pixels.shape == (4320, 7680, 3)


def test_limits_can_be_tightened() -> None:
    with pytest.raises(AppError, match="this one has 96 x 72"):
        read_upload(encoded(Image.fromarray(PIXELS), "PNG"), Limits(pixels=5_000))


def test_a_file_that_went_away_is_one_sentence_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="upload it again") as caught:
        read_upload(tmp_path / "Jane Doe 1950.png")
    assert "Jane" not in str(caught.value)


def test_the_name_of_a_file_is_never_asked() -> None:
    assert file_kind(encoded(Image.fromarray(PIXELS), "JPEG")[:512]) == "JPEG"
    assert file_kind(b"") == file_kind(b"\0\1\2") == "unknown"
