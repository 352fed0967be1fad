"""Classification data sets: miniature trees in the layouts as published, splits, few-shot subsets, robustness sets, bad input."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gps_seg.data.images import read_image
from gps_seg.data.splits import Splits
from gps_seg.errors import DataError
from gps_seg.tasks.classification.catalog import ADAPTERS, class_number, load_classification
from gps_seg.tasks.classification.items import Item, check_copies
from gps_seg.tasks.classification.shifted import ALEXNET_ERRORS, SETS, imagenet_classes, load_robustness, mce

buffer = io.BytesIO()
Image.fromarray(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)).save(buffer, "jpeg")
JPEG = buffer.getvalue()
FGVC = {"cub_200_2011": "images", "nabirds": "images", "oxford_flowers": "", "stanford_dogs": "Images", "stanford_cars": ""}
VTAB = [name for name in ADAPTERS if name.startswith("vtab_")]
WNIDS = [f"n{number:08d}" for number in range(1_000_000, 1_002_000, 2)]


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)


def fgvc(root: Path, name: str, *, images: str, classes: int, val: bool = True) -> Path:
    """Three training images, one for validation and one for the test of each class; ids start at 1, as in the published lists."""
    for part, count in (("train", 3), ("val", 1), ("test", 1)):
        if part == "val" and not val:
            continue
        found = {f"{label:03d}.Kind/{part}_{number}.jpg": label for label in range(1, classes + 1) for number in range(count)}
        write(*(root / images / path for path in found))
        (root / f"{part}.json").write_text(json.dumps(found))
    return root


def vtab(root: Path, classes: int) -> Path:
    """Training lists that lack the last class, as VTAB's may; the test list has all."""
    train = [(f"images/train800val200/{number:06d}.jpg", number % (classes - 1 or 1)) for number in range(2 * classes)]
    test = [(f"images/test/{number:06d}.jpg", number % classes) for number in range(classes + 3)]
    parts = {"train800": train[:-3], "val200": train[-3:], "train800val200": train, "test": test}
    for name, lines in parts.items():
        write(*(root / path for path, _ in lines))
        (root / f"{name}.txt").write_text("".join(f"{path} {label}\n" for path, label in lines))
    return root


def folders(root: Path, names: Sequence[str], count: int, suffix: str = "jpg") -> Path:
    write(*(root / name / f"{name}_{number}.{suffix}" for name in names for number in range(count)))
    return root


def ids(items: Sequence[Item]) -> set[str]:
    return {item.id for item in items}


# Layouts


