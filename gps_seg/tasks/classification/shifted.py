"""Robustness test sets of ImageNet models: ImageNet-A, -R and -C, and the mean corruption error. No torch.

Sources: Hendrycks et al., Natural Adversarial Examples, CVPR 2021, arXiv 1907.07174 (A); The Many Faces of Robustness, ICCV 2021,
arXiv 2006.16241 (R); Hendrycks and Dietterich, Benchmarking Neural Network Robustness, ICLR 2019, arXiv 1903.12261 (C, mCE).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gps_seg.data.images import list_images
from gps_seg.errors import DataError, first_names
from gps_seg.tasks.classification.items import Item

SEVERITIES = 5
# Errors of AlexNet, each the mean over the five severities, as released with ImageNet-C.
ALEXNET_ERRORS: Mapping[str, float] = MappingProxyType({
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
})
# name: classes, images (of one corruption at one severity for C), where to get it
SETS: Mapping[str, tuple[int, int, str]] = MappingProxyType({
    "imagenet_a": (200, 7_500, "https://github.com/hendrycks/natural-adv-examples"),
    "imagenet_r": (200, 30_000, "https://github.com/hendrycks/imagenet-r"),
    "imagenet_c": (1000, 50_000, "https://zenodo.org/records/2235448"),
})


@dataclass(frozen=True)
class RobustSet:
    """Test images with ImageNet's own labels.

    Attributes:
        items: labels index ImageNet's 1000 sorted classes.
        classes: the labels that occur, sorted. Accuracy on A and R is taken over these outputs alone.
        class_names: the WordNet ids of ``classes``.
    """

    items: tuple[Item, ...]
    classes: tuple[int, ...]
    class_names: tuple[str, ...]


def imagenet_classes(root: Path) -> tuple[str, ...]:
    """ImageNet's 1000 WordNet ids in the order of its labels, from the class folders in train/, val/ or the root.

    Raises:
        DataError: the folder is missing or does not have 1000 class folders.
    """
    for folder in (root / "train", root / "val", root):
        found = _wnids(folder)
        if len(found) == 1000:
            return found
    raise DataError(f"{root}: expected ImageNet's 1000 class folders (n01440764, ...) in train/ or val/, found "
                    f"{max(len(_wnids(folder)) for folder in (root / 'train', root / 'val', root))}")


def _wnids(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"n\d{8}", path.name)))


def load_robustness(
    name: str, root: Path, imagenet_root: Path, *, corruption: str | None = None, severity: int | None = None,
    check_counts: bool = True,
) -> RobustSet:
    """ImageNet-A, ImageNet-R, or one corruption of ImageNet-C at one severity.

    Args:
        name: imagenet_a, imagenet_r or imagenet_c.
        root: folder of class folders; for C the folder of ``corruption/severity/class``, directly or in one folder more
            (noise, blur, weather, digital), as the archives unpack.
        imagenet_root: the ImageNet that the model was trained on; its folder names say which label a class has.
        corruption, severity: of C alone: a key of ALEXNET_ERRORS, and 1 to 5.
        check_counts: False accepts other numbers of images than the published ones.

    Raises:
        DataError: unknown name, corruption or severity, a missing folder, a wrong number of classes or images, a class that
            ImageNet does not have or that has no image.
    """
    if name not in SETS:
        raise DataError(f"unknown robustness set {name!r}; expected one of {', '.join(SETS)}")
    classes, images, where = SETS[name]
    if not root.is_dir():
        raise DataError(f"{name}: expected its folder at {root}, found none; get it: {where}")
    folder = _corrupted(root, corruption, severity, where) if name == "imagenet_c" else root
    labels = {wnid: label for label, wnid in enumerate(imagenet_classes(imagenet_root))}
    found = _wnids(folder)
    if unknown := [wnid for wnid in found if wnid not in labels]:
        raise DataError(f"{folder}: {len(unknown)} classes that {imagenet_root} does not have: {first_names(unknown)}")
    if len(found) != classes:
        raise DataError(f"{name}: expected {classes} class folders in {folder}, found {len(found)}; get it: {where}")
    items = tuple(Item(path, labels[wnid], path.relative_to(root).as_posix())
                  for wnid in found for path in list_images(folder / wnid))
    if empty := sorted(set(found) - {item.id.split("/")[-2] for item in items}):
        raise DataError(f"{name}: {len(empty)} of {classes} classes have no image: {first_names(empty)}")
    if check_counts and len(items) != images:
        raise DataError(f"{name}: expected {images} images in {folder}, found {len(items)}; get it: {where}")
    return RobustSet(items, tuple(labels[wnid] for wnid in found), found)


def _corrupted(root: Path, corruption: str | None, severity: int | None, where: str) -> Path:
    if corruption not in ALEXNET_ERRORS:
        nearest = difflib.get_close_matches(str(corruption), ALEXNET_ERRORS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(ALEXNET_ERRORS)}"
        raise DataError(f"imagenet_c: unknown corruption {corruption!r}; {hint}")
    if severity not in range(1, SEVERITIES + 1):
        raise DataError(f"imagenet_c: expected a severity from 1 to {SEVERITIES}, got {severity}")
    places = [root / str(corruption) / str(severity), *sorted(root.glob(f"*/{corruption}/{severity}"))]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DataError(f"imagenet_c: expected the folder {corruption}/{severity} in {root}, found none; get it: {where}")
    return folder


def mce(errors: Mapping[str, float], alexnet_errors: Mapping[str, float] = ALEXNET_ERRORS) -> float:
    """Mean corruption error: the mean over corruptions of error / AlexNet's error. 1 is AlexNet; papers print it times 100.

    Args:
        errors: top-1 error in 0..1 of each of the fifteen corruptions, the mean over its five severities.
        alexnet_errors: what to divide by, of the same corruptions.

    Raises:
        DataError: a corruption is missing, unknown, or its error is not in 0..1.
    """
    if missing := [name for name in alexnet_errors if name not in errors]:
        raise DataError(f"mCE: {len(missing)} of {len(alexnet_errors)} corruptions have no error: {first_names(missing)}")
    if unknown := [name for name in errors if name not in alexnet_errors]:
        raise DataError(f"mCE: unknown corruptions: {first_names(unknown)}")
    if outside := [f"{name} = {error}" for name, error in errors.items() if not 0 <= error <= 1]:
        raise DataError(f"mCE: expected errors between 0 and 1, got {first_names(outside)}")
    return sum(error / alexnet_errors[name] for name, error in errors.items()) / len(errors)
