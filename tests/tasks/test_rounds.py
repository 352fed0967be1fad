"""Prompts simulated for a batch, and the rounds of clicks over one embedding, with tiny models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gps_seg.config import GPSConfig, SegmentationEvaluateConfig, SegmentationTrainConfig
from gps_seg.core.attach import attach
from gps_seg.data.transforms import Geometry
from gps_seg.methods import METHODS
from gps_seg.models.decoder import SamOutput
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam
from gps_seg.tasks.segmentation.dataset import Fitted, MaskBatch, collate
from gps_seg.tasks.segmentation.losses import make_loss, total
from gps_seg.tasks.segmentation.native import Clicked, resize
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.prompts import next_click
from gps_seg.tasks.segmentation.rounds import ClickRounds, evaluation_rounds, targets, training_rounds
from gps_seg.tasks.segmentation.task import Segmentation

BOX = SegmentationTrainConfig(box_probability=1.0)  # type: ignore[call-arg]
CLICKS = SegmentationTrainConfig(click_probability=1.0)  # type: ignore[call-arg]


def batch(count: int = 4, empty: tuple[int, ...] = (2,)) -> MaskBatch:
    """Phantoms of 48 x 64 pixels in squares of 64; the images ``empty`` hold no polyp."""
    found = []
    for index in range(count):
        pixels, mask = phantom(40 + index, size=(48, 64))
        mask = np.hypot(*(np.mgrid[:48, :64] - np.array([20 + index, 25 + 3 * index])[:, None, None])) < 9 + index
        mask &= index not in empty
        image = np.zeros((3, 64, 64), np.float32)
        image[:, :48] = pixels.transpose(2, 0, 1) / 128.0 - 1
        found.append(Fitted(image, mask, f"p{index}", Geometry((48, 64), (48, 64), 64)))
    return collate(found)


def rows(whole: MaskBatch, chosen: list[int]) -> MaskBatch:
    return replace(whole, **{name: value[chosen] if isinstance(value, Tensor) else tuple(value[row] for row in chosen)
                             for name, value in vars(whole).items()})


@pytest.fixture(params=["tiny", "tiny_lite"])
def model(request: pytest.FixtureRequest) -> SamModel:
    return build_sam(request.param).eval()


def answers(model: SamModel, whole: MaskBatch, config: SegmentationTrainConfig, step: int = 0) -> SamOutput:
    with torch.no_grad():
        found: SamOutput = model(whole.image, rounds=training_rounds(whole, config, 3, step))
    return found


@pytest.mark.parametrize("config", [BOX, CLICKS], ids=["box", "clicks"])
def test_an_image_s_prompts_and_answers_do_not_depend_on_the_images_beside_it(
    model: SamModel, config: SegmentationTrainConfig
) -> None:
    whole = batch()
    together = answers(model, whole, config).logits.unflatten(0, (-1, 4))
    for chosen in ([3, 2, 1, 0], [2], [1, 2], [0]):
        apart = answers(model, rows(whole, chosen), config).logits.unflatten(0, (-1, len(chosen)))
        torch.testing.assert_close(apart, together[:, chosen], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together, answers(model, whole, config, step=1).logits.unflatten(0, (-1, 4)), atol=1e-3)


def test_an_image_without_a_polyp_is_first_answered_as_without_a_prompt(model: SamModel) -> None:
    whole = batch()
    with torch.no_grad():
        plain = model(whole.image).logits
    for config in (BOX, CLICKS):
        first = answers(model, whole, config).logits[:4]
        torch.testing.assert_close(first[2], plain[2], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(first[1], plain[1], atol=1e-3)
    alone = answers(model, rows(whole, [2]), BOX).logits
    torch.testing.assert_close(alone, plain[2:3], rtol=1e-4, atol=1e-5)


def test_rounds_equal_single_decodings_with_the_clicks_and_the_logits_so_far(model: SamModel) -> None:
    whole = batch(2, empty=())
    truths = targets(whole)
    rounds = evaluation_rounds(whole, SegmentationEvaluateConfig(prompt="clicks", clicks=4))  # type: ignore[call-arg]
    with torch.no_grad():
        found = model(whole.image, rounds=rounds).logits.unflatten(0, (4, 2))
        for row, truth in enumerate(truths):
            embedding, masks, said = model.encode(whole.image[row : row + 1]), None, []
            predicted = np.zeros_like(truth)
            for number in range(4):
                click = next_click(predicted, truth, said)
                assert click is not None
                said.append(click)
                places = torch.tensor([[(one.x, one.y) for one in said]])
                labels = torch.tensor([[one.label for one in said]])
                masks = model.decode(embedding, points=(places, labels), masks=masks).logits
                torch.testing.assert_close(found[number, row : row + 1], masks, rtol=1e-3, atol=1e-4)
                predicted = (resize(masks, (64, 64)) > 0)[0, 0, :48].numpy()


def test_simulated_clicks_lie_in_the_picture_and_not_in_the_padding(model: SamModel) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    decode = model.decode

    def watched(embedding: Tensor, boxes: Any = None, points: Any = None, masks: Any = None) -> SamOutput:
        seen.extend([points] if points else [])
        return decode(embedding, boxes, points, masks)

    model.decode = watched  # type: ignore[method-assign]
    answers(model, batch(), CLICKS.model_copy(update={"click_rounds": 6}))
    assert len(seen) == 6
    for places, labels in seen:
        assert bool((places[..., 0] < 64).all()) and bool((places[..., 1] < 48).all())
        assert set(labels.unique().tolist()) <= {-1, 0, 1}


def test_the_loss_of_a_step_with_clicks_is_the_mean_over_its_rounds(model: SamModel) -> None:
    whole = batch()
    for name in ("bce_iou", "structure", "dice", "dice_ce"):
        config = CLICKS.model_copy(update={"loss": name})
        task = Segmentation(train=config, seed=3)
        with torch.no_grad():
            found = task.loss(model, whole, 0)
            logits = answers(model, whole, config).logits.chunk(3)
            each = [total(make_loss(name), resize(one, (64, 64)), whole.target, whole.valid) for one in logits]
        torch.testing.assert_close(found, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [BOX, CLICKS], ids=["box", "clicks"])
def test_selected_values_get_the_dense_gradient_over_all_rounds(model: SamModel, config: SegmentationTrainConfig) -> None:
    task, whole = Segmentation(train=config, seed=3), batch()
    task.loss(model, whole, 0).backward()
    dense = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)

    def magnitude(names: Any) -> dict[str, Tensor]:
        return {name: model.get_parameter(name).detach().abs() for name in names}

    attached = attach(model, METHODS["gps"](model, GPSConfig(head="select"), magnitude, 0))
    task.loss(model, whole, 0).backward()
    for name, values in attached.trainable().items():
        expected = dense[name]
        if name in attached.selection.sparse:
            expected = expected.flatten()[attached.selection.sparse[name]]
        torch.testing.assert_close(values.grad, expected, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_no_gradient_goes_through_the_mask_of_the_round_before(model: SamModel) -> None:
    whole = batch(1, empty=())
    rounds = ClickRounds(targets(whole), [next_click(np.zeros((48, 64), np.bool_), targets(whole)[0])], 2)
    embedding = model.encode(whole.image).detach()
    second = rounds(model, embedding).logits[1]
    second.sum().backward()
    found = model.mask_decoder.iou_token.weight.grad.clone()
    model.zero_grad(set_to_none=True)
    again = rounds(model, embedding)
    assert again.logits.grad_fn is not None
    masks = again.logits[:1].detach()
    click = [next_click(np.zeros((48, 64), np.bool_), rounds.truths[0])]
    click.append(next_click((resize(masks, (64, 64)) > 0)[0, 0, :48].numpy(), rounds.truths[0], click))
    places = torch.tensor([[(one.x, one.y) for one in click if one]])
    labels = torch.tensor([[one.label for one in click if one]])
    model.decode(embedding, points=(places, labels), masks=masks).logits.sum().backward()
    torch.testing.assert_close(model.mask_decoder.iou_token.weight.grad, found, rtol=1e-3, atol=1e-5)


def test_a_prediction_is_the_one_after_the_clicks_asked_for_and_a_report_sees_twenty(model: SamModel) -> None:
    whole = batch()
    task = Segmentation(evaluate=SegmentationEvaluateConfig(prompt="clicks", clicks=3))  # type: ignore[call-arg]
    with torch.no_grad():
        predicted, examined = task.predict(model, whole), task.examine(model, whole)
    for one, more in zip(predicted, examined, strict=True):
        assert isinstance(more, Clicked) and len(more.logits) == 20
        np.testing.assert_allclose(more.after(3), one, atol=1e-4)


def test_an_answer_without_an_error_stays(model: SamModel) -> None:
    whole, config = batch(1, empty=()), SegmentationEvaluateConfig(prompt="clicks")  # type: ignore[call-arg]
    with torch.no_grad():
        start = model(whole.image, rounds=evaluation_rounds(whole, config))
        perfect = (resize(start.logits, (64, 64)) > 0)[0, 0, :48].numpy()
        rounds = ClickRounds([perfect], [next_click(np.zeros((48, 64), np.bool_), targets(whole)[0])], 4)
        found = rounds(model, model.encode(whole.image)).logits
    assert len(found) == 4 and all(torch.equal(one, found[0]) for one in found)