@pytest.mark.parametrize("name", FGVC)
def test_json_lists_are_read_with_the_published_number_of_classes(tmp_path: Path, name: str) -> None:
    classes = ADAPTERS[name].classes or 0
    folder = fgvc(tmp_path / ADAPTERS[name].folders[0], name, images=FGVC[name], classes=classes)
    tune = load_classification(name, folder, check_counts=False)
    final = load_classification(name, tmp_path, protocol="final", check_counts=False)  # the folder above is enough
    assert (len(tune.train), len(tune.inner), len(tune.test)) == (3 * classes, classes, 0)
    assert (len(final.train), len(final.inner), len(final.test)) == (4 * classes, 0, classes)
    assert ids(final.train) == ids(tune.train) | ids(tune.inner) and ids(final.train).isdisjoint(ids(final.test))
    assert {item.label for item in final.train} == set(range(classes)) and final.class_names[0] == "1"
    assert read_image(final.test[-1].source).shape == (4, 5, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", VTAB)
def test_text_lists_are_read_with_the_published_number_of_classes(tmp_path: Path, name: str) -> None:
    classes = ADAPTERS[name].classes or 0
    vtab(tmp_path / "vtab-1k" / ADAPTERS[name].folders[0], classes)
    tune = load_classification(name, tmp_path, check_counts=False)
    final = load_classification(name, tmp_path, protocol="final", check_counts=False)
    assert (len(tune.train), len(tune.inner), len(tune.test)) == (2 * classes - 3, 3, 0)
    assert (len(final.train), len(final.test)) == (2 * classes, classes + 3)
    assert len(final.class_names) == classes and {item.label for item in final.test} == set(range(classes))
    assert all(isinstance(item.source, Path) and item.source.is_file() for item in (*final.train, *final.test))


def test_the_table_holds_the_papers_twenty_four_tasks_with_1000_training_images_in_each_of_vtab() -> None:
    assert len(FGVC) + len(VTAB) == 24 and all(ADAPTERS[name].train == 1000 for name in VTAB)
    assert all(adapter.where for adapter in ADAPTERS.values())


def test_the_data_readme_says_of_every_set_where_it_lies_and_how_large_it_is() -> None:
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    for name, adapter in ADAPTERS.items():
        (row,) = [line for line in text.splitlines() if f"| `{name}` |" in line]
        assert not adapter.folders or any(f"`{folder}`" in row for folder in adapter.folders) or "Kvasir-SEG" in row, name
        for number in (adapter.classes, adapter.test):
            assert number is None or re.search(rf"\b{number}\b", row.replace(",", "")), (name, number)
    for name, (classes, images, where) in SETS.items():
        (row,) = [line for line in text.splitlines() if f"| `{name}` |" in line]
        assert all(part in row.replace(",", "") for part in (str(classes), str(images), where)), name


def test_imagenet_is_tested_on_its_val_folder_and_tuned_on_a_share_of_train(tmp_path: Path) -> None:
    folders(tmp_path / "imagenet" / "train", WNIDS, 2, "JPEG")
    folders(tmp_path / "imagenet" / "val", WNIDS, 1, "JPEG")
    final = load_classification("imagenet", tmp_path, protocol="final", check_counts=False)
    tune = load_classification("imagenet", tmp_path, check_counts=False)
    assert (len(final.train), len(final.test)) == (2000, 1000) and final.class_names == tuple(WNIDS)
    assert {item.id.split("/")[0] for item in final.test} == {"val"}
    assert (len(tune.train), len(tune.inner)) == (1000, 1000) and {item.id.split("/")[0] for item in tune.inner} == {"train"}


def cifar(rows: int) -> tuple[np.ndarray, list[int]]:
    values = np.random.default_rng(rows).integers(0, 255, (rows, 3072), dtype=np.uint8)
    return values, [number % 100 for number in range(rows)]


@pytest.mark.parametrize("protocol", [2, 4])
def test_both_versions_of_cifar_hold_the_same_images(tmp_path: Path, protocol: int) -> None:
    python, binary = tmp_path / "cifar-100-python", tmp_path / "cifar-100-binary"
    names = [f"class{number}" for number in range(100)]
    python.mkdir()
    binary.mkdir()
    (python / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol))
    (binary / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    for part, rows in (("train", 300), ("test", 100)):
        values, labels = cifar(rows)
        (python / part).write_bytes(pickle.dumps({"data": values, "fine_labels": labels}, protocol))
        table = np.column_stack([np.zeros(rows, np.uint8), np.array(labels, np.uint8), values])
        (binary / f"{part}.bin").write_bytes(table.tobytes())
    one, other = (load_classification("cifar100", root, protocol="final", check_counts=False) for root in (python, binary))
    assert one == other and len(one.train) == 300 and one.class_names[7] == "class7"
    values, _ = cifar(300)
    for splits in (one, other):
        pixels = splits.train[5].source
        assert isinstance(pixels, np.ndarray) and pixels.shape == (32, 32, 3) and pixels[0, 1, 2] == values[5, 2 * 1024 + 1]


def test_any_tree_of_class_folders_is_read_in_each_of_its_forms(tmp_path: Path) -> None:
    flat = load_classification("folder", folders(tmp_path / "flat", ["ulcer", "polyp"], 10), protocol="final")
    assert flat.class_names == ("polyp", "ulcer") and (len(flat.train), len(flat.test)) == (16, 4)
    for part, count in (("train", 10), ("valid", 2), ("test", 3)):
        folders(tmp_path / "whole" / part, ["ulcer", "polyp"], count)
    whole = load_classification("folder", tmp_path / "whole", protocol="final")
    assert (len(whole.train), len(whole.test)) == (24, 6)
    assert len(load_classification("folder", tmp_path / "whole").inner) == 4


def test_the_digits_are_always_there() -> None:
    final, tune = (load_classification("digits", protocol=protocol) for protocol in ("final", "tune"))  # type: ignore[arg-type]
    assert (len(final.train), len(final.test), len(tune.train) + len(tune.inner)) == (1438, 359, 1438)
    pixels = final.train[0].source
    assert isinstance(pixels, np.ndarray) and pixels.shape == (8, 8) and pixels.dtype == np.uint8
    assert max(int(np.max(item.source)) for item in final.train) == 255  # type: ignore[arg-type]
    assert final.class_names == tuple("0123456789") and set(Counter(item.label for item in final.test)) == set(range(10))


# Splits


def test_tuning_never_sees_the_test_part_and_holds_out_a_tenth_of_each_class_by_the_seed() -> None:
    splits = [load_classification("digits", seed=seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2] and not splits[0].test
    test = ids(load_classification("digits", protocol="final", seed=3).test)
    for tune in splits:
        assert ids(tune.train).isdisjoint(ids(tune.inner)) and (ids(tune.train) | ids(tune.inner)).isdisjoint(test)
        train, val = (Counter(item.label for item in part) for part in (tune.train, tune.inner))
        assert all(0.08 < val[label] / (train[label] + val[label]) < 0.12 for label in range(10))


def test_a_missing_val_list_is_replaced_by_a_tenth_of_each_class(tmp_path: Path) -> None:
    root = fgvc(tmp_path, "stanford_cars", images="", classes=196, val=False)
    tune = load_classification("stanford_cars", root, check_counts=False)
    assert (len(tune.train), len(tune.inner)) == (2 * 196, 196)
    with pytest.raises(DataError, match="expected 8144 training images, found 588 without val.json"):
        load_classification("stanford_cars", root)


@pytest.mark.parametrize("protocol", ["tune", "final"])
def test_few_shot_subsets_are_nested_and_seeded(protocol: str) -> None:
    def some(k: int, seed: int = 0) -> Splits[Item]:
        return load_classification("digits", protocol=protocol, few_shot=k, seed=seed)  # type: ignore[arg-type]

    subsets = [some(k) for k in (1, 2, 4, 8)]
    for k, subset in zip((1, 2, 4, 8), subsets, strict=True):
        assert set(Counter(item.label for item in subset.train).values()) == {k}
    assert all(ids(small.train) < ids(large.train) for small, large in pairwise(subsets))
    assert some(4) == subsets[2] and ids(some(4, seed=1).train) != ids(subsets[2].train)
    assert subsets[0].test == subsets[3].test and len(subsets[0].test) == (359 if protocol == "final" else 0)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_where_the_few_are_all_there_is_they_validate_too_and_all_of_them_train_in_the_end(k: int) -> None:
    tune, final = (load_classification("digits", protocol=protocol, few_shot=k, by_the_few=True)  # type: ignore[arg-type]
                   for protocol in ("tune", "final"))
    assert Counter(item.label for item in tune.inner) == dict.fromkeys(range(10), max(1, k // 4))
    assert ids(tune.train) | ids(tune.inner) == ids(final.train) and not ids(tune.train) & ids(tune.inner)
    assert len(final.train) == 10 * k and not final.inner and len(final.test) == 359
    with pytest.raises(DataError, match="nothing is left to validate on; a class needs at least 2 training images"):
        load_classification("digits", protocol="tune", few_shot=1, by_the_few=True)


# Bad input


@pytest.mark.parametrize(("name", "text"), [
    ("cub_200_2012", "the name of a data set or a folder with class folders, got 'cub_200_2012'; did you mean 'cub_200_2011'"),
    ("caltech101", "did you mean 'vtab_caltech101'"),
    ("xyz", "got 'xyz'; gps-seg data list shows all names"),
])
def test_unknown_names_are_explained(name: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        load_classification(name)


@pytest.mark.parametrize("name", [name for name, adapter in ADAPTERS.items() if adapter.layouts])
def test_what_is_missing_and_where_to_get_it_is_said(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path))
    adapter = ADAPTERS[name]
    with pytest.raises(DataError) as caught:
        load_classification(name)
    assert adapter.where in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        load_classification(name, tmp_path / "none")
    assert str(tmp_path / "none") in str(caught.value) and adapter.where in str(caught.value)
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="GPS_SEG_DATA: expected a folder at .*none" if adapter.folders else "data.root"):
        load_classification(name)


@pytest.mark.parametrize(("name", "absent"), [
    ("stanford_dogs", "train.json"), ("stanford_dogs", "test.json"), ("stanford_dogs", "Images"),
    ("vtab_kitti", "train800.txt"), ("vtab_kitti", "val200.txt"), ("vtab_kitti", "train800val200.txt"),
    ("vtab_kitti", "test.txt"), ("vtab_kitti", "images"),
])
def test_a_missing_split_file_is_one_line(tmp_path: Path, name: str, absent: str) -> None:
    root = vtab(tmp_path, 4) if name == "vtab_kitti" else fgvc(tmp_path, name, images="Images", classes=120)
    (root / absent).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{name}: expected .*, {absent} missing; get it: ") as caught:
        load_classification(name, root)
    assert "\n" not in str(caught.value)


def test_a_wrong_number_of_classes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cub_200_2011 in .*: expected 200 classes, found 199"):
        load_classification("cub_200_2011", fgvc(tmp_path / "a", "cub", images="images", classes=199), check_counts=False)
    with pytest.raises(DataError, match="vtab_dtd in .*: expected 47 classes, found 48"):
        load_classification("vtab_dtd", vtab(tmp_path / "b", 48), check_counts=False)
    with pytest.raises(DataError, match="folder in .*: expected at least 2 classes, found 1"):
        load_classification("folder", folders(tmp_path / "c", ["polyp"], 3))


def test_a_wrong_number_of_images_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vtab_kitti in .*: expected 1000 training and validation images, found 8; get it: "):
        load_classification("vtab_kitti", vtab(tmp_path, 4))


def test_a_class_without_an_image_is_one_line(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", ["polyp", "ulcer"], 3)
    (root / "normal").mkdir()
    with pytest.raises(DataError, match="folder in .*: 1 of 3 classes have no training image: normal"):
        load_classification("folder", root)
    root = vtab(tmp_path / "b", 10)
    for path in root.glob("*.txt"):
        path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if not line.endswith(" 4")))
    with pytest.raises(DataError, match="vtab_svhn in .*: 1 of 10 classes have no image: 4"):
        load_classification("vtab_svhn", root, check_counts=False)


def class_tree(root: Path, **parts: dict[str, int]) -> Path:
    """part -> class -> number of images, each of its own bytes."""
    chance = np.random.default_rng(0)
    for part, classes in parts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(chance.integers(0, 255, (8, 8, 3), np.uint8)).save(root / part / name / f"{part}{index}.png")
    return root


def test_a_class_that_only_validation_holds_and_a_class_of_one_image_are_one_line(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "a", train={"x": 3, "z": 3}, val={"x": 2, "y": 2, "z": 2}, test={"x": 2, "y": 2, "z": 2})
    (root / "train" / "y").mkdir()
    with pytest.raises(DataError, match="data.protocol=tune trains without any image of 1 classes: y"):
        load_classification("folder", root)
    single = class_tree(tmp_path / "b", train={"x": 1, "y": 1}, test={"x": 2, "y": 2})
    with pytest.raises(DataError, match="nothing is left to validate on; a class needs at least 2 training images"):
        load_classification("folder", single)


def test_a_test_image_that_is_a_training_image_under_another_name_is_one_line(tmp_path: Path) -> None:
    root = class_tree(tmp_path, train={"x": 4, "y": 4}, test={"x": 2, "y": 2})
    check_copies("folder", load_classification("folder", root, protocol="final"))
    (root / "test" / "y" / "new.png").write_bytes((root / "train" / "x" / "train2.png").read_bytes())
    with pytest.raises(DataError, match="train2.png trains and .*new.png is scored, but they are the same image"):
        check_copies("folder", load_classification("folder", root, protocol="final"))


def test_a_listed_image_without_a_file_is_named(tmp_path: Path) -> None:
    root = vtab(tmp_path, 4)
    (root / "images/test/000002.jpg").unlink()
    with pytest.raises(DataError, match=r"1 listed images have no file: images/test/000002.jpg"):
        load_classification("vtab_kitti", root)


def test_an_image_on_two_sides_is_refused(tmp_path: Path) -> None:
    root = vtab(tmp_path, 4)
    with (root / "test.txt").open("a") as file:
        file.write("images/train800val200/000000.jpg 0\n")
    with pytest.raises(DataError, match="1 images are in the training and the test part: images/train800val200/000000.jpg"):
        load_classification("vtab_kitti", root, check_counts=False)


@pytest.mark.parametrize(("content", "text"), [
    ("images/a.jpg", "train800.txt, line 1: expected an image path and a class number, got 'images/a.jpg'"),
    ("images/a.jpg one", "train800.txt, line 1: expected an image path and a class number"),
    ("\n", "train800.txt: expected image paths, found none"),
])
def test_broken_text_lists_are_one_line(tmp_path: Path, content: str, text: str) -> None:
    root = vtab(tmp_path, 4)
    (root / "train800.txt").write_text(content)
    with pytest.raises(DataError, match=text):
        load_classification("vtab_kitti", root)


@pytest.mark.parametrize(("content", "text"), [
    ("{", "train.json: expected {image path: class}, the file is damaged"), ("{}", "train.json: expected"),
    ("[1, 2]", "train.json: expected {image path: class}"),
    ('{"a.jpg": [1]}', "train.json: expected {image path: class}"),
])
def test_broken_json_lists_are_one_line(tmp_path: Path, content: str, text: str) -> None:
    root = fgvc(tmp_path, "stanford_cars", images="", classes=3)
    (root / "train.json").write_text(content)
    with pytest.raises(DataError, match=text):
        load_classification("stanford_cars", root)


def test_folders_that_do_not_agree_are_one_line(tmp_path: Path) -> None:
    root = tmp_path / "a"
    folders(root / "train", ["polyp", "ulcer"], 3)
    folders(root / "test", ["polyp", "ulcers"], 3)
    with pytest.raises(DataError, match="test: 1 class folders that the training part does not have: ulcers"):
        load_classification("folder", root)
    write(tmp_path / "b" / "train" / "a.jpg")
    with pytest.raises(DataError, match="train: expected one folder per class, found none"):
        load_classification("folder", tmp_path / "b")
    with pytest.raises(DataError, match="data.root: expected the folder of folder"):
        load_classification("folder")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("called",)


@pytest.mark.parametrize(("content", "text"), [
    (pickle.dumps(Harmful()), r"train: not a CIFAR-100 file \(builtins.print\)"),
    (pickle.dumps({"data": 1}), "train: not a CIFAR-100 file, fine_labels is missing"),
    (pickle.dumps([1]), "train: not a CIFAR-100 file"),
    (pickle.dumps({"data": np.zeros((2, 3), np.uint8), "fine_labels": [1, 2]}), "train: expected uint8 rows of 3072 values"),
    (pickle.dumps({"data": np.zeros(9)})[:-20], "train: cut short or damaged|train: not a CIFAR-100 file"),
    (b"", "train: cut short or damaged"),
])
def test_a_broken_or_harmful_cifar_file_is_one_line_and_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, text: str,
) -> None:
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 100}))
    with pytest.raises(DataError, match=text):
        load_classification("cifar100", tmp_path)
    assert "called" not in capsys.readouterr().out


