"""Promptable segmentation with a SAM: one foreground class, one mask an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gps_seg.config import (
    MOST_CLICKS,
    GPSConfig,
    PolypDataConfig,
    SamConfig,
    SegmentationEvaluateConfig,
    SegmentationTrainConfig,
)
from gps_seg.data.images import read_mask
from gps_seg.data.maps import Prediction
from gps_seg.data.splits import Splits
from gps_seg.data.transforms import augmentation
from gps_seg.metrics.clicks import click_scores
from gps_seg.metrics.masks import ImageScore, aggregate, score_image
from gps_seg.metrics.measures import BlockScore, row, score_blocks
from gps_seg.metrics.presence import evidence
from gps_seg.metrics.report import report
from gps_seg.metrics.surface import TOLERANCE
from gps_seg.metrics.tables import headline, table, write_rows
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import load_sam, randomise_positions, weights_note
from gps_seg.tasks.segmentation.audit import check_pairs, say
from gps_seg.tasks.segmentation.centers import center_of
from gps_seg.tasks.segmentation.corruptions import with_artefacts
from gps_seg.tasks.segmentation.dataset import MaskBatch, PolypDataset, UnlabelledImages, collate
from gps_seg.tasks.segmentation.flips import averaged
from gps_seg.tasks.segmentation.losses import Loss, make_loss, total
from gps_seg.tasks.segmentation.native import Clicked, Map, resize, to_native
from gps_seg.tasks.segmentation.negatives import describe_negatives, load_negatives, with_negatives
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.parts import find_pairs, is_whole, load_splits
from gps_seg.tasks.segmentation.pictures import draw_cases
from gps_seg.tasks.segmentation.pretraining import base_note, data_warnings
from gps_seg.tasks.segmentation.quality import Answer, qualities, quality_loss
from gps_seg.tasks.segmentation.rounds import evaluation_rounds, training_rounds
from gps_seg.tasks.segmentation.sets import known_name, label, number_warning, overlap_warning, sequence_warning, set_pairs
from gps_seg.tasks.task import Change, Document, Predict


@dataclass(frozen=True)
class Segmentation:
    """See :class:`gps_seg.tasks.task.Task`. A prediction is the foreground probability, float32 (H, W), at native size.

    Attributes:
        seed: with the step it decides which steps see which prompts; with epoch and index an image's augmentation.
    """

    sam: SamConfig = SamConfig()
    data: PolypDataConfig = PolypDataConfig()
    train: SegmentationTrainConfig = SegmentationTrainConfig()
    evaluate: SegmentationEvaluateConfig = SegmentationEvaluateConfig()
    seed: int = 0

    @property
    def score_name(self) -> str:
        """What the inner validation measures."""
        return "dice"

    @property
    def _own(self) -> str:
        """The task's own data set, as it would be named in ``evaluate --data``."""
        return str(self.data.root) if self.data.name == "folder" else self.data.name

    # Data and model

    def splits(self) -> Splits[Pair]:
        """The configured data set in its parts, and the frames without a polyp that are mixed in."""
        return replace(load_splits(self.data), negatives=load_negatives(self.data))

    def check(self, splits: Splits[Pair]) -> list[str]:
        """What is known of the set, near-identical images on both sides of a split, a protocol whose scores mean
        nothing, and weights of unknown origin."""
        own, root = self._own, None if self.data.name == "folder" else self.data.root
        found = [weights_note(self.sam.name, self.sam.checkpoint), sequence_warning(own), overlap_warning(own)]
        if known_name(own):
            found.append(number_warning(own, len(set_pairs(own, root))))
        if self.data.test_set is not None and known_name(self.data.test_set):
            found.append(number_warning(self.data.test_set, len(set_pairs(self.data.test_set))))
        if self.data.protocol == "released":
            found.append("data.protocol=released selects and trains on the test images; its scores say nothing about new images")
        else:
            found += say(check_pairs(with_negatives(splits), near_duplicates=self.data.near_duplicates))
        return [text for text in found if text]

    def items(self, data: str | None, split: str, classes: Sequence[str] = ()) -> list[Pair]:
        """Pairs of a known set, of a folder, or of one part of the task's own data."""
        return find_pairs(data, split, self.data)

    def files(self, item: Pair) -> tuple[Path, ...]:
        """Image and mask."""
        return item.image, item.mask

    def model(self, classes: Sequence[str] = ()) -> SamModel:
        """The pretrained SAM."""
        sam = self.sam
        model = load_sam(sam.name, checkpoint=sam.checkpoint, input_size=sam.input_size, resize=sam.resize,
                         attention=sam.attention, encoder=sam.encoder)
        if sam.positions == "random":
            randomise_positions(model, self.seed)
        model.recompute = self.train.recompute
        model.apart_patterns = model.quality_patterns if self.train.quality else ()
        return model

    def facts(self, model: Any) -> Document:
        """Model, normalisation and operating point."""
        spec = model.spec
        return {"model": self.sam.model_dump(mode="json") | {"input_size": spec.input_size, "resize": spec.resize},
                "normalisation": spec.normalisation, "threshold": self.evaluate.threshold}

    # Batches

    def dataset(self, model: Any, items: Sequence[Pair], *, training: bool, change: Change | None = None) -> PolypDataset:
        """Images and masks at the model's input size; kept in memory in training, if ``data.cache`` says so."""
        spec = model.spec
        wanted = self.data.augment
        augment = with_artefacts(augmentation(wanted), wanted.artefacts) if training else None
        return PolypDataset(items, input_size=spec.input_size, resize=spec.resize, mean=spec.mean, std=spec.std,
                            stretch=spec.stretch, augment=augment, pasted=wanted.paste if training else 0.0, seed=self.seed,
                            cache=training and self.data.cache, change=change)

    def unlabelled(self, model: Any, paths: Sequence[Path]) -> UnlabelledImages:
        """Image files to segment."""
        return UnlabelledImages(paths, model.spec)

    def collate(self, samples: Sequence[Any]) -> MaskBatch:
        """Stack images of one input size."""
        return collate(samples)

    def selection_loader(self, model: nn.Module, items: Sequence[Pair], options: GPSConfig) -> DataLoader[Any]:
        """The images as they are, in order."""
        return DataLoader(self.dataset(model, items, training=False), batch_size=options.batch_size, collate_fn=collate,
                          num_workers=self.data.workers)

    # Arithmetic

    @cached_property
    def _loss(self) -> Loss:
        return make_loss(self.train.loss)

    def loss(self, model: nn.Module, batch: MaskBatch, step: int = 0) -> Tensor:
        """Scalar training loss at the input's resolution; of a step with clicks, the mean over its rounds."""
        answer = model(batch.image, rounds=training_rounds(batch, self.train, self.seed, step))
        rounds = (len(answer.logits) // len(batch.image), 1, 1, 1)
        logits, target = resize(answer.logits, batch.target.shape[-2:]), batch.target.repeat(rounds)
        valid = batch.valid.repeat(rounds)
        loss = total(self._loss, logits, target, valid)
        if not self.train.quality:
            return loss
        return loss + quality_loss(answer.quality, logits, target, valid, self.evaluate.threshold)

    def selection_loss(self, model: nn.Module, batch: MaskBatch, options: object = None) -> Tensor:
        """The promptless training loss."""
        logits = model(batch.image).logits
        return total(self._loss, resize(logits, batch.target.shape[-2:]), batch.target, batch.valid)

    def predict(self, model: nn.Module, batch: MaskBatch) -> list[Map]:
        """Foreground probability of each image, float32 (H, W) at its native size, after the last of ``evaluate.clicks``; 0 where
        the answer is that there is no polyp.
        """
        return [answer.shown(self._presence) for answer in self._answers(model, batch)]

    def examine(self, model: nn.Module, batch: MaskBatch) -> list[Answer] | list[Clicked]:
        """The probabilities as they are, with their quality by the model's own account; or those after each of 20 clicks."""
        if self.evaluate.prompt != "clicks":
            return self._answers(model, batch)
        logits = model(batch.image, rounds=evaluation_rounds(batch, self.evaluate, MOST_CLICKS)).logits.float().cpu()
        return [Clicked(logits[index :: len(batch.image)], geometry) for index, geometry in enumerate(batch.geometry)]

    def _answers(self, model: nn.Module, batch: MaskBatch) -> list[Answer]:
        count = len(batch.image)
        if self.evaluate.flips:
            found = averaged(model, batch.image, batch.geometry)
        else:
            found = model(batch.image, rounds=evaluation_rounds(batch, self.evaluate))
        logits = found.logits[-count:].float()
        quality = qualities(found.quality[-count:]) if self.train.quality else [None] * count
        return [Answer(to_native(logits[index : index + 1], geometry), quality[index])
                for index, geometry in enumerate(batch.geometry)]

    def promptless(self) -> Segmentation:
        """The task, answering as where nobody knows the truth."""
        return replace(self, evaluate=self.evaluate.model_copy(update={"prompt": "none"}))

    @property
    def _presence(self) -> float | None:
        """Below which quality the answer is none; who prompts has seen a polyp."""
        return self.evaluate.presence if self.evaluate.prompt == "none" else None

    # Judgement

    def score(self, item: Pair, prediction: Map | Answer | Clicked, blocks: Sequence[str] = ()) -> ImageScore:
        """Compare with the mask file at its native size; with ``blocks`` on the probabilities, see ``metrics.measures``."""
        target, cut = read_mask(item.mask), self.evaluate.threshold
        if isinstance(prediction, Clicked):
            return self._score_clicks(item.id, prediction, target, blocks)
        answer = prediction if isinstance(prediction, Answer) else Answer(prediction, None)
        shown = answer.shown(self._presence)
        if not blocks:
            return score_image(item.id, shown > cut, target)
        found = score_blocks(item.id, Prediction(shown), target, blocks, threshold=cut)
        return replace(found, evidence=evidence(answer.probability, cut, answer.quality), center=center_of(item))

    def _score_clicks(self, id_: str, found: Clicked, target: NDArray[np.bool_], blocks: Sequence[str]) -> BlockScore:
        """The score after ``evaluate.clicks``, and what each click gave."""
        cut = self.evaluate.threshold
        clicks = click_scores((found.after(number) > cut for number in range(1, len(found.logits) + 1)), target)
        score = score_blocks(id_, Prediction(found.after(self.evaluate.clicks)), target, blocks, threshold=cut)
        return replace(score, clicks=clicks)

    def mean_score(self, scores: Sequence[ImageScore]) -> float:
        """Mean Dice over images."""
        return float(aggregate(scores)["per_image"]["dice"])

    def protocol(self, model: Any, data: str | None, split: str) -> Document:
        """Threshold, prompt, size, and what the base has or may have seen of the data."""
        spec = model.spec
        whole = is_whole(data, self.data)
        return {
            "data": label(data or self.data.name), "split": "all" if whole else split, "threshold": self.evaluate.threshold,
            "nsd_tolerance_px": TOLERANCE, "prompt": self._prompt,
            **({"flips": True} if self.evaluate.flips else {}),
            "input_size": spec.input_size, "resize": spec.resize, "model": spec.name, "base_note": base_note(spec.name),
            **data_warnings(spec.name, data or self._own, whole=whole), **self._of_negatives(data),
        }

    @property
    def _prompt(self) -> str:
        """For readers: what was simulated from the truth, if anything."""
        clicks = self.evaluate.clicks
        said = {"box": "ground-truth box", "clicks": f"{clicks} click{'s' * (clicks > 1)} simulated from the truth"}
        return said.get(self.evaluate.prompt, "none")

    def _of_negatives(self, data: str | None) -> Document:
        """What answers nothing, which frames without a polyp trained, and whether some of the data's centers did."""
        found: Document = {"presence": self._presence} if self.train.quality else {}
        if self.data.negatives:
            found["negatives_trained_on"] = describe_negatives(self.data)
        if self.data.negative_centers:
            found["trained_centers"] = list(self.data.negative_centers)
        if self.data.negative_centers and known_name(data or self._own) == "polypgen":
            found["center_warning"] = ("frames without a polyp of some of these centers trained the run or chose its presence "
                                       "threshold: the numbers of the others stand apart, under unseen_centers")
        return found

    def report(
        self, scores: Sequence[ImageScore], *, settings: Mapping[str, Any], classes: Sequence[str] = (),
        groups: Sequence[str] | None = None,
    ) -> Document:
        """See :mod:`gps_seg.metrics.report`."""
        return report(scores, settings=settings, groups=groups)

    def table(self, document: Document) -> str:
        """All numbers with their intervals."""
        return table(document)

    def headline(self, document: Document) -> str:
        """The two means."""
        return headline(document)

    def finish(self, items: Sequence[Pair], scores: Sequence[ImageScore], predict: Predict, folder: Path) -> Document:
        """Overlays of the best, median and worst cases, and scores.csv."""
        draw_cases(items, scores, predict, threshold=self.evaluate.threshold, count=self.evaluate.overlays,
                   folder=folder / "overlays")
        write_rows(folder / "scores.csv", [row(score) for score in scores])
        return {}
