"""Classification data sets by name: what each looks like on the disk, what it must hold, and where to get it. No torch.

Image and class numbers: the tables of the VPT paper (Jia et al., ECCV 2022, arXiv 2203.12119) for FGVC and VTAB-1k, else the
pages named below. Training numbers count the validation part too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gps_seg.config import ClassDataConfig
from gps_seg.data.places import candidates, search_folder, unknown
from gps_seg.data.splits import Splits
from gps_seg.errors import ConfigError, DataError, first_names
from gps_seg.tasks.classification import readers
from gps_seg.tasks.classification.items import Item, Parts, Protocol, check_classes, divide, only
from gps_seg.tasks.classification.patches import patch_parts
from gps_seg.tasks.segmentation.known import KNOWN

JSON_LISTS = "train.json, val.json, test.json: linked in the README of https://github.com/KMnP/vpt; images: "
RANGE = "@"  # before the numbers of the first and the last class of a data set that are used
VTAB_LISTS = ("images and lists: the README of https://github.com/ZhangYuanhan-AI/NOAH, or made from tensorflow_datasets as "
              "https://github.com/KMnP/vpt/blob/main/VTAB_SETUP.md says")


@dataclass(frozen=True)
class Adapter:
    """How one data set is read.

    Attributes:
        read: from the data set's folder.
        classes, train, test: what the published set holds; None: anything. ``train`` counts the validation part too.
        folders: names its folder goes by, looked for in the given root, $GPS_SEG_DATA and data/.
        layouts: alternatives; the files and folders of one must be there.
        where: how to get it.
    """

    read: Callable[[Path], Parts]
    classes: int | None
    train: int | None
    test: int | None
    folders: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]
    where: str


def _fgvc(classes: int, train: int, test: int, folders: tuple[str, ...], images: str, where: str) -> Adapter:
    layout = ("train.json", "test.json", images) if images else ("train.json", "test.json")
    return Adapter(partial(readers.read_json_lists, images=images), classes, train, test, folders, (layout,), JSON_LISTS + where)


def _vtab(classes: int, test: int, *folders: str) -> Adapter:
    layout = ("train800.txt", "val200.txt", "train800val200.txt", "test.txt", "images")
    return Adapter(readers.read_text_lists, classes, 1000, test, (*folders, *(f"vtab-1k/{name}" for name in folders)), (layout,),
                   VTAB_LISTS)


ADAPTERS: dict[str, Adapter] = {
    "cub_200_2011": _fgvc(200, 5_994, 5_794, ("CUB_200_2011", "cub_200_2011", "cub"), "images",
                          "https://www.vision.caltech.edu/datasets/cub_200_2011/"),
    "nabirds": _fgvc(555, 23_929, 24_633, ("nabirds",), "images", "https://dl.allaboutbirds.org/nabirds"),
    "oxford_flowers": _fgvc(102, 2_040, 6_149, ("oxfordflower", "OxfordFlower", "oxford_flowers"), "",
                            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"),
    "stanford_dogs": _fgvc(120, 12_000, 8_580, ("stanforddogs", "StanfordDogs", "stanford_dogs"), "Images",
                           "http://vision.stanford.edu/aditya86/ImageNetDogs/"),
    "stanford_cars": _fgvc(196, 8_144, 8_041, ("stanfordcars", "StanfordCars", "stanford_cars"), "",
                           "the mirrors of Stanford Cars, whose own page is gone"),
    "vtab_caltech101": _vtab(102, 6_084, "caltech101"),
    "vtab_cifar_100": _vtab(100, 10_000, "cifar", "cifar_100", "cifar100"),
    "vtab_dtd": _vtab(47, 1_880, "dtd"),
    "vtab_flowers102": _vtab(102, 6_149, "oxford_flowers102", "flowers102"),
    "vtab_pets": _vtab(37, 3_669, "oxford_iiit_pet", "pets"),
    "vtab_svhn": _vtab(10, 26_032, "svhn"),
    "vtab_sun397": _vtab(397, 21_750, "sun397"),
    "vtab_patch_camelyon": _vtab(2, 32_768, "patch_camelyon"),
    "vtab_eurosat": _vtab(10, 5_400, "eurosat"),
    "vtab_resisc45": _vtab(45, 6_300, "resisc45"),
    "vtab_diabetic_retinopathy": _vtab(5, 42_670, "diabetic_retinopathy"),
    "vtab_clevr_count": _vtab(8, 15_000, "clevr_count"),
    "vtab_clevr_dist": _vtab(6, 15_000, "clevr_dist"),
    "vtab_dmlab": _vtab(6, 22_735, "dmlab"),
    "vtab_kitti": _vtab(4, 711, "kitti"),
    "vtab_dsprites_loc": _vtab(16, 73_728, "dsprites_loc"),
    "vtab_dsprites_ori": _vtab(16, 73_728, "dsprites_ori"),
    "vtab_smallnorb_azi": _vtab(18, 12_150, "smallnorb_azi"),
    "vtab_smallnorb_ele": _vtab(9, 12_150, "smallnorb_ele"),
    "cifar100": Adapter(
        readers.read_cifar100, 100, 50_000, 10_000, ("cifar-100-python", "cifar-100-binary"),
        (("train", "test", "meta"), ("train.bin", "test.bin", "fine_label_names.txt")), "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "imagenet": Adapter(
        readers.read_folders, 1000, 1_281_167, 50_000, ("imagenet", "imagenet-1k", "ILSVRC2012"), (("train", "val"),),
        "https://image-net.org/download (registration); val/ sorted into a folder per class",
    ),
    "folder": Adapter(readers.read_folders, None, None, None, (), ((),), "a folder of images per class"),
    "digits": Adapter(readers.read_digits, 10, 1_797 - 359, 359, (), (), "scikit-learn"),
    "polyp_patches": Adapter(
        patch_parts, 2, None, None, KNOWN["kvasir-seg"].folders, KNOWN["kvasir-seg"].layouts,
        "`gps-seg data download kvasir-seg`, or any folder with images/ and masks/",
    ),
}


def adapter_of(name: str) -> Adapter:
    """How a data set is read, by its name, with or without a range of classes. Raises DataError: the nearest names."""
    whole = name.partition(RANGE)[0]
    if whole not in ADAPTERS:
        raise unknown("class folders", name, ADAPTERS)
    class_range(name)
    return ADAPTERS[whole]


def class_range(name: str) -> tuple[int, int] | None:
    """First and last class number of NAME@FIRST-LAST; None of a name without a range. Raises DataError: another form."""
    _, at, text = name.partition(RANGE)
    if not at:
        return None
    if (found := re.fullmatch(r"(\d+)-(\d+)", text)) is None or int(found[1]) >= int(found[2]):
        raise DataError(f"{name}: expected at least two class numbers from 0 on behind {RANGE}, such as digits@0-4, got {text!r}")
    return int(found[1]), int(found[2])


def class_number(name: str) -> int | None:
    """How many classes a data set has, if that is known without its files. Raises DataError: the nearest names."""
    classes, known = class_range(name), adapter_of(name).classes
    return classes[1] - classes[0] + 1 if classes else known


def load_classification(
    name: str, root: Path | None = None, *, protocol: Protocol = "tune", few_shot: int | None = None, seed: int = 0,
    check_counts: bool = True, by_the_few: bool = False,
) -> Splits[Item]:
    """A data set, checked against its published size and split.

    Args:
        name: a key of :data:`ADAPTERS`; NAME@FIRST-LAST keeps these classes, by number. Their images are in the parts that they
            are in without it, so that data sets which overlap never train on what another one tests.
        root: the data set's folder, or one that holds it; None looks in $GPS_SEG_DATA, else in data/.
        protocol: tune and honest train on the train part and select on the val part (the official one, else a tenth of each
            class); final trains on both. tune never sees the test part.
        few_shot: training images of each class, those of k among those of k + 1; None keeps all.
        seed: of that tenth and of the few; never of the test part.
        by_the_few: what validates is some of the few, see :func:`items.divide`.
        check_counts: False accepts other numbers of images than the published ones; the number of classes stays checked.

    Raises:
        DataError: unknown name (the nearest is named), something is missing (the text says what and where to get it), a
            wrong number of classes or images, a class without an image, too few images for ``few_shot``.
    """
    adapter, classes = adapter_of(name), class_range(name)
    found = locate(name, adapter, root)
    parts = adapter.read(found)
    check_classes(f"{name} in {found}", parts, adapter.classes)
    if check_counts:
        _check_counts(f"{name} in {found}", adapter, parts)
    splits = divide(parts, protocol, few_shot=few_shot, seed=seed, by_the_few=by_the_few)
    return only(splits, *classes) if classes else splits


def find_items(data: str | None, split: str, config: ClassDataConfig, classes: Sequence[str]) -> list[Item]:
    """The images to score a model on.

    Args:
        data: a key of :data:`ADAPTERS`, a folder of class folders (all of its images, or the split's where it has folders for
            parts), or None for the run's own data set.
        split: train, inner or test.
        config: the run's own data.
        classes: the model's.

    Raises:
        ConfigError: another split.
        DataError: the data set is not there, or has other classes than the model.
    """
    if split not in ("train", "inner", "test"):
        raise ConfigError(f"--split: expected train, inner or test, got {split!r}")
    name, root = (config.name, config.root) if data is None else ("folder", Path(data)) if Path(data).is_dir() else (data, None)
    whole = load_classification(name, root, protocol="honest", few_shot=config.few_shot if data is None else None,
                                seed=config.split_seed, check_counts=config.check_counts and data is None,
                                by_the_few=config.few_shot_validation == "few")
    if whole.class_names != tuple(classes):
        raise DataError(f"{data}: expected the model's {len(classes)} classes ({first_names(classes)}), found "
                        f"{len(whole.class_names)} ({first_names(whole.class_names)})")
    if name == "folder" and data is not None and not readers.has_parts(Path(data)):
        return [*whole.train, *whole.inner, *whole.test]
    return list(getattr(whole, split))


def locate(name: str, adapter: Adapter, root: Path | None) -> Path:
    """The folder of a data set. Raises DataError that says what is missing and where to get it."""
    if not adapter.layouts:
        if root is not None:
            raise DataError(f"data.root: {name} comes with {adapter.where} and has no folder; leave data.root out")
        return Path()
    if root is None and not adapter.folders:
        raise DataError(f"data.root: expected the folder of {name}, which is {adapter.where}")
    base = search_folder() if root is None else root
    if not base.is_dir():
        raise DataError(f"{name}: expected its folder at {base}, found none; get it: {adapter.where}")
    places = list(candidates(adapter.folders, root)) or [base]
    nearest = min(places, key=lambda place: len(_missing(place, adapter)))
    if missing := _missing(nearest, adapter):
        layout = " or ".join(", ".join(layout) for layout in adapter.layouts)
        raise DataError(f"{name}: expected {layout} in {nearest}, {', '.join(missing)} missing; get it: {adapter.where}")
    return nearest


def _missing(root: Path, adapter: Adapter) -> list[str]:
    """What the layout lacks that is nearest to be there; nothing where the data set is."""
    return min(([entry for entry in layout if not (root / entry).exists()] for layout in adapter.layouts), key=len)


def _check_counts(title: str, adapter: Adapter, parts: Parts) -> None:
    training = "training" if parts.val is None else "training and validation"
    for part, expected, found in ((training, adapter.train, len(parts.training())), ("test", adapter.test, len(parts.test))):
        if expected is not None and found != expected:
            hint = " without val.json" if parts.val is None and adapter.where.startswith(JSON_LISTS) and part == training else ""
            raise DataError(f"{title}: expected {expected} {part} images, found {found}{hint}; get it: {adapter.where}, or set "
                            "data.check_counts=false to go on with other numbers")