def test_a_cut_binary_cifar_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fine_label_names.txt").write_text("a\n" * 100)
    for name in ("train", "test"):
        (tmp_path / f"{name}.bin").write_bytes(bytes(4000))
    with pytest.raises(DataError, match="train.bin: expected rows of 3074 bytes, found 4000 bytes; fetch it again"):
        load_classification("cifar100", tmp_path)


def test_too_few_images_for_few_shot_are_one_line(tmp_path: Path) -> None:
    root = folders(folders(tmp_path, ["polyp"], 9), ["ulcer"], 3)
    with pytest.raises(DataError, match=r"few_shot: expected 5 training images per class, too few in ulcer \(2\)"):
        load_classification("folder", root, protocol="final", few_shot=5)
    with pytest.raises(DataError, match="few_shot: expected at least 1 image per class, got 0"):
        load_classification("folder", root, few_shot=0)


# Robustness


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    for wnid in WNIDS:
        (root / "val" / wnid).mkdir(parents=True)
    return root


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_subsets_carry_the_labels_of_imagenet(tmp_path: Path, imagenet: Path, name: str) -> None:
    folders(tmp_path, WNIDS[3::5], 2)
    (tmp_path / "README.txt").write_text("as the archives have one")
    found = load_robustness(name, tmp_path, imagenet, check_counts=False)
    assert found.classes == tuple(range(3, 1000, 5)) and found.class_names[0] == WNIDS[3] and len(found.items) == 400
    assert all(WNIDS[item.label] == item.id.split("/")[0] for item in found.items)
    with pytest.raises(DataError, match=rf"{name}: expected \d+ images in .*, found 400; get it: https"):
        load_robustness(name, tmp_path, imagenet)


