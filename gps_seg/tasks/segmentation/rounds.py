"""Simulated prompts of a batch, given to a SAM: a box, or clicks over several rounds that reuse one embedding.

Each round of clicks decodes with all clicks so far and with the logits of the round before as mask input, detached. An image
without a polyp has no box and no first click, and is answered as without a prompt; a false region in that answer is clicked in
the rounds that follow. Images do not see each other: the answer to one is the same in every batch.

In training the mean over rounds begins with the first click. A round without a prompt is not among them: the steps without a
prompt train that answer, in the share that the settings leave them, and no later round reads it, as the first click has no mask.

What is random depends on seed, step and the image's id alone, not on the process or the piece of a step it is in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gps_seg.config import SegmentationEvaluateConfig, SegmentationTrainConfig
from gps_seg.models.decoder import SamOutput
from gps_seg.models.sam import Rounds, SamModel
from gps_seg.tasks.segmentation.dataset import MaskBatch
from gps_seg.tasks.segmentation.native import resize
from gps_seg.tasks.segmentation.prompts import Box, Click, Mask, drawn_click, jittered_box, kind_at, next_click


def training_rounds(batch: MaskBatch, config: SegmentationTrainConfig, seed: int, step: int) -> Rounds | None:
    """The prompts of a training step, of one kind for all images; None for no prompt."""
    kind = kind_at(step, seed, box=config.box_probability, clicks=config.click_probability)
    if kind == "none":
        return None
    drawn = [(target, random.Random(f"{seed}/{step}/{id_}")) for target, id_ in zip(targets(batch), batch.ids, strict=True)]
    if kind == "box":
        return partial(decode_boxes, boxes=[jittered_box(target, config.box_jitter, chance) for target, chance in drawn])
    first = [drawn_click(target, chance) for target, chance in drawn]
    return ClickRounds([target for target, _ in drawn], first, config.click_rounds)


def evaluation_rounds(batch: MaskBatch, config: SegmentationEvaluateConfig, clicks: int | None = None) -> Rounds | None:
    """The prompts of ``evaluate.prompt``, without randomness; None for none.

    Args:
        clicks: rounds of clicks; default: ``evaluate.clicks``.
    """
    if config.prompt == "none":
        return None
    truths = targets(batch)
    if config.prompt == "box":
        boxes = batch.boxes.tolist()
        return partial(decode_boxes, boxes=[box if truth.any() else None for box, truth in zip(boxes, truths, strict=True)])
    first = [next_click(truth & False, truth) for truth in truths]
    return ClickRounds(truths, first, clicks or config.clicks, math.log(config.threshold / (1 - config.threshold)))


def targets(batch: MaskBatch) -> list[Mask]:
    """Each image's true mask without the padding, bool (h, w) in input pixels."""
    found = batch.target[:, 0].bool().cpu().numpy()
    return [mask[: size[0], : size[1]] for mask, size in zip(found, (one.content_size for one in batch.geometry), strict=True)]


def decode_boxes(model: SamModel, embedding: Tensor, *, boxes: Sequence[Box | None]) -> SamOutput:
    """One answer an image, to its box where it has one."""
    asked, rest = _split(boxes)
    parts = []
    if asked:
        corners = torch.tensor([boxes[row] for row in asked], dtype=torch.float, device=embedding.device)
        parts.append((asked, model.decode(embedding[asked], boxes=corners)))
    if rest:
        parts.append((rest, model.decode(embedding[rest])))
    return _in_order(parts)


@dataclass(frozen=True)
class ClickRounds:
    """See this module. Called, it answers for ``rounds`` x B images: those of the first round, then of the second, and so on.

    Attributes:
        truths: of each image, bool (h, w) in input pixels.
        first: each image's first click.
        cut: logit above which a pixel is polyp.
    """

    truths: Sequence[Mask]
    first: Sequence[Click | None]
    rounds: int
    cut: float = 0.0

    def __call__(self, model: SamModel, embedding: Tensor) -> SamOutput:
        """Decode, find each answer's largest error, click on it, decode again."""
        clicks = [[click] for click in self.first]
        answers = [_decode_clicks(model, embedding, clicks, None)]
        for _ in range(1, self.rounds):
            for truth, own, predicted in zip(self.truths, clicks, self._masks(model, answers[-1]), strict=True):
                own.append(next_click(predicted, truth, own))
            answers.append(_decode_clicks(model, embedding, clicks, answers[-1]))
        return SamOutput(*(torch.cat(parts) for parts in zip(*answers, strict=True)))

    def _masks(self, model: SamModel, answer: SamOutput) -> list[Mask]:
        """Each image's answer as a mask, as large as its truth."""
        size = (model.spec.input_size, model.spec.input_size)
        found = (resize(answer.logits.detach(), size)[:, 0] > self.cut).cpu().numpy()
        return [mask[: truth.shape[0], : truth.shape[1]] for mask, truth in zip(found, self.truths, strict=True)]


def _decode_clicks(
    model: SamModel, embedding: Tensor, clicks: Sequence[Sequence[Click | None]], before: SamOutput | None
) -> SamOutput:
    """A round: decode the images that got a click, keep the answer ``before`` of the others, or begin with one without prompt."""
    asked, rest = _split([own[-1] for own in clicks])
    parts = []
    if asked:
        masks = None if before is None else before.logits[asked].detach()
        points = _points([clicks[row] for row in asked], embedding.device)
        parts.append((asked, model.decode(embedding[asked], points=points, masks=masks)))
    if rest:
        kept = model.decode(embedding[rest]) if before is None else SamOutput(before.logits[rest], before.quality[rest])
        parts.append((rest, kept))
    return _in_order(parts)


def answer_clicks(model: SamModel, embedding: Tensor, clicks: Sequence[Click], before: SamOutput | None = None) -> SamOutput:
    """The answer to one picture (1, C, g, g) after a person's clicks, a round each; ``before`` is what the first one corrects."""
    answer = before
    for number in range(1, len(clicks) + 1):
        answer = _decode_clicks(model, embedding, [clicks[:number]], answer)
    if answer is None:
        raise ValueError("no click")
    return answer


def _points(clicks: Sequence[Sequence[Click | None]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates float (n, N, 2) and labels (n, N) of N rounds; a round without a click has the label -1."""
    places = [[(click.x, click.y) if click else (0.0, 0.0) for click in own] for own in clicks]
    labels = [[click.label if click else -1 for click in own] for own in clicks]
    return torch.tensor(places, dtype=torch.float, device=device), torch.tensor(labels, device=device)


def _split(prompts: Sequence[object]) -> tuple[list[int], list[int]]:
    """Numbers of the images with and without a prompt."""
    return ([row for row, prompt in enumerate(prompts) if prompt is not None],
            [row for row, prompt in enumerate(prompts) if prompt is None])


def _in_order(parts: Sequence[tuple[list[int], SamOutput]]) -> SamOutput:
    """The answers of parts of a batch, as the images stand in it."""
    rows = torch.tensor([row for part, _ in parts for row in part], device=parts[0][1].logits.device)
    order = rows.argsort()
    return SamOutput(*(torch.cat(values)[order] for values in zip(*(answer for _, answer in parts), strict=True)))
