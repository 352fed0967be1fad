from __future__ import annotations

import csv
import io
import json
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gps_seg_app.answer.result import Result, analyse
from gps_seg_app.export.files import mask_png
from gps_seg_app.inference.model_card import DISCLAIMER, ModelCard, card
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.intake.pictures import Picture
from gps_seg_app.jobs.batch import Progress, by_confidence, count, plain, read_batch, run_batch
from gps_seg_app.limits import AppError, Limits
from support.answers import answer, run_folder, scene
from support.dicoms import make

PIXELS = [scene(index, (64, 80))[0] for index in range(3)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(source: Path | list[Path], limits: Limits = Limits(), **more: bool) -> list[tuple[str, Picture | str]]:  # noqa: B008
    return [(label, str(found) if isinstance(found, AppError) else found) for label, found in read_batch(source, limits, **more)]


def look(picture: Picture) -> Result:
    return answer(picture.pixels, np.where(picture.pixels[..., 0] > 170, np.float32(0.9), np.float32(0.2)))


@pytest.fixture
def model(tmp_path: Path) -> ModelCard:
    return card(run_folder(tmp_path / "run"))


def test_files_come_in_order_under_numbers_and_not_under_their_names(tmp_path: Path) -> None:
    paths = []
    for number, pixels in enumerate(PIXELS):
        paths.append(tmp_path / f"Surname{number}.png")
        paths[-1].write_bytes(png(pixels))
    found = read(paths)
    assert [label for label, _ in found] == ["image 1", "image 2", "image 3"] and count(paths) == 3
    for (_, one), pixels in zip(found, PIXELS, strict=True):
        assert isinstance(one, Picture) and np.array_equal(one.pixels, pixels)
    assert [label for label, _ in read(paths, names=True)] == ["Surname0.png", "Surname1.png", "Surname2.png"]


def test_a_zip_is_known_by_its_content_and_what_systems_add_is_passed_over(tmp_path: Path) -> None:
    path = pack(tmp_path / "pictures.bin", {
        "a/one.png": png(PIXELS[0]), "a/": b"", "__MACOSX/a/._one.png": b"x", "a/.DS_Store": b"x", "Thumbs.db": b"x",
        "b/two.png": png(PIXELS[1])})
    assert [label for label, _ in read(path)] == ["image 1", "image 2"] and count(path) == 2


def test_a_path_that_leads_out_of_the_zip_is_only_a_name_and_nothing_is_written(tmp_path: Path) -> None:
    inner = tmp_path / "deep" / "folder"
    inner.mkdir(parents=True)
    path = pack(inner / "slip.zip", {
        "../../evil.png": png(PIXELS[0]), "/etc/evil.png": png(PIXELS[1]), "C:\\evil\\..\\x.png": png(PIXELS[2])})
    before = sorted(tmp_path.rglob("*"))
    found = read(path, names=True)
    assert [label for label, _ in found] == ["evil.png", "evil.png", "x.png"]
    assert all(isinstance(one, Picture) for _, one in found) and sorted(tmp_path.rglob("*")) == before


def test_a_bad_file_gives_its_sentence_and_the_others_go_on(tmp_path: Path) -> None:
    nested = pack(tmp_path / "inner.zip", {"x.png": png(PIXELS[0])}).read_bytes()
    path = pack(tmp_path / "mixed.zip", {
        "empty.png": b"", "text.png": b"not a picture", "cut.png": png(PIXELS[0])[:200], "inner.zip": nested,
        "fine.png": png(PIXELS[1])})
    found = [one for _, one in read(path)]
    for text, part in zip(found[:4], ("this file is empty", "content is text", "cut short", "a zip among other files or within"),
                          strict=True):
        assert isinstance(text, str) and part in text and text.endswith(".")
    assert isinstance(found[4], Picture)


def test_a_file_packed_too_tightly_is_not_opened(tmp_path: Path) -> None:
    path = pack(tmp_path / "bomb.zip", {"bomb.png": bytes(20_000_000), "fine.png": png(PIXELS[0])})
    found = [one for _, one in read(path)]
    assert isinstance(found[0], str) and "packed far more tightly" in found[0] and isinstance(found[1], Picture)


def test_a_zip_that_unpacks_to_too_much_in_all_is_refused_at_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(40_000)
    path = pack(tmp_path / "large.zip", {f"{number}.png": noise for number in range(3)})
    with pytest.raises(AppError, match="at most 0 MB once unpacked"):
        read(path, Limits(unpacked_bytes=100_000))
    with pytest.raises(AppError, match="at most 0 MB: send it in parts"):
        read(path, Limits(batch_bytes=100_000))


def test_a_lie_about_the_unpacked_size_does_not_get_more_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3_000_000)
    path = pack(tmp_path / "lie.zip", {"a.png": noise})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # the size once unpacked, in both headers
        struct.pack_into("<I", data, data.index(signature) + offset, 1000)
    path.write_bytes(data)
    ((_, found),) = read(path, Limits(upload_bytes=500_000))
    assert isinstance(found, str) and found.endswith(".")