@pytest.mark.parametrize("above", ["", "blur"])
def test_corruptions_are_read_one_severity_at_a_time(tmp_path: Path, imagenet: Path, above: str) -> None:
    folders(tmp_path / above / "zoom_blur" / "3", WNIDS, 1, "JPEG")
    found = load_robustness("imagenet_c", tmp_path, imagenet, corruption="zoom_blur", severity=3, check_counts=False)
    assert found.classes == tuple(range(1000)) and len(found.items) == 1000
    for corruption, severity, text in (("zoomblur", 3, "did you mean 'zoom_blur'"), (None, 3, "expected one of gaussian_noise"),
                                       ("zoom_blur", 6, "expected a severity from 1 to 5, got 6"),
                                       ("zoom_blur", 2, "expected the folder zoom_blur/2")):
        with pytest.raises(DataError, match=text):
            load_robustness("imagenet_c", tmp_path, imagenet, corruption=corruption, severity=severity)


def test_robustness_sets_that_do_not_fit_are_one_line(tmp_path: Path, imagenet: Path) -> None:
    with pytest.raises(DataError, match="unknown robustness set 'imagenet_b'"):
        load_robustness("imagenet_b", tmp_path, imagenet)
    with pytest.raises(DataError, match="imagenet_a: expected its folder at .*none, found none; get it: https"):
        load_robustness("imagenet_a", tmp_path / "none", imagenet)
    folders(tmp_path / "a", WNIDS[:199], 1)
    with pytest.raises(DataError, match="imagenet_a: expected 200 class folders in .*, found 199"):
        load_robustness("imagenet_a", tmp_path / "a", imagenet)
    (tmp_path / "a" / WNIDS[500]).mkdir()
    with pytest.raises(DataError, match=f"1 of 200 classes have no image: {WNIDS[500]}"):
        load_robustness("imagenet_a", tmp_path / "a", imagenet, check_counts=False)
    (tmp_path / "a" / "n99999999").mkdir()
    with pytest.raises(DataError, match="1 classes that .* does not have: n99999999"):
        load_robustness("imagenet_a", tmp_path / "a", imagenet)
    with pytest.raises(DataError, match="expected ImageNet's 1000 class folders .*, found 0"):
        imagenet_classes(tmp_path / "a" / WNIDS[0])


