"""Readers of the layouts in which classification data sets are published. No torch.

Each reads what is there, checks that it is whole, and leaves the comparison with published numbers to ``catalog``.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.images import list_images
from gps_seg.data.splits import read_lines
from gps_seg.errors import DataError, first_names
from gps_seg.files import read_json
from gps_seg.tasks.classification.items import TEST, Item, Parts, hold_out

TRAIN_FOLDERS, VAL_FOLDERS, TEST_FOLDERS = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")


# JSON lists: the FGVC sets as the VPT authors split them


def read_json_lists(root: Path, images: str = "") -> Parts:
    """train.json, val.json (may be missing) and test.json, each {image path: class id}; paths are below ``images``."""
    names = ("train", "val", "test")
    lists = {name: _read_json(root / f"{name}.json") for name in names if name != "val" or (root / "val.json").is_file()}
    classes = sorted({label for found in lists.values() for label in found.values()}, key=lambda label: (str(type(label)), label))
    index = {label: number for number, label in enumerate(classes)}
    parts = {name: [Item(root / images / path, index[label], path) for path, label in found.items()]
             for name, found in lists.items()}
    _check_files(root, (item for part in parts.values() for item in part))
    return Parts(parts["train"], parts.get("val"), parts["test"], tuple(str(label) for label in classes))


def _read_json(path: Path) -> Mapping[str, int | str]:
    found = read_json(path, "{image path: class}", DataError)
    if not isinstance(found, dict) or not found or not all(isinstance(label, int | str) for label in found.values()):
        raise DataError(f"{path}: expected {{image path: class}}, found something else")
    return found


# Text lists: VTAB-1k


def read_text_lists(root: Path) -> Parts:
    """train800.txt, val200.txt, train800val200.txt and test.txt, each line an image path and a class number."""
    train, val, train_val, test = (_read_lines(root, f"{name}.txt") for name in ("train800", "val200", "train800val200", "test"))
    everything = {item.id: item for part in (train, val, train_val, test) for item in part}.values()
    _check_files(root, everything)
    names = tuple(str(label) for label in range(1 + max(item.label for item in everything)))
    return Parts(train, val, test, names, train_val=train_val, sparse=True)


def _read_lines(root: Path, name: str) -> list[Item]:
    items = []
    for number, line in enumerate(read_lines(root / name), start=1):
        path, _, label = line.rpartition(" ")
        if not line:
            continue
        if not path.strip() or not label.isdecimal():
            raise DataError(f"{root / name}, line {number}: expected an image path and a class number, got {line!r}")
        items.append(Item(root / path.strip(), int(label), path.strip()))
    if not items:
        raise DataError(f"{root / name}: expected image paths, found none")
    return items


def _check_files(root: Path, items: Iterable[Item]) -> None:
    absent = [item.id for item in items if isinstance(item.source, Path) and not item.source.is_file()]
    if absent:
        raise DataError(f"{root}: {len(absent)} listed images have no file: {first_names(absent)}")


# A folder per class


def read_folders(root: Path) -> Parts:
    """A folder per class, directly in ``root`` or in train/, val/ and test/.

    Where there is no test/, val/ is the test part, as usual with ImageNet, and model selection gets a share of train/; where
    there is neither, a fixed fifth of each class is the test part, whatever the seed.
    """
    train_root = _first(root, TRAIN_FOLDERS)
    folders = _class_folders(train_root or root)
    train = _in_classes(train_root or root, folders, root)
    val_root, test_root = _first(root, VAL_FOLDERS), _first(root, TEST_FOLDERS)
    if train_root is None or not (val_root or test_root):
        kept, test = hold_out(train, TEST, "test")
        return Parts(kept, None, test, folders)
    others = {folder: _in_classes(folder, folders, root) for folder in (val_root, test_root) if folder}
    if test_root is None:
        return Parts(train, None, others[val_root] if val_root else [], folders)
    return Parts(train, others[val_root] if val_root else None, others[test_root], folders)


def has_parts(root: Path) -> bool:
    """Whether a folder of images has folders for its parts, train/ and so on."""
    return _first(root, TRAIN_FOLDERS) is not None


def _first(root: Path, names: Iterable[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(root: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise DataError(f"{root}: expected one folder per class, found none")
    return names


def _in_classes(folder: Path, classes: tuple[str, ...], root: Path) -> list[Item]:
    unknown = sorted(set(_class_folders(folder)) - set(classes))
    if unknown:
        raise DataError(f"{folder}: {len(unknown)} class folders that the training part does not have: {first_names(unknown)}")
    return [Item(path, label, path.relative_to(root).as_posix()) for label, name in enumerate(classes)
            if (folder / name).is_dir() for path in list_images(folder / name)]


# CIFAR-100


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, strings and NumPy arrays; refuses to call anything else a file may name."""

    def find_class(self, module: str, name: str) -> Any:
        """The few constructors that arrays need."""
        allowed = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.partition(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):  # how Python 3 stores bytes in the old protocol of these files
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"{module}.{name}")


def read_cifar100(root: Path) -> Parts:
    """The Python version (train, test, meta) or the binary one (train.bin, test.bin, fine_label_names.txt)."""
    if (root / "meta").is_file():
        names = [str(name) for name in _field(_unpickle(root / "meta"), "fine_label_names", root / "meta")]
        train, test = (_cifar_python(root / part) for part in ("train", "test"))
    else:
        names = (root / "fine_label_names.txt").read_text(encoding="utf-8").split()
        train, test = (_cifar_binary(root / f"{part}.bin") for part in ("train", "test"))
    beyond = max(item.label for item in (*train, *test))
    if beyond >= len(names):
        raise DataError(f"{root}: {len(names)} class names, but class number {beyond} occurs")
    return Parts(train, None, test, tuple(names))


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = _PlainUnpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: not a CIFAR-100 file ({error})") from None
    except Exception as error:  # damaged pickles raise almost any kind
        raise DataError(f"{path}: cut short or damaged ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a CIFAR-100 file")
    return found


def _field(found: dict[str, Any], key: str, path: Path) -> Any:
    if key not in found:
        raise DataError(f"{path}: not a CIFAR-100 file, {key} is missing")
    return found[key]


def _cifar_python(path: Path) -> list[Item]:
    found = _unpickle(path)
    return _cifar_items(path, np.asarray(_field(found, "data", path)), np.asarray(_field(found, "fine_labels", path)))


def _cifar_binary(path: Path) -> list[Item]:
    rows = np.fromfile(path, np.uint8)
    if len(rows) == 0 or len(rows) % 3074:
        raise DataError(f"{path}: expected rows of 3074 bytes, found {len(rows)} bytes; fetch it again")
    rows = rows.reshape(-1, 3074)
    return _cifar_items(path, rows[:, 2:], rows[:, 1])


def _cifar_items(path: Path, rows: NDArray[Any], labels: NDArray[Any]) -> list[Item]:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072 or labels.shape != rows.shape[:1] or not len(rows):
        raise DataError(f"{path}: expected uint8 rows of 3072 values, one label each; fetch it again")
    pixels = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return [Item(image, int(label), f"{path.stem}/{number}")
            for number, (image, label) in enumerate(zip(pixels, labels, strict=True))]


# Sets that need no download of their own


def read_digits(_: Path) -> Parts:
    """scikit-learn's 1797 grey 8 x 8 digits; a fixed fifth of each class is the test part, since none is published."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    items = [Item(image, int(label), str(number)) for number, (image, label) in enumerate(zip(pixels, labels, strict=True))]
    train, test = hold_out(items, TEST, "test")
    return Parts(train, None, test, tuple(str(digit) for digit in range(10)))
