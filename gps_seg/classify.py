"""``gps-seg classify``: the classification benchmarks through the same selection core and training loop.

``data.protocol=tune`` trains on the train part and keeps the best step on the validation part; ``final`` trains on both, takes
the last step, and reads the test part once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gps_seg import checkpoint
from gps_seg.attach import Attached, attach
from gps_seg.class_config import ClassConfig
from gps_seg.config import TrainConfig, dump_config
from gps_seg.data.class_dataset import ClassDataset
from gps_seg.data.class_items import ClassSplits, Item
from gps_seg.data.classes import load_classification
from gps_seg.data.dataset import EpochBatches
from gps_seg.engine import FitResult, autocast, fit, make_accelerator, resolve_device, resolve_precision, training_mode
from gps_seg.errors import ConfigError, DataError
from gps_seg.methods import METHODS
from gps_seg.models.backbones import load_backbone, normalisation
from gps_seg.provenance import peak_memory, surroundings
from gps_seg.recipes import CONFIG_FILE, RESULT_FILE, SELECTION_FILE, describe_counts
from gps_seg.runlog import RunLog
from gps_seg.selection import Selection, counts, data_free_scores, gradient_scores
from gps_seg.statistics import mean_interval
from gps_seg.tasks.classification import Classification, Labelled, collate

Say = Callable[[str], None]


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


def prepare(config: ClassConfig) -> Bench:
    """Load data and model.

    Raises:
        DataError, ConfigError, CheckpointError: what is wrong, in one line.
    """
    device = resolve_device(config.device)
    data, model, train = config.data, config.model, config.train
    splits = load_classification(data.name, data.root, protocol=data.protocol, few_shot=data.few_shot, seed=data.split_seed,
                                 check_counts=data.check_counts)
    classes = len(splits.class_names)
    backbone = load_backbone(model.name, classes=classes, checkpoint=model.checkpoint, input_size=model.input_size,
                             drop_path=model.drop_path, seed=train.seed)
    task = Classification(classes, config.selection_loss.name, config.selection_loss.temperature, train.label_smoothing,
                          train.mixup, train.cutmix, train.seed)
    return Bench(config, backbone.to(device), splits, task, device, resolve_precision(train.precision, device))


def make_selection(bench: Bench, say: Say = print) -> Selection:
    """The configured method's selection; for gps one pass of two views over the training part, in fp32."""
    config = bench.config.selection

    def loss(model: Any, batch: Labelled) -> Tensor:
        return bench.task.selection_loss(model, batch.to(bench.device))

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        if config.score in ("magnitude", "random"):
            return data_free_scores(bench.model, names, score=config.score, seed=bench.config.train.seed)
        items = bench.splits.train[: config.max_images]
        say(f"selection pass: {len(items)} training images, two views each, {bench.config.selection_loss.name}")
        dataset = bench.dataset(items, training=True, two_views=True)
        order = EpochBatches(len(items), config.batch_size, bench.config.train.seed, shuffle=True)
        loader = DataLoader(dataset, batch_sampler=order, collate_fn=collate, num_workers=bench.config.data.workers)
        training_mode(bench.model)
        return gradient_scores(bench.model, names, tqdm(loader, desc="select", disable=not sys.stderr.isatty()), loss,
                               score=config.score)

    return METHODS[bench.config.method](bench.model, config, scores)


def train_classifier(config: ClassConfig, out: Path, *, say: Say = print) -> dict[str, Any]:
    """Select, fine-tune, score; leaves a run folder. Returns the document in ``result.json``.

    Raises:
        ConfigError: ``out`` is not empty.
        DataError: an image is unreadable, or the data set is not what it should be.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another --out")
    began = time.perf_counter()
    bench = prepare(config)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(out / CONFIG_FILE, dump_config(config).encode())
    selection = make_selection(bench, say)
    selection_s = time.perf_counter() - began
    checkpoint.save_selection(out / SELECTION_FILE, selection)
    sizes = counts(selection, bench.model)
    say(describe_counts(config.method, sizes))
    attached = attach(bench.model, selection)
    fitted = _fit(bench, attached, out, say)
    description = {"method": config.method, "data": config.data.name, "base_model_name_or_path": config.model.name,
                   "model": {}, "threshold": 0.5, "classes": list(bench.splits.class_names)}
    checkpoint.save_delta(out, attached, description)
    tested = bench.splits.test if config.data.protocol == "final" else bench.splits.val
    document = report(tested, predict_items(bench, tested), bench.splits.class_names)
    document["part"] = "test" if config.data.protocol == "final" else "validation"
    document["run"] = {
        "method": config.method, "seed": config.train.seed, "steps": fitted.steps, "best_step": fitted.best_step,
        "trainable": dict(sizes), "step_s": fitted.seconds, "selection_s": selection_s,
        "total_s": time.perf_counter() - began, "peak_memory_bytes": peak_memory(bench.device),
        **surroundings(bench.device, bench.precision),
    }
    document["settings"] = config.model_dump(mode="json")
    checkpoint.write_json(out / RESULT_FILE, document)
    say(headline(document))
    return document


def _fit(bench: Bench, attached: Attached, out: Path, say: Say) -> FitResult:
    items, train = bench.splits.train, bench.config.train
    settings = engine_settings(bench.config)
    dataset = bench.dataset(items, training=True)
    sampler = EpochBatches(len(items), train.batch_size, train.seed, shuffle=True)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=bench.config.data.workers)
    log = RunLog(out, lambda _values, _step: None, say=say, shows_progress=sys.stderr.isatty())

    def validate(_model: nn.Module) -> float:
        predicted = predict_items(bench, bench.splits.val)
        return float(np.mean([label == item.label for label, item in zip(predicted, bench.splits.val, strict=True)]))

    accelerator = make_accelerator(bench.device, bench.precision)
    return fit(bench.model, attached, bench.task, loader, validate if bench.splits.val else None, config=settings,
               accelerator=accelerator, log=log)


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


def predict_items(bench: Bench, items: Sequence[Item]) -> list[int]:
    """The predicted class of each item."""
    bench.model.eval()
    loader = DataLoader(bench.dataset(items, training=False), batch_size=bench.config.train.batch_size, collate_fn=collate)
    found: list[int] = []
    for batch in loader:
        with torch.no_grad(), autocast(bench.device, bench.precision):
            found += bench.task.predict(bench.model, batch.image.to(bench.device)).argmax(1).tolist()
    return found


def report(items: Sequence[Item], predicted: Sequence[int], class_names: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its bootstrap interval, the mean over classes, and one row an image.

    Raises:
        DataError: no image.
    """
    if not items:
        raise DataError("expected images to score, got none")
    labels, found = np.array([item.label for item in items]), np.array(predicted)
    right = labels == found
    by_class = {name: float(right[labels == index].mean()) for index, name in enumerate(class_names) if (labels == index).any()}
    return {"n": len(items), "accuracy": float(right.mean()), "interval": list(mean_interval(right)),
            "class_mean_accuracy": float(np.mean(list(by_class.values()))), "by_class": by_class,
            "images": [{"id": item.id, "label": item.label, "predicted": int(one)}
                       for item, one in zip(items, predicted, strict=True)]}


def headline(document: Mapping[str, Any]) -> str:
    """One line."""
    low, high = document["interval"]
    return (f"accuracy {document['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), mean over classes "
            f"{document['class_mean_accuracy']:.4f} ({document['part']}, {document['n']} images)")