def test_alexnet_has_a_mean_corruption_error_of_one() -> None:
    assert len(ALEXNET_ERRORS) == 15 and mce(ALEXNET_ERRORS) == pytest.approx(1)
    assert mce({name: error / 2 for name, error in ALEXNET_ERRORS.items()}) == pytest.approx(0.5)
    assert mce({"fog": 0.2, "snow": 0.6}, {"fog": 0.4, "snow": 0.8}) == pytest.approx(0.625)
    for errors, text in (({}, "15 of 15 corruptions have no error"),
                         ({**ALEXNET_ERRORS, "rain": 0.5}, "unknown corruptions: rain"),
                         ({**ALEXNET_ERRORS, "fog": 83.0}, "expected errors between 0 and 1, got fog = 83.0")):
        with pytest.raises(DataError, match=text):
            mce(errors)


# Some of the classes


def test_a_range_of_classes_leaves_every_image_in_its_part_and_numbers_labels_anew() -> None:
    whole, some = load_classification("digits", protocol="honest"), load_classification("digits@5-7", protocol="honest")
    assert some.class_names == ("5", "6", "7")
    for part in ("train", "inner", "test"):
        expected = {item.id: item.label - 5 for item in getattr(whole, part) if 5 <= item.label <= 7}
        assert {item.id: item.label for item in getattr(some, part)} == expected
    assert class_number("digits@5-7") == 3 and class_number("digits") == 10


@pytest.mark.parametrize(("name", "text"), [
    ("digits@3", "digits@3: expected at least two class numbers from 0 on behind @, such as digits@0-4, got '3'"),
    ("digits@3-3", "expected at least two class numbers"), ("digits@8-10", "@8-10: expected class numbers from 0 to 9"),
    ("digit@0-4", "expected the name of a data set or a folder with class folders, got 'digit@0-4'; did you mean 'digits'"),
])
def test_a_wrong_range_of_classes_is_one_line(name: str, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        load_classification(name)