@pytest.mark.parametrize("cut", [30, -10, -40])
def test_a_damaged_zip_is_one_sentence(tmp_path: Path, cut: int) -> None:
    path = pack(tmp_path / "a.zip", {"a.png": png(PIXELS[0])})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AppError, match="This zip is cut short or damaged"):
        read(path)


def test_damaged_bytes_inside_a_zip_spoil_only_their_file(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.png": png(PIXELS[0]), "b.png": png(PIXELS[1])})
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    (_, first), (_, second) = read(path)
    assert isinstance(first, str) and "cut short or damaged" in first and isinstance(second, Picture)


def test_an_encrypted_zip_is_one_sentence(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.png": png(PIXELS[0])})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(AppError, match="encrypted: pack it again without a password"):
        read(path)


def test_nothing_and_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="nothing came"):
        read([])
    with pytest.raises(AppError, match="holds no file"):
        read(pack(tmp_path / "none.zip", {"a/": b"", "__MACOSX/x": b"1"}))
    with pytest.raises(AppError, match="at most 2; these are 3"):
        read(pack(tmp_path / "many.zip", {f"{n}.png": b"1" for n in range(3)}), Limits(batch_files=2))
    with pytest.raises(AppError, match="cannot be read any more") as raised:
        read([tmp_path / "Surname.png"])
    assert "Surname" not in str(raised.value)


def test_a_dicom_file_in_a_batch_gives_a_picture_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(make(np.stack(PIXELS)))
    other = tmp_path / "one.png"
    other.write_bytes(png(PIXELS[0]))
    assert [label for label, _ in read([path, other])] == ["image 1, frame 1", "image 1, frame 2", "image 1, frame 3", "image 2"]


def test_a_batch_becomes_one_zip_with_a_folder_a_picture_and_a_summary(tmp_path: Path, model: ModelCard) -> None:
    source = pack(tmp_path / "in.zip", {"Surname1.png": png(PIXELS[0]), "bad.png": b"bad", "Surname2.png": png(PIXELS[1])})
    steps = list(run_batch(source, look, model, tmp_path / "out.zip"))
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)] and steps[-1].seconds_left == 0
    assert steps[1].item.failed and steps[0].item.thumbnail is not None
    data = (tmp_path / "out.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        summary = archive.read("summary.csv").decode()
        everything = data + b"".join(archive.read(name) for name in names)
        assert archive.read("0001/mask.png") == mask_png(look(Picture(PIXELS[0], "")))
    assert b"Surname" not in everything and {"0001/result.json", "0003/report.pdf", "README.txt"} <= set(names)
    lines = summary.splitlines()
    assert lines[0] == f"# {DISCLAIMER}"
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [row["image"] for row in rows] == ["image 1", "image 2", "image 3"] and rows[1]["outcome"] == "unreadable"
    assert not list(tmp_path.glob("*.part"))


def test_file_names_are_in_the_results_once_opted_in(tmp_path: Path, model: ModelCard) -> None:
    source = pack(tmp_path / "in.zip", {"case7.png": png(PIXELS[0])})
    (step,) = run_batch(source, look, model, tmp_path / "out.zip", names=True)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert step.item.label == "case7.png" and b'"name": "case7.png"' in archive.read("0001/result.json")


def test_a_cancelled_batch_keeps_what_was_done_and_says_so(tmp_path: Path, model: ModelCard) -> None:
    source = pack(tmp_path / "in.zip", {f"{n}.png": png(one) for n, one in enumerate(PIXELS)})
    cancel, steps = threading.Event(), []
    for step in run_batch(source, look, model, tmp_path / "out.zip", cancel=cancel):
        steps.append(step)
        cancel.set()
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert "# Cancelled: the remaining pictures were not looked at." in archive.read("summary.csv").decode()
        assert not any(name.startswith("0002") for name in archive.namelist())
    assert len(steps) == 1


def test_a_batch_that_is_given_up_leaves_no_file_behind(tmp_path: Path, model: ModelCard) -> None:
    source = pack(tmp_path / "in.zip", {f"{n}.png": png(one) for n, one in enumerate(PIXELS)})
    steps = run_batch(source, look, model, tmp_path / "out.zip")
    assert isinstance(next(steps), Progress) and list(tmp_path.glob("*.part"))
    steps.close()
    assert not list(tmp_path.glob("out*"))


def test_the_gallery_shows_the_surest_first_and_the_unreadable_last(tmp_path: Path, model: ModelCard) -> None:
    black = np.zeros((64, 80, 3), np.uint8)
    source = pack(tmp_path / "in.zip", {"bad.png": b"bad", "black.png": png(black), "a.png": png(PIXELS[0])})
    items = [step.item for step in run_batch(source, look, model, tmp_path / "out.zip")]
    assert [item.label for item in by_confidence(items)] == ["image 3", "image 2", "image 1"]


def test_no_cell_of_the_summary_is_a_formula() -> None:
    assert plain('=HYPERLINK("http://x")') == "'=HYPERLINK(\"http://x\")"
    assert plain(-3.5) == "'-3.5" and plain("image 1") == "image 1"


def test_a_table_of_contents_of_millions_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.png": png(PIXELS[0])})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 100_000_000)
    path.write_bytes(data)
    with pytest.raises(AppError, match="this zip is made for far more"):
        read(path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, model: ModelCard) -> None:
    source = pack(tmp_path / "in.zip", {"a.png": png(PIXELS[0])})
    with pytest.raises(AppError, match="cannot be written: check the space") as raised:
        list(run_batch(source, look, model, tmp_path / "missing" / "out.zip"))
    assert "missing" not in str(raised.value)


def test_the_real_model_answers_a_batch_and_is_not_asked_about_a_dark_picture(
    tmp_path: Path, trained: Callable[..., Path]
) -> None:
    folder = trained()
    predictor = Predictor({"tiny": folder}, device="cpu", precision="fp32")
    source = pack(tmp_path / "in.zip", {"a.png": png(scene(2, (96, 128))[0]), "dark.png": png(np.zeros((96, 128, 3), np.uint8))})
    steps = run_batch(source, lambda picture: analyse(picture, predictor), card(folder), tmp_path / "out.zip")
    words = [step.item.words for step in steps]
    assert words[0].startswith(("Polyp-like regions", "No polyp-like region")) and words[1].startswith("Not assessable")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        answered, dark = (json.loads(archive.read(f"000{number}/result.json")) for number in (1, 2))
    assert answered["timing_ms"]["model"] > 0 and dark["timing_ms"] is None and dark["outcome"]["state"] == "not_assessable"
    picture = Picture(scene(2, (96, 128))[0], "0" * 64)
    assert analyse(picture, predictor, threshold=0.01).finding.mask.sum() >= analyse(picture, predictor).finding.mask.sum()
