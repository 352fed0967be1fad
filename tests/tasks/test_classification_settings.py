"""Classification settings, the files of the paper's data sets, and the tensors that the recipes make."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from gps_seg.config import OPTIONS, PAGES, ClassAugmentConfig, ClassGPSConfig, dump_config, page_of
from gps_seg.errors import ConfigError, DataError
from gps_seg.settings import known_keys
from gps_seg.tasks.classification.catalog import ADAPTERS, load_classification
from gps_seg.tasks.classification.dataset import ClassDataset, collate, eval_transform
from gps_seg.tasks.classification.items import Item
from support.settings import classification

FOLDER = Path(__file__).parents[2] / "configs" / "classification"
# K, lr, batch, drop path, EMA decay of the released scripts
FGVC = {
    "cub_200_2011": (2, 3e-3, 32, 0, 0.9998), "nabirds": (20, 1e-4, 32, 0.1, 0.9998), "oxford_flowers": (1, 1e-3, 32, 0.1, 0.99),
    "stanford_cars": (15, 5e-4, 32, 0, 0.9998), "stanford_dogs": (1, 1e-4, 64, 0, 0.9998),
}
# K, lr, batch, drop path
VTAB = {
    "caltech101": (1, 2e-3, 16, 0), "cifar_100": (1, 1e-2, 32, 0), "dtd": (1, 2e-3, 16, 0), "flowers102": (1, 2e-3, 16, 0),
    "pets": (1, 3e-3, 32, 0), "svhn": (1, 5e-3, 32, 0), "sun397": (1, 2.5e-3, 16, 0), "patch_camelyon": (2, 4e-3, 32, 0),
    "eurosat": (1, 2e-3, 16, 0), "resisc45": (1, 1.5e-3, 16, 0.1), "diabetic_retinopathy": (1, 2e-3, 32, 0.2),
    "clevr_count": (1, 3e-4, 16, 0.1), "clevr_dist": (1, 2e-3, 16, 0.1), "dmlab": (1, 1.5e-3, 16, 0.1), "kitti": (1, 1e-3, 16, 0),
    "dsprites_loc": (1, 7e-3, 32, 0), "dsprites_ori": (1, 5e-4, 16, 0.2), "smallnorb_azi": (1, 3e-3, 32, 0.1),
    "smallnorb_ele": (1, 3e-4, 32, 0.2),
}
GREY = (127.5, 127.5, 127.5)


# Settings


def test_there_is_one_file_for_each_of_the_papers_data_sets() -> None:
    expected = {*FGVC, *(f"vtab_{name}" for name in VTAB), "cifar100", "imagenet"}
    ours = {"small_efficientnet"}  # the base of a comparison on a CPU, not the paper's
    assert {path.stem for path in FOLDER.glob("*")} - ours == expected <= set(ADAPTERS) and len(FGVC) + len(VTAB) == 24
    for name in expected:
        config = classification(FOLDER / f"{name}.yaml")
        assert (config.data.name, config.data.protocol, config.method) == (name, "final", "gps")
        assert (config.selection.loss, config.selection.temperature) == ("supcon", 0.07)


@pytest.mark.parametrize("name", [*FGVC, *VTAB])
def test_the_files_hold_the_published_values(name: str) -> None:
    config = classification(FOLDER / (f"{name}.yaml" if name in FGVC else f"vtab_{name}.yaml"))
    train, fgvc = config.train, name in FGVC
    k, lr, batch, drop_path, ema = FGVC[name] if fgvc else (*VTAB[name], 0)
    assert (config.selection.k, train.lr, train.batch_size, config.model.drop_path, train.ema) == (k, lr, batch, drop_path, ema)
    assert config.selection == ClassGPSConfig(k=int(k), batch_size=int(batch))
    assert (train.mixup, train.cutmix, train.label_smoothing) == ((0.8, 1.0, 0.1) if fgvc else (0, 0, 0))
    assert (train.epochs, train.cooldown, train.warmup, train.warmup_lr, train.min_lr) == (110, 10 / 110, 10 / 110, 1e-7, 1e-8)
    assert (train.optimizer, train.weight_decay, train.schedule, config.seed) == ("adam", 0, "timm", 42)
    assert config.data.augment.recipe == ("simple" if fgvc else "resize")
    assert (config.model.name, config.model.input_size) == ("vit_base_patch16_224", 224)


def test_overrides_replace_values_and_the_resolved_file_reads_back(tmp_path: Path) -> None:
    config = classification(FOLDER / "vtab_dtd.yaml", ["train.lr=1e-4", "data.few_shot=4", "selection.preset=official"])
    assert (config.train.lr, config.data.few_shot, config.train.batch_size) == (1e-4, 4, 16)
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert classification(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(("override", "text"), [
    ("train.labelsmoothing=0.1", "unknown key 'train.labelsmoothing', did you mean 'train.label_smoothing'?"),
    ("cutmix=1", "unknown key 'cutmix', did you mean 'train.cutmix'?"),
    ("data.augment.receipt=timm", "did you mean 'data.augment.recipe'?"),
    ("qqqq=1", "unknown key 'qqqq'; see docs/settings.md for all keys"),
    ("selection.loss=triplet", "selection.loss: input should be 'supcon' or 'cross_entropy', got 'triplet'"),
    ("train.optimizer=adagrad", "train.optimizer: input should be 'adamw', 'adam' or 'sgd', got 'adagrad'"),
    ("data.few_shot=0", "data.few_shot: input should be greater than or equal to 1, got 0"),
    ("data.augment.rand_augment=strong", "data.augment.rand_augment: string should match pattern"),
    ("train.lr", "expected key=value, got 'train.lr'"),
])
def test_wrong_settings_are_explained_with_the_nearest_key(override: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        classification(None, [override])
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_every_field_is_described_and_nothing_can_be_changed() -> None:
    def undescribed(page: type[BaseModel]) -> list[str]:
        found = [name for name, field in page.model_fields.items() if not field.description]
        parts = [field.annotation for field in page.model_fields.values()]
        own = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        return found + [name for part in own for name in undescribed(part)]

    for task in PAGES:
        undescribed_anywhere = [name for method in OPTIONS for name in undescribed(page_of(task, method))]
        assert undescribed_anywhere == []
    known = set(known_keys(page_of("classification")))
    assert {"train.ema", "selection.k", "data.augment.recipe", "selection.temperature"} <= known
    with pytest.raises(ValueError, match="frozen"):
        classification(None).train.lr = 1  # type: ignore[misc]


def test_settings_and_data_sets_load_without_torch() -> None:
    code = ("import sys, gps_seg.config, gps_seg.runs.old_settings, gps_seg.tasks.classification.catalog, "
            "gps_seg.tasks.classification.shifted; "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


# Tensors


def items(count: int = 3) -> list[Item]:
    chance = np.random.default_rng(0)
    return [Item(chance.integers(0, 255, (40, 60, 3), dtype=np.uint8), number % 2, str(number)) for number in range(count)]


def dataset(recipe: str, *, training: bool = True, two_views: bool = False, seed: int = 0, **more: Any) -> ClassDataset:
    augment = ClassAugmentConfig.model_validate({"recipe": recipe, **more})
    return ClassDataset(items(), input_size=32, mean=GREY, std=GREY, augment=augment, training=training, two_views=two_views,
                        seed=seed)


@pytest.mark.parametrize("recipe", ["resize", "simple", "timm"])
def test_every_recipe_gives_normalised_tensors_that_a_loader_batches(recipe: str) -> None:
    batch = next(iter(torch.utils.data.DataLoader(dataset(recipe), batch_size=3, collate_fn=collate)))
    images, labels = batch.image, batch.target
    assert batch.ids == ("0", "1", "2")
    assert images.shape == (3, 3, 32, 32) and images.dtype == torch.float32 and labels.tolist() == [0, 1, 0]
    assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1


@pytest.mark.parametrize("recipe", ["simple", "timm"])
@pytest.mark.parametrize("two_views", [False, True])
def test_augmentation_depends_on_seed_epoch_and_index_alone(recipe: str, two_views: bool) -> None:
    one, other = dataset(recipe, two_views=two_views), dataset(recipe, two_views=two_views)
    first = [one[index].image for index in (0, 1, 2)]
    random.seed(5)
    torch.manual_seed(5)
    np.random.seed(5)
    assert all(torch.equal(first[index], other[index].image) for index in (2, 0, 1))
    other.set_epoch(1)
    assert not torch.equal(first[0], other[0].image)
    assert not torch.equal(first[0], dataset(recipe, two_views=two_views, seed=1)[0].image)


def test_augmenting_leaves_the_global_generators_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    for between in (lambda: None, lambda: dataset("timm")[0], lambda: dataset("simple", two_views=True)[1]):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        between()
        drawn = draw()
        assert drawn == (0.13436424411240122, 0.417022004702574, pytest.approx(0.7576315999031067))


def test_two_views_differ_from_each_other_whatever_the_recipe() -> None:
    for recipe in ("resize", "simple", "timm"):
        sample = dataset(recipe, two_views=True)[1]
        views, label = sample.image, sample.label
        assert views.shape == (2, 3, 32, 32) and label == 1 and not torch.equal(views[0], views[1])


def test_views_are_jittered_or_grey_as_often_as_published() -> None:
    image = Item(np.full((32, 32, 3), (200, 100, 50), np.uint8), 0, "0")
    data = ClassDataset([image] * 200, input_size=8, mean=(0, 0, 0), std=(1, 1, 1), augment=ClassAugmentConfig(), training=True,
                        two_views=True)
    colors = [view[:, 4, 4] for index in range(200) for view in data[index].image]
    grey = sum(bool((color == color[0]).all()) for color in colors) / 400
    same = sum(color.tolist() == [200, 100, 50] for color in colors) / 400
    assert 0.13 < grey < 0.27 and 0.1 < same < 0.22  # 0.2, and 0.2 * 0.8


def test_the_resize_recipe_is_the_same_in_training_and_testing() -> None:
    train, test = dataset("resize"), dataset("resize", training=False)
    assert all(torch.equal(train[index].image, test[index].image) for index in range(3))


@pytest.mark.parametrize("size", [(60, 40), (41, 97), (8, 8), (31, 500)])
def test_the_test_cut_is_timms_own(size: tuple[int, int]) -> None:
    from timm.data import create_transform

    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    theirs = create_transform(32, is_training=False, interpolation="bicubic", crop_pct=0.9, mean=(0, 0, 0), std=(1, 1, 1))(image)
    ours = np.asarray(eval_transform(ClassAugmentConfig(recipe="simple"), 32)(image)).transpose(2, 0, 1)
    assert np.abs(ours - np.asarray(theirs) * 255).max() < 0.01


def test_flips_can_be_switched_off_for_digits() -> None:
    ramp = Item(np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1)), 0, "0")
    for two_views in (False, True):
        augment = ClassAugmentConfig(recipe="simple", horizontal_flip=0, min_scale=0.5)
        data = ClassDataset([ramp] * 20, input_size=16, mean=GREY, std=GREY, augment=augment, training=True, two_views=two_views)
        views = [view for index in range(20) for view in data[index].image.reshape(-1, 3, 16, 16)]
        assert all(view[..., -1].mean() >= view[..., 0].mean() for view in views)


def test_grey_digits_and_files_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (30, 20), 128).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    files = [Item(tmp_path / name, 1, name) for name in ("a.png", "b.png")]
    sources = [*load_classification("digits").train[:2], *files]
    data = ClassDataset(sources, input_size=224, mean=GREY, std=GREY, augment=ClassAugmentConfig(recipe="resize"), training=True)
    assert len(data) == 4 and all(data[index].image.shape == (3, 224, 224) for index in range(3))
    with pytest.raises(DataError, match=r"b.png: expected a JPEG"):
        data[3]


def test_a_policy_that_timm_does_not_know_is_one_line() -> None:
    with pytest.raises(ConfigError, match="data.augment.rand_augment: timm cannot read 'rand-m9-q3'"):
        dataset("timm", rand_augment="rand-m9-q3")
