"""Image classification: one label an image."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gps_seg.config import BackboneConfig, ClassDataConfig, ClassEvaluateConfig, ClassGPSConfig, ClassTrainConfig, PassOptions
from gps_seg.data.batches import Batch, EpochBatches
from gps_seg.data.seeding import seeded
from gps_seg.data.splits import Splits, spread
from gps_seg.errors import ConfigError, DataError
from gps_seg.metrics.statistics import mean_interval
from gps_seg.models.classifiers import load_backbone, normalisation, stretches
from gps_seg.tasks.classification.catalog import RANGE, find_items, load_classification
from gps_seg.tasks.classification.dataset import ClassDataset, collate
from gps_seg.tasks.classification.items import Item, check_copies
from gps_seg.tasks.classification.losses import features_of, supervised_contrastive
from gps_seg.tasks.classification.shifted_scores import find_robustness, score_robustness
from gps_seg.tasks.task import Change, Document, Predict

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Guess:
    """What was predicted of an image: class numbers, and the predicted one's probability."""

    id: str
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Classification:
    """See :class:`gps_seg.tasks.task.Task`. A prediction is the probability of each class, float32 (classes,).

    Attributes:
        seed: of the head's first values; with the step it decides what is mixed and dropped; with epoch and index an image's
            augmentation.
    """

    backbone: BackboneConfig = BackboneConfig()
    data: ClassDataConfig = ClassDataConfig()
    train: ClassTrainConfig = ClassTrainConfig()
    evaluate: ClassEvaluateConfig = ClassEvaluateConfig()
    seed: int = 0

    @property
    def score_name(self) -> str:
        """What the validation measures."""
        return "accuracy"

    # Data and model

    def splits(self) -> Splits[Item]:
        """The configured data set in its parts; the inner part at most ``data.inner_images``, spread evenly over its order."""
        data = self.data
        whole = load_classification(data.name, data.root, protocol=data.protocol, few_shot=data.few_shot, seed=data.split_seed,
                                    check_counts=data.check_counts, by_the_few=data.few_shot_validation == "few")
        return Splits(whole.train, spread(whole.inner, data.inner_images), spread(whole.test, data.test_images),
                      whole.class_names)

    def check(self, splits: Splits[Item]) -> list[str]:
        """Copies of an image in what trains and what is scored, of a user's folder: published sets are what they are."""
        if self.data.name.partition(RANGE)[0] == "folder":
            check_copies("folder", splits)
        if self.data.robustness:
            find_robustness(self.data)  # before hours of training, or of tuning for it
        return []

    def items(self, data: str | None, split: str, classes: Sequence[str]) -> list[Item]:
        """One part of the task's own data, of a known set or of a folder of class folders, with the same classes."""
        return find_items(data, split, self.data, classes)

    def files(self, item: Item) -> tuple[Path, ...]:
        """The image, if it is a file."""
        return (item.source,) if isinstance(item.source, Path) else ()

    def model(self, classes: Sequence[str]) -> nn.Module:
        """The pretrained encoder with a fresh head from the seed."""
        backbone = self.backbone
        return load_backbone(backbone.name, classes=len(classes), checkpoint=backbone.checkpoint,
                             input_size=backbone.input_size, drop_path=backbone.drop_path, seed=self.seed)

    def facts(self, model: Any) -> Document:
        """Model and normalisation."""
        mean, std = normalisation(model)
        return {"model": self.backbone.model_dump(mode="json"), "normalisation": {"mean": mean, "std": std}}

    # Batches

    def dataset(self, model: Any, items: Sequence[Item], *, training: bool, change: Change | None = None) -> ClassDataset:
        """Images at the model's input size, augmented in training, cut otherwise."""
        return self._dataset(model, items, training=training, change=change)

    def _dataset(self, model: Any, items: Sequence[Item], **options: Any) -> ClassDataset:
        mean, std = normalisation(model)
        return ClassDataset(items, input_size=self.backbone.input_size, mean=mean, std=std, stretch=stretches(model),
                            augment=self.data.augment, seed=self.seed, **options)

    def unlabelled(self, model: Any, paths: Sequence[Path]) -> ClassDataset:
        """Image files to classify."""
        return self._dataset(model, [Item(path, -1, path.stem) for path in paths], training=False)

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Stack images of one size."""
        return collate(samples)

    def selection_loader(self, model: nn.Module, items: Sequence[Item], options: PassOptions) -> DataLoader[Any]:
        """Two views of each image for GPS, one for other methods, shuffled, so that a batch holds several classes."""
        dataset = self._dataset(model, items, training=True, two_views=isinstance(options, ClassGPSConfig))
        sampler = EpochBatches(len(items), options.batch_size, self.seed, shuffle=True)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=self.data.workers)

    # Arithmetic

    def selection_loss(self, model: nn.Module, batch: Batch, options: PassOptions) -> Tensor:
        """Contrastive on the views' features, or cross-entropy through the head, all that methods but GPS know."""
        if not isinstance(options, ClassGPSConfig):
            return F.cross_entropy(model(batch.image).float(), batch.target)
        flat, labels = batch.image.flatten(0, 1), batch.target.repeat_interleave(batch.image.shape[1])
        if options.loss == "cross_entropy":
            return F.cross_entropy(model(flat).float(), labels)
        return supervised_contrastive(features_of(model, flat), labels, options.temperature)

    def loss(self, model: nn.Module, batch: Batch, step: int = 0) -> Tensor:
        """Cross-entropy of a step, after mixing if that is on."""
        train = self.train
        mixes = train.mixup or train.cutmix
        image, target = self._mixed(batch, step, _classes(model)) if mixes else (batch.image, batch.target)
        with seeded(random.Random(f"drop {self.seed}/{step}").randrange(2**32), batch.image.device):
            logits = model(image).float()
        return F.cross_entropy(logits, target, label_smoothing=0.0 if mixes else train.label_smoothing)

    def _mixed(self, batch: Batch, step: int, classes: int) -> tuple[Tensor, Tensor]:
        """timm's mixup and cutmix, drawn from (seed, step): images and probabilities (B, classes)."""
        from timm.data.mixup import Mixup

        if len(batch.image) % 2:
            raise ConfigError(f"train.batch_size: mixup and cutmix need an even number of images, got {len(batch.image)}")
        mix = Mixup(self.train.mixup, self.train.cutmix, label_smoothing=self.train.label_smoothing, num_classes=classes)
        before = np.random.get_state()
        np.random.seed(random.Random(f"mix {self.seed}/{step}").randrange(2**32))  # timm draws from numpy's global generator
        try:
            image, target = mix(batch.image.clone(), batch.target)
        finally:
            np.random.set_state(before)
        return image, target

    def predict(self, model: nn.Module, batch: Batch) -> list[Probabilities]:
        """Probability of each class."""
        return list(model(batch.image).float().softmax(1).cpu().numpy())

    def examine(self, model: nn.Module, batch: Batch) -> list[Probabilities]:
        """The predictions."""
        return self.predict(model, batch)

    # Judgement

    def score(self, item: Item, prediction: Probabilities, blocks: Sequence[str] = ()) -> Guess:
        """The likeliest class against the label."""
        best = int(prediction.argmax())
        return Guess(item.id, item.label, best, float(prediction[best]))

    def mean_score(self, scores: Sequence[Guess]) -> float:
        """Accuracy, 0..1."""
        return float(np.mean([one.label == one.predicted for one in scores]))

    def protocol(self, model: Any, data: str | None, split: str) -> Document:
        """Data, part, model and size."""
        return {"data": Path(data).name if data else self.data.name, "split": split, "model": self.backbone.name,
                "input_size": self.backbone.input_size, "augment": self.data.augment.recipe}

    def report(
        self, scores: Sequence[Guess], *, settings: Mapping[str, Any], classes: Sequence[str],
        groups: Sequence[str] | None = None,
    ) -> Document:
        """Accuracy with its bootstrap interval, the mean over classes, and one row an image.

        Raises:
            DataError: no image.
        """
        if not scores:
            raise DataError("expected images to score, got none")
        labels = np.array([one.label for one in scores])
        right = labels == np.array([one.predicted for one in scores])
        by_class = {name: float(right[labels == index].mean()) for index, name in enumerate(classes) if (labels == index).any()}
        return {"n": len(scores), "accuracy": float(right.mean()), "interval": list(mean_interval(right, groups=groups)),
                "class_mean_accuracy": float(np.mean(list(by_class.values()))), "by_class": by_class,
                "part": {"inner": "validation"}.get(settings["split"], settings["split"]), "settings": dict(settings),
                "images": [{"id": one.id, "label": one.label, "predicted": one.predicted} for one in scores]}

    def table(self, document: Document) -> str:
        """The headline: there is one number."""
        return self.headline(document)

    def headline(self, document: Document) -> str:
        """Accuracy with its interval."""
        low, high = document["interval"]
        return (f"accuracy {document['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), mean over classes "
                f"{document['class_mean_accuracy']:.4f} ({document['part']}, {document['n']} images)")

    def finish(self, items: Sequence[Item], scores: Sequence[Guess], predict: Predict, folder: Path) -> Document:
        """Scores on the shifted test sets that the settings name, once the test part is read."""
        if not self.data.robustness or self.data.protocol == "tune":
            return {}
        return {"robustness": score_robustness(self.data, predict)}


def _classes(model: nn.Module) -> int:
    """Outputs of the head, also of a model that several processes train."""
    return int(getattr(model, "module", model).num_classes)  # type: ignore[arg-type]
