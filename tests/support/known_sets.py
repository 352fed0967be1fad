"""Miniatures of the known polyp sets, in every layout they are published in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (48, 64)
Mask = NDArray[np.bool_]


def drawn(seed: int) -> Mask:
    """A disc that differs with the seed."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - 20 - seed) ** 2 + (columns - 30) ** 2 < 150)


def put(root: Path, images: str, masks: str, seeds: range = range(3)) -> Path:
    """Write pairs; ``{}`` in the names is the number."""
    for seed in seeds:
        scene = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        for name, pixels in ((images, scene), (masks, drawn(seed).astype(np.uint8) * 255)):
            path = root / name.format(seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=95)
    return root


LAYOUTS = [
    ("kvasir-seg", "Kvasir-SEG/images/cju{}.jpg", "Kvasir-SEG/masks/cju{}.jpg", "cju{}"),
    ("kvasir-sessile", "kvasir-sessile/sessile-main-Kvasir-SEG/images/cju{}.jpg",
     "kvasir-sessile/sessile-main-Kvasir-SEG/masks/cju{}.jpg", "cju{}"),
    ("cvc-clinicdb", "CVC-ClinicDB/Original/{}.tif", "CVC-ClinicDB/Ground Truth/{}.tif", "{}"),
    ("cvc-clinicdb", "CVC-ClinicDB/PNG/Original/{}.png", "CVC-ClinicDB/PNG/Ground Truth/{}.png", "{}"),
    ("cvc-clinicdb", "CVC-ClinicDB/CVC-ClinicDB/Original/{}.tif", "CVC-ClinicDB/CVC-ClinicDB/Ground Truth/{}.tif", "{}"),
    ("cvc-colondb", "CVC-ColonDB/images/{}.png", "CVC-ColonDB/masks/{}.png", "{}"),
    ("cvc-colondb", "TestDataset/CVC-ColonDB/images/{}.png", "TestDataset/CVC-ColonDB/masks/{}.png", "{}"),
    ("etis-larib", "ETIS-LaribPolypDB/images/{}.png", "ETIS-LaribPolypDB/masks/{}.png", "{}"),
    ("etis-larib", "ETIS-LaribPolypDB/ETIS-LaribPolypDB/{}.tif", "ETIS-LaribPolypDB/Ground Truth/p{}.tif", "{}"),
    ("etis-larib", "TestDataset/ETIS-LaribPolypDB/images/{}.png", "TestDataset/ETIS-LaribPolypDB/masks/{}.png", "{}"),
    ("cvc-300", "CVC-300/images/{}.png", "CVC-300/masks/{}.png", "{}"),
    ("cvc-300", "polyps/TestDataset/CVC-300/images/{}.png", "polyps/TestDataset/CVC-300/masks/{}.png", "{}"),
    ("polypgen", "PolypGen2021_MultiCenterData_v3/data_C1/images_C1/1H{}.jpg",
     "PolypGen2021_MultiCenterData_v3/data_C1/masks_C1/1H{}_mask.jpg", "1H{}"),
    ("polypgen", "polypgen-640/images/1H{}.jpg", "polypgen-640/masks/1H{}.png", "1H{}"),
    ("bkai-neopolyp", "bkai-igh-neopolyp/train/train/{}.jpeg", "bkai-igh-neopolyp/train_gt/train_gt/{}.jpeg", "{}"),
    ("endotect", "EndoTect_2020/images/{}.jpg", "EndoTect_2020/masks/{}.jpg", "{}"),
    ("endotect", "endotect/segmented-images/images/{}.jpg", "endotect/segmented-images/masks/{}.jpg", "{}"),
    ("pranet-kvasir", "TestDataset/Kvasir/images/{}.png", "TestDataset/Kvasir/masks/{}.png", "{}"),
    ("pranet-clinicdb", "TestDataset/CVC-ClinicDB/images/{}.png", "TestDataset/CVC-ClinicDB/masks/{}.png", "{}"),
    ("pranet-train", "TrainDataset/image/{}.png", "TrainDataset/masks/{}.png", "{}"),
    ("pranet-train", "TrainDataset/images/{}.png", "TrainDataset/mask/{}.png", "{}"),
]
