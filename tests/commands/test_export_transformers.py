"""A run as a folder of transformers: ``from_pretrained`` reads it, its processor sees what we see, and its masks are ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_seg.commands.export import Exports, export_run
from gps_seg.data.transforms import fit_image
from gps_seg.errors import ConfigError
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam
from gps_seg.models.to_transformers import preprocessor, transformers_model
from gps_seg.packages import import_transformers
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.phantom import phantom
from support.commands import gps_seg

PICTURE = phantom(1, size=(72, 100))[0]
BOX = (12.0, 9.0, 41.0, 50.0)


def awake(model: SamModel) -> SamModel:
    """Parameters that begin at zero, such as places, say something."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return model.eval()


def written(model: SamModel, place: Path) -> Any:
    """What transformers reads of what we write."""
    stock = transformers_model(model)
    stock.save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps(preprocessor(model.spec)))
    return type(stock).from_pretrained(place).eval()


@pytest.mark.parametrize(("name", "size"), [("tiny", 64), ("tiny", 96), ("tiny_sam2", 64), ("tiny_sam2", 128)])
@pytest.mark.parametrize("prompt", ["none", "box"])
def test_transformers_gives_the_same_mask(name: str, size: int, prompt: str, tmp_path: Path) -> None:
    ours = awake(build_sam(name, input_size=size))
    theirs = written(ours, tmp_path)
    image, boxes = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)), torch.tensor([BOX, BOX])
    prompted: dict[str, Any] = {"input_boxes": boxes[:, None]} if prompt == "box" else {}
    with torch.no_grad():
        mine = ours(image, boxes=boxes if prompt == "box" else None)
        found = theirs(pixel_values=image, multimask_output=False, **prompted)
    torch.testing.assert_close(found.pred_masks[:, 0], mine.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.iou_scores[:, 0], mine.quality, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "resize"), [("tiny", "longest_side"), ("tiny", "squash"), ("tiny_sam2", "squash")])
def test_its_processor_sees_what_we_see_and_finds_the_way_back(name: str, resize: Any, tmp_path: Path) -> None:
    ours = build_sam(name, resize=resize)
    written(ours, tmp_path)
    kind = getattr(import_transformers(), "Sam2Processor" if resize == "squash" else "SamProcessor")
    processor = kind.from_pretrained(tmp_path)
    seen = processor(images=PICTURE, input_boxes=[[list(BOX)]], return_tensors="pt")
    fitted, geometry = fit_image(PICTURE, ours.spec.input_size, resize)
    mine = ours.spec.normalise(fitted)
    assert seen["pixel_values"].shape == (1, *mine.shape)
    assert np.abs(seen["pixel_values"][0].numpy() - mine).max() * min(ours.spec.std) < 1.01  # of 255: another rounding
    scale = np.array([geometry.content_size[1] / 100, geometry.content_size[0] / 72] * 2)
    np.testing.assert_allclose(seen["input_boxes"][0, 0].numpy(), np.array(BOX) * scale, rtol=1e-3)


def test_medsams_pixels_are_described_in_the_units_of_transformers() -> None:
    told = preprocessor(build_sam("tiny_lite").spec)
    assert (told["image_mean"], told["image_std"]) == ([0.0] * 3, [1.0] * 3)


def test_a_run_becomes_a_folder_that_transformers_reads(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = trained("evaluate.threshold=0.45", model="tiny"), tmp_path / "out"
    assert gps_seg(monkeypatch, "export", run, "--transformers", out) == 0
    said = capsys.readouterr().out
    assert "read it with transformers.SamModel and SamProcessor, multimask_output=False, polyp above a logit of -0.201" in said
    assert {file.name for file in out.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    theirs, ours = import_transformers().SamModel.from_pretrained(out), load_run(run, device="cpu").model
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixel_values=image, multimask_output=False).pred_masks[:, 0], ours(image).logits,
                                   rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="is there already: choose another --transformers"):
        list(export_run(run, Exports(transformers=out)))


@pytest.mark.parametrize("name", ["tiny_lite", "tiny_mobile", "tiny_hq"])
def test_what_transformers_has_no_class_for_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"holds {name}, but sam_vit_b, .*sam2.1_hiera_large; --merged FILE and --onnx DIR"):
        transformers_model(build_sam(name))
