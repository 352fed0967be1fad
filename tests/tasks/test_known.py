"""Known data sets: every published layout is found and paired, and whatever is missing or odd is said."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from gps_seg.cli import main
from gps_seg.data.images import read_image, read_mask
from gps_seg.data.splits import Splits
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.segmentation.audit import audit
from gps_seg.tasks.segmentation.pairs import pair_folder
from gps_seg.tasks.segmentation.pretraining import base_note, base_warning
from gps_seg.tasks.segmentation.sets import expand, identify, known_name, labels, locate, number_warning, set_pairs
from support.known_sets import LAYOUTS, SIZE, drawn, put

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(("name", "images", "masks", "id_"), LAYOUTS)
def test_every_published_layout_is_found_and_paired(home: Path, name: str, images: str, masks: str, id_: str) -> None:
    put(home, images, masks)
    pairs = set_pairs(name)
    assert [pair.id for pair in pairs] == [id_.format(seed) for seed in range(3)]
    for seed, pair in enumerate(pairs):
        assert pair.image == home / images.format(seed) and pair.mask == home / masks.format(seed)
        assert read_image(pair.image).shape == (*SIZE, 3) and np.array_equal(read_mask(pair.mask), drawn(seed))
    found = locate(name)
    assert found is not None and [pair.mask for pair in set_pairs(str(found))] == [pair.mask for pair in pairs]


def test_a_subset_of_the_benchmark_never_stands_in_for_the_whole_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, "TestDataset/CVC-ClinicDB/images/{}.png", "TestDataset/CVC-ClinicDB/masks/{}.png")
    put(home, "TestDataset/Kvasir/images/{}.png", "TestDataset/Kvasir/masks/{}.png")
    assert locate("cvc-clinicdb") is None and locate("kvasir-seg") is None
    assert known_name(str(home / "TestDataset" / "CVC-ClinicDB")) == "pranet-clinicdb"
    monkeypatch.setenv("GPS_SEG_DATA", str(home / "TestDataset"))
    assert locate("cvc-clinicdb") is None
    monkeypatch.setenv("GPS_SEG_DATA", str(home / "TestDataset" / "CVC-ClinicDB"))
    assert locate("cvc-clinicdb") is None and locate("pranet-clinicdb") == home / "TestDataset" / "CVC-ClinicDB"


def test_all_centres_of_polypgen_are_one_set_even_where_names_repeat(home: Path) -> None:
    for centre in (1, 2, 6):
        root = f"PolypGen/data_C{centre}"
        put(home, f"{root}/images_C{centre}/{{}}.jpg", f"{root}/masks_C{centre}/{{}}_mask.jpg", range(centre, centre + 2))
    pairs = set_pairs("polypgen")
    assert [pair.id for pair in pairs] == ["1", "3", "6", "7", "images_C1_2", "images_C2_2"]
    assert all(np.array_equal(read_mask(pair.mask), drawn(int(pair.id[-1]))) for pair in pairs)
    (home / "PolypGen" / "data_C6" / "masks_C6").rename(home / "PolypGen" / "data_C6" / "other")
    with pytest.raises(DataError, match="3 folders of images and 2 of masks"):
        set_pairs("polypgen")


def test_both_colours_of_bkais_masks_are_polyp_and_no_mask_is_called_odd(home: Path) -> None:
    root = put(home, "bkai/train/train/{}.jpeg", "bkai/train_gt/train_gt/{}.jpeg", range(1)) / "bkai"
    colours = np.zeros((995, 1280, 3), np.uint8)
    colours[100:303, 200:507, 0] = 255  # neoplastic
    colours[500:711, 600:900, 1] = 255  # non-neoplastic
    colours[303:400, 200:507, 1] = 255  # both, side by side
    Image.fromarray(colours).save(root / "train" / "train" / "0.jpeg")
    Image.fromarray(colours).save(root / "train_gt" / "train_gt" / "0.jpeg", quality=75)
    pairs = set_pairs("bkai-neopolyp")
    assert (read_mask(pairs[0].mask) ^ colours.any(axis=2)).mean() < 0.002  # JPEG halves the resolution of colour
    assert audit(Splits(tuple(pairs), (), ())) == []


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_clinicdbs_tiffs_that_say_grey_and_hold_colours_are_read_in_colour(home: Path, compression: str | None) -> None:
    root = put(home, "CVC-ClinicDB/Original/{}.tif", "CVC-ClinicDB/Ground Truth/{}.tif") / "CVC-ClinicDB" / "Original"
    scene = read_image(root / "1.tif")
    Image.fromarray(scene).save(root / "1.tif", compression=compression)
    content = (root / "1.tif").read_bytes()
    says_rgb = struct.pack("<HHIHH", 262, 3, 1, 2, 0)
    assert content.count(says_rgb) == 1
    (root / "1.tif").write_bytes(content.replace(says_rgb, struct.pack("<HHIHH", 262, 3, 1, 1, 0)))
    with pytest.raises(UnidentifiedImageError):
        Image.open(root / "1.tif")
    assert np.array_equal(read_image(set_pairs("cvc-clinicdb")[1].image), scene)
    (root / "1.tif").write_bytes(content[:9] + b"\0\0")
    with pytest.raises(DataError, match="1.tif: expected a JPEG, PNG, TIFF"):
        read_image(root / "1.tif")


def test_a_set_of_another_size_than_published_is_said(home: Path) -> None:
    put(home, "CVC-300/images/{}.png", "CVC-300/masks/{}.png")
    text = "holds 3 images, CVC-300 (EndoScene) as published 60: not the whole set, or another one"
    assert number_warning("cvc-300", 3) == f"cvc-300 {text}"
    assert number_warning(str(home / "CVC-300"), 3) == f"CVC-300 {text}"
    assert number_warning("cvc-300", 60) == "" == number_warning(str(home), 3)
    assert "as published 200 (unverified)" in number_warning("endotect", 3)


def test_a_missing_set_says_where_to_get_it_and_an_unknown_name_which_is_near() -> None:
    with pytest.raises(DataError, match=r"PolypGen is not here: get it from .*syn26376615.*CC BY 4.0.*a folder polypgen under"):
        set_pairs("polypgen")
    for wrong, right in (("polypgn", "polypgen"), ("ETIS", "etis-larib"), ("CVC_ColonDB", "cvc-colondb"), ("pranet", "pranet-")):
        with pytest.raises(DataError, match=f"got '{wrong}'; did you mean '{right}"):
            expand([wrong])
    with pytest.raises(DataError, match="gps-seg data list shows all names"):
        set_pairs("qqqq")


def test_two_masks_of_one_image_and_unpaired_files_are_named(home: Path) -> None:
    put(home, "polypgen/images/{}.png", "polypgen/masks/{}_mask.png")
    put(home, "polypgen/images/{}.png", "polypgen/masks/{}.png", range(1))
    with pytest.raises(DataError, match=r"masks: 0(_mask)?.png and 0(_mask)?.png are masks of one image"):
        set_pairs("polypgen")
    for mask in (home / "polypgen" / "masks").glob("0*"):
        mask.unlink()
    with pytest.raises(DataError, match="1 images without a mask: 0"):
        set_pairs("polypgen")


def test_a_folder_of_sets_and_a_group_become_their_sets_and_twice_is_refused(home: Path) -> None:
    for name in ("CVC-300", "Kvasir"):
        put(home, f"TestDataset/{name}/images/{{}}.png", f"TestDataset/{name}/masks/{{}}.png")
    tests = home / "TestDataset"
    assert expand([str(tests)]) == [str(tests / "CVC-300"), str(tests / "Kvasir")]
    assert expand(["pranet-test"]) == ["cvc-300", "pranet-clinicdb", "cvc-colondb", "etis-larib", "pranet-kvasir"]
    with pytest.raises(ConfigError, match="phantom given twice"):
        expand(["phantom", "cvc-300", "phantom"])
    assert labels(["a", str(tests)]) == ["a", "TestDataset"] and identify(tests) is None
    put(home, "other/Kvasir/images/{}.png", "other/Kvasir/masks/{}.png")
    both = [str(tests / "Kvasir"), str(home / "other" / "Kvasir")]
    assert labels(both) == both


def test_a_users_folder_still_needs_equal_stems(home: Path) -> None:
    root = put(home, "mine/images/{}.png", "mine/masks/{}_mask.png") / "mine"
    with pytest.raises(DataError, match="3 images without a mask"):
        set_pairs(str(root))
    with pytest.raises(DataError, match="expected folders images/ and masks/"):
        pair_folder(home)


def test_what_a_base_model_has_seen_is_known() -> None:
    assert "may contain public polyp sets (unverified)" in base_note("lite_medsam") and "SA-1B" in base_note("sam_vit_b")
    assert base_note("tiny") == "" == base_warning("tiny", "kvasir-seg") == base_warning("sam_vit_b", "kvasir-seg")
    assert base_warning("lite_medsam", "polypgen").endswith("(unverified): PolypGen may not be unseen")
    assert base_warning("lite_medsam", "phantom") == "" == base_warning("sam_med2d", "etis-larib")
    for seen in ("kvasir-seg", "cvc-clinicdb", "pranet-clinicdb", "pranet-train"):
        assert "trained on Kvasir-SEG and CVC-ClinicDB: images of" in base_warning("sam_med2d", seen)


def test_data_list_shows_every_set_and_where_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home, "CVC-300/images/{}.png", "CVC-300/masks/{}.png")
    monkeypatch.setattr(sys, "argv", ["gps-seg", "data", "list"])
    with pytest.raises(SystemExit) as stopped:
        main()
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"cvc-300            60 images: {home / 'CVC-300'}, 3 images" in text
    assert "kvasir-seg       1000 images: not found; gps-seg data download kvasir-seg" in text
    assert "pranet-test" in text and "phantom" in text and f"searched {home}" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"vtab_dtd 47 classes: not found", "digits 10 classes: scikit-learn"} <= set(lines)
