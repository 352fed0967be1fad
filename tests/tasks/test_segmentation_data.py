"""Reading files of every kind, pairing, splitting, auditing, augmenting, batching."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gps_seg.config import AugmentConfig, PolypDataConfig
from gps_seg.data.batches import EpochBatches
from gps_seg.data.images import list_images, read_image, read_mask, write_image, write_mask
from gps_seg.data.splits import Splits
from gps_seg.data.transforms import augmentation, content_size, fit_image, fit_mask, normalise
from gps_seg.errors import DataError
from gps_seg.models.spec import SamSpec
from gps_seg.tasks.segmentation.audit import audit, check_pairs
from gps_seg.tasks.segmentation.corruptions import with_artefacts
from gps_seg.tasks.segmentation.dataset import PolypDataset, UnlabelledImages, collate
from gps_seg.tasks.segmentation.pairs import Pair, pair_folder
from gps_seg.tasks.segmentation.parts import load_splits, official_lists, read_list, split
from gps_seg.tasks.segmentation.phantom import phantom, write_phantoms
from gps_seg.tasks.segmentation.sets import locate

SPEC = {"input_size": 64, "resize": "longest_side", "mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}


def picture(height: int = 30, width: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


# Files


def test_every_kind_of_image_arrives_as_upright_rgb(tmp_path: Path) -> None:
    rgb = picture()
    grey = rgb[..., 0]
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([rgb, np.full((30, 40), 9, np.uint8)]), "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(grey).save(tmp_path / "grey.bmp")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.tif")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(rgb).save(tmp_path / "lossless.webp", lossless=True)
    assert np.array_equal(read_image(tmp_path / "rgb.png"), rgb)
    assert np.array_equal(read_image(tmp_path / "rgba.png"), rgb)
    assert np.array_equal(read_image(tmp_path / "lossless.webp"), rgb)
    for name in ("grey.bmp", "sixteen.tif"):
        assert np.array_equal(read_image(tmp_path / name), np.dstack([grey] * 3))
    for path in list_images(tmp_path):
        found = read_image(path)
        assert found.shape == (30, 40, 3) and found.dtype == np.uint8


@pytest.mark.parametrize(("orientation", "upright"), list(enumerate([
    lambda x: x, np.fliplr, lambda x: np.rot90(x, 2), np.flipud, lambda x: x.swapaxes(0, 1), lambda x: np.rot90(x, -1),
    lambda x: np.rot90(x, 2).swapaxes(0, 1), np.rot90], start=1)))
def test_exif_rotation_is_applied(
    tmp_path: Path, orientation: int, upright: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in (".png", ".tif", ".webp", ".jpg"):
        Image.fromarray(picture()).save(tmp_path / f"plain{suffix}", lossless=True)
        Image.fromarray(picture()).save(tmp_path / f"turned{suffix}", lossless=True, exif=exif)
        assert np.array_equal(read_image(tmp_path / f"turned{suffix}"), upright(read_image(tmp_path / f"plain{suffix}")))


def exif_bytes(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Metadata by hand: (tag, type, count, value)."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHI4s", *entry) for entry in entries) + bytes(4)


@pytest.mark.parametrize("odd", [
    (0x0100, 2, 2, b"5"),  # the width as text
    (0x010E, 11, 1, b"5"),  # the description as a float
    (0x0128, 4, 1, b"\xff\xff\xff\xff"),  # a unit beyond 16 bits
])
def test_metadata_of_a_wrong_type_does_not_stop_an_image(tmp_path: Path, odd: tuple[int, int, int, bytes]) -> None:
    for suffix in (".jpg", ".png", ".webp"):
        Image.fromarray(picture()).save(tmp_path / f"a{suffix}", exif=exif_bytes((0x0112, 3, 1, b"\x06"), odd))
        assert read_image(tmp_path / f"a{suffix}").shape == (40, 30, 3)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(picture()).quantize(16).save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert read_image(tmp_path / "a.png").shape == (30, 40, 3) and read_mask(tmp_path / "a.png").shape == (30, 40)


def test_not_a_number_in_a_float_image_is_black(tmp_path: Path) -> None:
    values = np.array([[np.nan, 255.0], [0.0, 7.0]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[..., 0].tolist() == [[0, 255], [0, 7]]


def test_reading_in_threads_leaves_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    Image.fromarray(picture(300, 400)).save(tmp_path / "large.png")
    Image.fromarray(picture(30, 40)).save(tmp_path / "small.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            list(pool.map(read_image, [tmp_path / "small.png", tmp_path / "large.png"] * 4))
            assert list(warnings.filters) == before


def kinds_of_files() -> dict[str, bytes]:
    """Small files of every format, with the metadata and the compressions that have parsers of their own."""
    rgb = Image.fromarray(picture(12, 16))
    exif = exif_bytes((0x0112, 3, 1, b"\x06"), (0x0128, 3, 1, b"\x02"), (0x010E, 2, 4, b"abc"))
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("jpeg", rgb, {"exif": exif, "icc_profile": bytes(50)}), ("jpeg", rgb, {"progressive": True}),
        ("png", rgb, {"exif": exif}), ("png", rgb.quantize(16), {"transparency": bytes(16)}),
        ("tiff", rgb, {"exif": exif[6:]}), ("tiff", rgb.convert("F"), {}), ("tiff", rgb.quantize(16), {}),
        ("tiff", rgb, {"compression": "tiff_lzw"}), ("tiff", rgb, {"compression": "jpeg"}),
        ("bmp", rgb, {}), ("bmp", rgb.quantize(16), {}), ("webp", rgb, {"exif": exif}), ("webp", rgb, {"lossless": True}),
    ]
    files = {}
    for number, (kind, image, options) in enumerate(kinds):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[f"{number}.{kind}"] = buffer.getvalue()
    return files


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut out, put in, or the end cut off; mostly in the header."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        at = chance.randrange(min(len(data), 300) if chance.random() < 0.6 else len(data))
        what = chance.random()
        if what < 0.6:
            data[at] = chance.choice([0, 1, 2, 3, 4, 5, 8, 127, 128, 255, chance.randrange(256)])
        elif what < 0.75:
            del data[at + 1 : at + chance.randrange(2, 9)]
        elif what < 0.9:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            del data[at + 1 :]
    return bytes(data)


def test_damaged_files_never_raise_anything_but_one_line(tmp_path: Path) -> None:
    files, chance, lines = kinds_of_files(), random.Random(0), []
    for _ in range(800):
        name = chance.choice(sorted(files))
        (tmp_path / name).write_bytes(damaged(files[name], chance))
        try:
            assert read_image(tmp_path / name).dtype == np.uint8
            assert read_mask(tmp_path / name).dtype == np.bool_
        except DataError as error:
            lines.append((name, str(error)))
    assert 100 < len(lines) < 700 and all(name in line and "\n" not in line for name, line in lines)


@pytest.mark.parametrize(("content", "text"), [
    (b"", "the file is empty"),
    (b"GIF89a not really", "expected a JPEG, PNG, TIFF, BMP or WebP image"),
    (b"hello", "expected a JPEG, PNG, TIFF, BMP or WebP image"),
    ("cut", "cannot read the image"),
])
def test_files_that_are_no_images_are_one_line(tmp_path: Path, content: bytes | str, text: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(200, 300)).save(path)
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=text) as caught:
        read_image(path)
    assert "a.jpg" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_and_a_huge_image_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an image at .*none.png, found none"):
        read_image(tmp_path / "none.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="bomb.png: .*40 megapixels"):
        read_image(tmp_path / "bomb.png")


def test_masks_survive_writing_and_leave_no_temporary_file(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((33, 47)) > 0.5
    write_mask(tmp_path / "deep" / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "deep" / "m.png"), mask)
    assert set(np.unique(np.asarray(Image.open(tmp_path / "deep" / "m.png")))) == {0, 255}
    write_image(tmp_path / "deep" / "i.png", picture())
    assert np.array_equal(read_image(tmp_path / "deep" / "i.png"), picture())
    assert len(list((tmp_path / "deep").iterdir())) == 2


def test_a_mask_of_two_colors_is_read_by_its_colors_and_a_class_map_by_its_classes(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[5:12, 10:20] = True
    for number, shown in enumerate((mask, ~mask, np.ones_like(mask), np.zeros_like(mask))):
        Image.fromarray(shown).convert("L").quantize(2).save(tmp_path / f"{number}.png")  # puts either color first
        assert np.array_equal(read_mask(tmp_path / f"{number}.png"), shown)
    for palette in ([0, 0, 0, 0, 0, 0], [255, 255, 255, 200, 0, 0], [90, 90, 90, 0, 60, 0], [0, 0, 0, 255, 255, 255]):
        classes = Image.fromarray(mask.astype(np.uint8), "P")
        classes.putpalette(palette)
        classes.save(tmp_path / "classes.png")
        assert np.array_equal(read_mask(tmp_path / "classes.png"), mask)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write .*a.xyz: unknown image type '.xyz'; use for example .png"):
        write_image(tmp_path / "a.xyz", picture())
    with pytest.raises(DataError, match=r"cannot write .*a.jpg: 66000 x 1 pixels are too many; use for example .png"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 66_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write .*a.png: "):
        write_mask(tmp_path / "file" / "a.png", np.zeros((3, 3), np.bool_))


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("none", "file"):
        with pytest.raises(DataError, match=f"expected a folder of images at .*{name}, cannot list it"):
            list_images(tmp_path / name)


# Pairs and splits


def make_set(root: Path, number: int = 10, suffix: str = ".png") -> Path:
    for index in range(number):
        write_image(root / "images" / f"f{index}{suffix}", picture(seed=index))
        write_mask(root / "masks" / f"f{index}.png", picture(seed=index)[..., 0] > 127)
    return root


def test_images_and_masks_are_matched_by_stem_not_by_order(tmp_path: Path) -> None:
    pairs = pair_folder(make_set(tmp_path, 3, ".bmp"))
    assert [(pair.id, pair.image.name, pair.mask.name) for pair in pairs] == [
        (f"f{i}", f"f{i}.bmp", f"f{i}.png") for i in range(3)]


def test_unpaired_doubled_and_missing_files_are_named(tmp_path: Path) -> None:
    make_set(tmp_path, 4)
    (tmp_path / "masks" / "f1.png").unlink()
    (tmp_path / "images" / "f2.png").unlink()
    with pytest.raises(DataError, match="1 images without a mask: f1; 1 masks without an image: f2"):
        pair_folder(tmp_path)
    write_image(tmp_path / "images" / "f0.jpg", picture())
    with pytest.raises(DataError, match="f0.jpg and f0.png have the same stem"):
        pair_folder(tmp_path)
    with pytest.raises(DataError, match="expected a data set folder at .*none"):
        pair_folder(tmp_path / "none")
    with pytest.raises(DataError, match="expected folders images/ and masks/, found .*f0.jpg"):
        pair_folder(tmp_path / "images")


def test_the_official_lists_are_the_published_ones() -> None:
    train, test = official_lists()
    assert (len(train), len(test), len(set(train) | set(test))) == (880, 120, 1000)


def test_lists_may_have_suffixes_and_windows_marks_but_no_doubles(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbff1.jpg\r\nf2\r\n\r\nv1.2_b\r\n")
    assert read_list(tmp_path / "a.txt") == ["f1", "f2", "v1.2_b"]
    (tmp_path / "b.txt").write_text("f1.jpg\nf1.png\n")
    with pytest.raises(DataError, match="1 names occur twice: f1"):
        read_list(tmp_path / "b.txt")


def test_the_inner_part_comes_from_the_training_list_and_depends_on_the_seed_alone() -> None:
    pairs = [Pair(str(i), Path(), Path()) for i in range(50)]
    names = [str(i) for i in range(40)]
    test = [str(i) for i in range(40, 50)]
    first = split(pairs, names, test, inner_fraction=0.1, seed=0)
    assert split(pairs, names[::-1], test, inner_fraction=0.1, seed=0) == first
    assert split(pairs, names, test, inner_fraction=0.1, seed=1) != first
    ids = [{pair.id for pair in part} for part in (first.train, first.inner, first.test)]
    assert [len(part) for part in ids] == [36, 4, 10] and len(set.union(*ids)) == 50
    with pytest.raises(DataError, match="2 images are on the training and the test list: 0, 1"):
        split(pairs, names, ["0", "1"], inner_fraction=0.1, seed=0)
    with pytest.raises(DataError, match="1 listed images have no file: 77"):
        split(pairs, [*names, "77"], test, inner_fraction=0.1, seed=0)


def test_a_plain_folder_is_split_by_lists_or_by_seed(tmp_path: Path) -> None:
    make_set(tmp_path)
    config = PolypDataConfig(name="folder", root=tmp_path)  # type: ignore[call-arg]
    by_seed = load_splits(config)
    assert [len(part) for part in (by_seed.train, by_seed.inner, by_seed.test)] == [7, 1, 2]
    (tmp_path / "train.txt").write_text("\n".join(f"f{i}" for i in range(7)))
    with pytest.raises(DataError, match="found only one of the two lists"):
        load_splits(config)
    (tmp_path / "val.txt").write_text("f8\nf9")
    assert [pair.id for pair in load_splits(config).test] == ["f8", "f9"]


def test_a_missing_kvasir_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path))
    with pytest.raises(DataError, match="gps-seg data download kvasir-seg.*GPS_SEG_DATA.*data.name=phantom"):
        load_splits(PolypDataConfig())  # type: ignore[call-arg]
    make_set(tmp_path / "kvasir-seg-352", 2)
    assert locate("kvasir-seg") == tmp_path / "kvasir-seg-352"
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="GPS_SEG_DATA: expected a folder"):
        locate("kvasir-seg")


# Audit


def test_every_problem_is_reported_with_its_file(tmp_path: Path) -> None:
    make_set(tmp_path, 8)
    (tmp_path / "images" / "f0.png").write_bytes(b"broken")
    write_mask(tmp_path / "masks" / "f1.png", np.ones((5, 5), np.bool_))
    Image.fromarray(picture()[..., 0]).save(tmp_path / "masks" / "f2.png")  # every grey value
    write_mask(tmp_path / "masks" / "f3.png", np.zeros((30, 40), np.bool_))
    write_image(tmp_path / "images" / "f7.png", read_image(tmp_path / "images" / "f4.png"))
    near = np.clip(np.kron(picture(6, 8, 5), np.ones((5, 5, 1))), 0, 255).astype(np.uint8)
    write_image(tmp_path / "images" / "f5.png", near)
    write_image(tmp_path / "images" / "f6.png", np.clip(near.astype(int) + 6, 0, 255).astype(np.uint8))
    pairs = pair_folder(tmp_path)
    splits = Splits(tuple(pairs[:6]), (), tuple(pairs[6:]))
    found = {(finding.level, Path(finding.file).parent.name, Path(finding.file).stem): finding.text for finding in audit(splits)}
    assert "expected a JPEG" in found["error", "images", "f0"]
    assert found["error", "masks", "f1"] == "the mask is 5 x 5 pixels, its image 40 x 30"
    assert "expected two levels" in found["error", "masks", "f2"]
    assert "empty" in found["warning", "masks", "f3"]
    assert found["error", "images", "f7"] == "the same picture is in train (f4) and in test"
    assert found["warning", "images", "f6"] == "in test, nearly the same picture as f5 in train"
    assert len(found) == 6
    with pytest.raises(DataError, match=r"4 problems in the data: .*f0.png.*f1.png.*f2.png.*f7.png"):
        check_pairs(splits)


def test_near_duplicates_warn_stop_or_pass_as_told() -> None:
    splits = load_splits(PolypDataConfig(name="phantom", phantom_images=10))  # type: ignore[call-arg]
    twice = Splits(splits.train, (), splits.test)
    assert check_pairs(twice) == []


# Phantoms


def test_phantoms_repeat_differ_and_sometimes_hold_no_polyp() -> None:
    image, mask = phantom(3)
    again, _ = phantom(3)
    assert np.array_equal(image, again) and not np.array_equal(image, phantom(4)[0])
    assert image.shape == (288, 384, 3) and image.dtype == np.uint8 and mask.dtype == np.bool_
    areas = [phantom(i, size=(72, 96))[1].mean() for i in range(120)]
    assert 0.05 < np.mean([area == 0 for area in areas]) < 0.3
    assert max(areas) < 0.6 and np.median([area for area in areas if area]) > 0.01


def test_phantom_folders_are_written_once(tmp_path: Path) -> None:
    root = write_phantoms(tmp_path / "p", 3)
    before = (root / "images" / "phantom_00000.png").stat().st_mtime_ns
    write_phantoms(root, 3)
    assert (root / "images" / "phantom_00000.png").stat().st_mtime_ns == before
    assert [pair.id for pair in pair_folder(root)] == ["phantom_00000", "phantom_00001", "phantom_00002"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_phantoms_never_stand_in_for_another_set(tmp_path: Path) -> None:
    root = write_phantoms(tmp_path / "p", 2, size=(36, 48))
    for number, seed, size in ((3, 0, (36, 48)), (2, 1, (36, 48)), (2, 0, (48, 36))):
        with pytest.raises(DataError, match=f"cannot write {number} phantoms to .*p .*; remove it"):
            write_phantoms(root, number, seed=seed, size=size)
    (root / "phantom.json").write_bytes(b"{\xff")  # cut short on a full disk
    with pytest.raises(DataError, match="cannot write 2 phantoms to .*p .*; remove it"):
        write_phantoms(root, 2, size=(36, 48))
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_phantom_folders_are_as_open_as_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert write_phantoms(tmp_path / "p", 1, size=(36, 48)).stat().st_mode == (tmp_path / "new").stat().st_mode


def test_phantoms_where_nothing_can_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write 1 phantoms to .*file/p"):
        write_phantoms(tmp_path / "file" / "p", 1, size=(36, 48))


# Transforms and batches


@pytest.mark.parametrize("size", [(1072, 1920), (332, 487), (576, 576), (37, 1000)])
def test_fitting_an_image_is_what_the_stock_predictor_does(size: tuple[int, int]) -> None:
    from gps_seg.packages import import_segment_anything

    import_segment_anything()
    from segment_anything.utils.transforms import ResizeLongestSide

    image = picture(*size)
    fitted, geometry = fit_image(image, 256, "longest_side")
    assert np.array_equal(fitted, ResizeLongestSide(256).apply_image(image))
    assert geometry.native_size == size and max(geometry.content_size) == 256
    assert fit_image(image, 64, "squash")[0].shape == (64, 64, 3)


def test_padding_is_zero_after_normalising() -> None:
    done = normalise(np.full((10, 20, 3), 200, np.uint8), 20, (100.0, 100.0, 100.0), (50.0, 50.0, 50.0))
    assert done.shape == (3, 20, 20) and (done[:, :10] == 2).all() and (done[:, 10:] == 0).all()


def test_augmentation_depends_on_the_seed_alone() -> None:
    image, mask = phantom(0, size=(64, 80))
    settings = AugmentConfig(rotate=1, color=1, blur=1, noise=1)  # type: ignore[call-arg]
    one, other = augmentation(settings), augmentation(settings)
    first = one(image, mask, 7)
    other(image, mask, 1)
    again = other(image, mask, 7)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert first[0].shape == image.shape and first[0].dtype == np.uint8 and first[1].dtype == np.bool_
    assert not np.array_equal(one(image, mask, 8)[0], first[0])


def test_augmentation_moves_image_and_mask_together() -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[10:30, 20:50] = True
    image = np.dstack([mask * np.uint8(255)] * 3)
    augment = augmentation(AugmentConfig(rotate=1, color=0, blur=0, noise=0))  # type: ignore[call-arg]
    for seed in range(10):
        moved, target = augment(image, mask, seed)
        assert ((moved[..., 0] > 127) ^ target).mean() < 0.04


def test_shear_slants_image_and_mask_together() -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[16:48, 16:48] = True
    image = np.dstack([mask * np.uint8(255)] * 3)
    settings = AugmentConfig(rotate=1, rotate_limit=0, scale_limit=0, shear_limit=30, color=0, blur=0, noise=0,  # type: ignore[call-arg]
                             horizontal_flip=0, vertical_flip=0)
    slanted = 0
    for seed in range(10):
        moved, target = augmentation(settings)(image, mask, seed)
        assert ((moved[..., 0] > 127) ^ target).mean() < 0.04
        rows = [np.flatnonzero(row) for row in target if row.any()]
        slanted += abs(int(rows[2][0]) - int(rows[-3][0])) > 4
    assert slanted >= 5


def test_artefacts_change_the_image_alone_by_the_seed_alone_and_at_their_rate() -> None:
    image, mask = phantom(0, size=(64, 80))
    plain = augmentation(AugmentConfig(rotate=0, color=0, blur=0, noise=0))  # type: ignore[call-arg]
    augment = with_artefacts(plain, 0.5)
    changed = []
    for seed in range(40):
        expected, target = plain(image, mask, seed)
        found = augment(image, mask, seed)
        assert np.array_equal(found[1], target) and np.array_equal(found[0], augment(image, mask, seed)[0])
        changed.append(not np.array_equal(found[0], expected))
    assert 10 <= sum(changed) <= 30
    assert with_artefacts(plain, 0) is plain


@pytest.mark.parametrize("empty", [0, 1])
def test_a_crop_keeps_size_and_fit_and_an_empty_one_holds_nothing(empty: float) -> None:
    augment = augmentation(AugmentConfig(crop=1, empty_crop=empty, rotate=0, color=0, blur=0, noise=0))  # type: ignore[call-arg]
    for size in ((64, 64), (48, 64)):
        mask = np.zeros(size, np.bool_)
        mask[10:30, 20:50] = True
        image = np.dstack([mask * np.uint8(255)] * 3)
        crops = [augment(image, mask, seed) for seed in range(50)]
        for moved, target in crops:
            assert moved.shape == image.shape and ((moved[..., 0] > 127) ^ target).mean() < 0.1
        filled = np.array([target.mean() for _, target in crops])
        assert (filled == 0).all() if empty else (filled > 1.5 * mask.mean()).mean() > 0.3
    everywhere = np.ones((48, 64), np.bool_)
    image = picture(48, 64)
    assert all(augment(image, everywhere, seed)[1].all() for seed in range(5))  # no free window: the image stays


def test_a_batch_has_the_stated_shapes_boxes_and_valid_pixels(tmp_path: Path) -> None:
    root = write_phantoms(tmp_path / "p", 4, size=(36, 48))
    dataset = PolypDataset(pair_folder(root), **SPEC)  # type: ignore[arg-type]
    batch = collate([dataset[i] for i in range(4)])
    assert batch.image.shape == (4, 3, 64, 64) and batch.target.shape == (4, 1, 64, 64) and batch.boxes.shape == (4, 4)
    assert batch.valid[:, :, :48].all() and not batch.valid[:, :, 48:].any() and not batch.target[~batch.valid].any()
    assert set(batch.target.unique().tolist()) <= {0.0, 1.0}
    for mask, box in zip(batch.target[:, 0], batch.boxes, strict=True):
        if mask.any():
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        else:
            assert box.tolist() == [0, 0, 63, 47]


def test_a_mask_of_another_size_is_refused_not_stretched(tmp_path: Path) -> None:
    write_image(tmp_path / "i.png", picture(30, 40))
    write_mask(tmp_path / "m.png", np.ones((40, 30), np.bool_))
    dataset = PolypDataset([Pair("a", tmp_path / "i.png", tmp_path / "m.png")], **SPEC)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"m.png: the mask is 30 x 40 pixels, its image 40 x 30; make them equal"):
        dataset[0]


def test_an_image_in_an_epoch_is_the_same_in_any_order_and_process(tmp_path: Path) -> None:
    pairs = pair_folder(write_phantoms(tmp_path / "p", 3, size=(36, 48)))

    def item(order: list[int], epoch: int, *, cache: bool) -> torch.Tensor:
        dataset = PolypDataset(pairs, **SPEC, augment=augmentation(AugmentConfig()), seed=5, cache=cache)  # type: ignore[arg-type,call-arg]
        dataset.set_epoch(epoch)
        return torch.from_numpy({index: dataset[index] for index in order}[1].image)

    assert torch.equal(item([0, 1, 2], 3, cache=True), item([1], 3, cache=False))
    assert not torch.equal(item([1], 3, cache=True), item([1], 4, cache=True))


def test_the_order_depends_on_seed_and_epoch_and_can_start_in_the_middle() -> None:
    sampler = EpochBatches(10, 3, 1, shuffle=True)
    first = list(sampler)
    assert len(first) == len(sampler) == 3 and len({index for batch in first for index in batch}) == 9
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.skip = 2
    assert list(sampler) == second[2:]
    halves = [list(EpochBatches(10, 4, 1, shuffle=True, share=(rank, 2))) for rank in (0, 1)]
    whole = list(EpochBatches(10, 4, 1, shuffle=True))
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
    assert [len(batch) for batch in EpochBatches(2, 8, 0, shuffle=False)] == [2]


def test_unlabelled_images_need_no_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    spec = SamSpec("any", 64, 64, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 16)
    item = UnlabelledImages([tmp_path / "a.png"], spec)[0]
    assert item.id == "a" and item.image.shape == (3, 64, 64) and not item.mask.any()


def test_thin_masks_survive_shrinking_about_as_large_as_they_were() -> None:
    mask = np.zeros((400, 400), np.bool_)
    mask[100:300, 100:300] = True
    assert fit_mask(mask, (50, 50)).mean() == pytest.approx(0.25, abs=0.02)
    assert content_size((300, 400), 128, "longest_side") == (96, 128)


@pytest.mark.slow
def test_the_real_kvasir_seg_has_the_official_split_and_no_errors() -> None:
    root = locate("kvasir-seg")
    if root is None:
        pytest.skip("Kvasir-SEG is not here: set GPS_SEG_DATA")
    splits = load_splits(PolypDataConfig())  # type: ignore[call-arg]
    assert [len(part) for part in (splits.train, splits.inner, splits.test)] == [792, 88, 120]
    assert all(finding.level == "warning" for finding in audit(splits))
