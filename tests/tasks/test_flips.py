"""Mirror images: the content alone is turned over, and the mean of four answers is what is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gps_seg.commands.evaluate import Wanted, evaluate_run
from gps_seg.data.transforms import Geometry
from gps_seg.errors import ConfigError
from gps_seg.models.decoder import SamOutput
from gps_seg.tasks.segmentation.flips import MIRRORS, averaged, mirrored
from support.runs import train_tiny

GEOMETRY = (Geometry(native_size=(30, 40), content_size=(6, 8), input_size=8),
            Geometry(native_size=(40, 40), content_size=(8, 8), input_size=8))


@pytest.fixture(scope="module")
def phantom_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    return train_tiny(folder / "run", folder / "cache", model="tiny")


def test_turning_over_leaves_the_padding_where_it_is_and_is_its_own_inverse() -> None:
    images = torch.rand(2, 3, 8, 8)
    images[0, :, 6:] = 0
    for axes in MIRRORS:
        turned = mirrored(images, GEOMETRY, axes)
        assert torch.equal(mirrored(turned, GEOMETRY, axes), images)
        assert not turned[0, :, 6:].any()
        assert torch.equal(turned[1], images[1].flip(axes) if axes else images[1])


def test_an_answer_that_turns_with_the_image_stays_and_one_that_does_not_is_averaged() -> None:
    def faithful(image: Tensor) -> SamOutput:
        return SamOutput(image[:, :1], image.mean((1, 2, 3))[:, None])

    def leftmost(image: Tensor) -> SamOutput:
        """Finds something on the left, whatever it sees."""
        logits = torch.zeros_like(image[:, :1])
        logits[..., 0] = 4.0
        return SamOutput(logits, torch.ones(len(image), 1))

    images = torch.rand(2, 3, 8, 8)
    images[0, :, 6:] = 0
    torch.testing.assert_close(averaged(faithful, images, GEOMETRY).logits, images[:, :1])
    found = averaged(leftmost, images, GEOMETRY).logits
    assert found[1, 0, :, 0].unique().item() == found[1, 0, :, -1].unique().item() == 2.0


def test_evaluate_averages_where_it_is_asked_and_says_so(phantom_run: Path) -> None:
    plain, turned = (evaluate_run(phantom_run, flips=flips, wanted=Wanted(blocks=("calibration",))) for flips in (None, True))
    assert turned["settings"]["flips"] is True and "flips" not in plain["settings"]
    assert turned["calibration"]["brier"] != plain["calibration"]["brier"]


@pytest.mark.parametrize("prompt", ["box", "clicks"])
def test_mirror_images_of_a_prompted_answer_are_refused(prompt: Any, phantom_run: Path) -> None:
    with pytest.raises(ConfigError, match="flips is read with prompt=none alone, the prompt is"):
        evaluate_run(phantom_run, flips=True, prompt=prompt)
