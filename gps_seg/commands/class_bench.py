"""What every classification command works with: model, images, task, place and precision; made from settings or from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from gps_seg.class_config import ClassConfig, load_class_config
from gps_seg.commands.train import CONFIG_FILE, RESULT_FILE
from gps_seg.config import TrainConfig
from gps_seg.errors import CheckpointError
from gps_seg.methods.added import insert_modules
from gps_seg.models.classifiers import load_backbone, normalisation
from gps_seg.runs.delta import load_delta
from gps_seg.runs.fit import autocast, resolve_device, resolve_precision
from gps_seg.tasks.classification.catalog import load_classification
from gps_seg.tasks.classification.dataset import ClassDataset
from gps_seg.tasks.classification.items import ClassSplits, Item, check_copies
from gps_seg.tasks.classification.task import Classification, collate
from gps_seg.tasks.segmentation.dataset import EpochBatches


@dataclass(frozen=True)
class Bench:
    """Everything a run works with."""

    config: ClassConfig
    model: nn.Module
    splits: ClassSplits
    task: Classification
    device: torch.device
    precision: str

    def dataset(self, items: Sequence[Item], *, training: bool, two_views: bool = False) -> ClassDataset:
        """Items as the model expects them."""
        mean, std = normalisation(self.model)
        return ClassDataset(items, input_size=self.config.model.input_size, mean=mean, std=std, augment=self.config.data.augment,
                            training=training, two_views=two_views, seed=self.config.train.seed)

    def training_loader(self, items: Sequence[Item], batch_size: int, *, two_views: bool = False) -> DataLoader[Any]:
        """Shuffled, augmented batches; seed, epoch and index alone decide them."""
        sampler = EpochBatches(len(items), batch_size, self.config.train.seed, shuffle=True)
        return DataLoader(self.dataset(items, training=True, two_views=two_views), batch_sampler=sampler, collate_fn=collate,
                          num_workers=self.config.data.workers)


def prepare(config: ClassConfig) -> Bench:
    """Load data and model.

    Raises:
        DataError, ConfigError, CheckpointError: what is wrong, in one line.
    """
    device = resolve_device(config.device)
    model, train = config.model, config.train
    splits = load_splits(config)
    classes = len(splits.class_names)
    backbone = load_backbone(model.name, classes=classes, checkpoint=model.checkpoint, input_size=model.input_size,
                             drop_path=model.drop_path, seed=train.seed)
    task = Classification(classes, config.selection_loss.name, config.selection_loss.temperature, train.label_smoothing,
                          train.mixup, train.cutmix, train.seed)
    return Bench(config, backbone.to(device), splits, task, device, resolve_precision(train.precision, device))


def load_splits(config: ClassConfig) -> ClassSplits:
    """The images of a run. Raises DataError."""
    data = config.data
    splits = load_classification(data.name, data.root, protocol=data.protocol, few_shot=data.few_shot, seed=data.split_seed,
                                 check_counts=data.check_counts)
    if data.name == "folder":  # published sets are what they are, copies and all
        check_copies("folder", splits)
    return splits


def load_run(folder: Path, device: str = "auto") -> Bench:
    """The tuned model of a finished run with its data.

    Raises:
        CheckpointError: the run is not there, has not ended, or its base weights are others now.
        DataError: its data set is not there.
    """
    if not (folder / RESULT_FILE).is_file():
        raise CheckpointError(f"{folder}: expected a finished run of gps-seg classify, found no {RESULT_FILE}")
    bench = prepare(load_class_config(folder / CONFIG_FILE, [f"device={device}"]))
    load_delta(folder, bench.model, insert_modules)
    bench.model.to(bench.device).eval()
    return bench


def engine_settings(config: ClassConfig) -> TrainConfig:
    """The same settings in the words of the training loop: epochs of warm-up and cooldown become parts of the steps."""
    train = config.train
    epochs = train.epochs + train.cooldown_epochs
    return TrainConfig(
        optimizer=train.optimizer, lr=train.lr, epochs=epochs, max_steps=train.max_steps, batch_size=train.batch_size,
        warmup=min(0.99, train.warmup_epochs / epochs), warmup_lr=train.warmup_lr, min_lr=train.min_lr,
        cooldown=train.cooldown_epochs / epochs, weight_decay=train.weight_decay, clip=None, precision=train.precision,
        ema=train.ema, checkpoint_every=1000,
    )


def predict_items(bench: Bench, items: Sequence[Item], among: Sequence[int] | None = None) -> list[int]:
    """The predicted class of each item.

    Args:
        among: class numbers that may be predicted; default: all.
    """
    bench.model.eval()
    loader = DataLoader(bench.dataset(items, training=False), batch_size=bench.config.train.batch_size, collate_fn=collate)
    allowed = torch.arange(bench.task.classes) if among is None else torch.tensor(among)
    found: list[int] = []
    for batch in loader:
        with torch.no_grad(), autocast(bench.device, bench.precision):
            logits = bench.task.predict(bench.model, batch.image.to(bench.device)).cpu()
        found += allowed[logits[:, allowed].argmax(1)].tolist()
    return found


def accuracy(bench: Bench, items: Sequence[Item], among: Sequence[int] | None = None) -> float:
    """Part of the items whose class is predicted, 0..1."""
    predicted = predict_items(bench, items, among)
    return float(np.mean([label == item.label for label, item in zip(predicted, items, strict=True)]))
