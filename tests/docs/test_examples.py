"""The worked examples of docs/extending.md do what the page says, with what the page says is to be added and no more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gps_seg import GPSConfig, get_gps_model, load_config, train
from gps_seg.config import OPTIONS
from gps_seg.core.selection import fingerprint
from gps_seg.files.tensors import read_tensors
from gps_seg.methods import METHODS
from gps_seg.models.sam_zoo import MODELS, build_sam
from gps_seg.runs.delta import load_delta
from gps_seg.tasks.classification.catalog import ADAPTERS
from gps_seg.tasks.segmentation.known import KNOWN
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.sets import set_pairs
from support.settings import SETTINGS, silent

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert specification and specification.loader
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)  # pydantic looks there for names
    specification.loader.exec_module(module)
    return module


def test_a_method_is_a_function_with_its_line_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = example("method")
    monkeypatch.setitem(METHODS, "neurons", found.neurons)
    monkeypatch.setitem(OPTIONS, "neurons", found.NeuronOptions)
    config = load_config(None, [*SETTINGS, "data.protocol=tune"])
    config = config.model_copy(update={"method": "neurons", "selection": found.NeuronOptions(part=0.1, head="freeze")})
    assert 0 <= train(config, tmp_path, say=silent)["per_image"]["dice"] <= 1
    tensors, _ = read_tensors(tmp_path / "adapter_model.safetensors", "a delta")
    base, tuned = build_sam("tiny"), build_sam("tiny")
    load_delta(tmp_path, tuned).merge()
    rows = 0
    for name, before in base.named_parameters():
        changed = (tuned.get_parameter(name) != before).flatten()
        indices = tensors.get(f"{name}.gps_indices")
        if indices is not None:
            width = before[0].numel()
            assert len(indices) % width == 0 and not torch.isin(changed.nonzero().flatten(), indices, invert=True).any()
            rows += len(indices) // width
        elif name not in tensors:
            assert not changed.any(), name
    assert rows > 20 and not any(name.startswith("mask_decoder") for name in tensors)


def test_a_data_set_of_masks_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "my-clinic", example("data_set").CLINIC)
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path))
    for folder in ("pictures", "outlines"):
        (tmp_path / "My_Clinic_2026" / folder).mkdir(parents=True)
    for index in range(12):
        image, mask = phantom(index, size=(72, 96))
        cv2.imwrite(str(tmp_path / "My_Clinic_2026" / "pictures" / f"case{index}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / "My_Clinic_2026" / "outlines" / f"case{index}_outline.png"), 255 * mask.astype(np.uint8))
    first = set_pairs("my-clinic")[0]
    assert (first.id, first.mask.name) == ("case0", "case0_outline.png")
    settings = [setting for setting in SETTINGS if not setting.startswith("data.")]
    document = train(load_config(None, [*settings, "data.name=my-clinic"]), tmp_path / "run", say=silent)
    assert document["n"] == 2 and document["settings"]["data"] == "my-clinic"


def test_a_data_set_of_labels_is_a_reader_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADAPTERS, "my_shapes", example("data_set").SHAPES)
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path))
    folder = tmp_path / "my-shapes"
    folder.mkdir()
    lines = ["file,class,part"]
    for index in range(28):
        picture = np.full((32, 32, 3), 40 + index, np.uint8)
        if index % 2:
            cv2.circle(picture, (16, 16), 9, (250, 90, 90), -1)
        else:
            cv2.rectangle(picture, (8, 8), (24, 24), (90, 250, 90), -1)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
        lines.append(f"{index}.png,{'disc' if index % 2 else 'square'},{'train' if index < 20 else 'test'}")
    (folder / "table.csv").write_text("\n".join(lines))
    settings = ["task=classification", "model.name=tiny", "model.input_size=64", "data.name=my_shapes", "data.protocol=final",
                "method=head", "train.max_steps=4", "train.batch_size=4", "train.precision=fp32", "device=cpu"]
    document = train(load_config(None, settings), tmp_path / "run", say=silent)
    assert document["n"] == 8 and 0 <= document["accuracy"] <= 1


def test_a_metric_is_a_function_of_counts_with_the_houses_statistics(tmp_path: Path) -> None:
    found = example("metric")
    for folder in ("predicted", "target"):
        (tmp_path / folder).mkdir()
    for index, extra in enumerate((0, 0, 4, 8)):  # rows beside the target's eight
        target, predicted = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
        target[:8], predicted[: 8 + extra] = 255, 255
        cv2.imwrite(str(tmp_path / "target" / f"{index}.png"), target)
        cv2.imwrite(str(tmp_path / "predicted" / f"{index}.png"), predicted)
    values = found.score(tmp_path / "predicted", tmp_path / "target")
    assert values.tolist() == [0, 0, 0.5, 1]
    assert found.describe(values) == "excess 0.375 (0.000 to 0.750, 4 images)"


def test_a_sam_of_another_shape_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "three_blocks", example("backbone").THREE_BLOCKS)
    document = train(load_config(None, [*SETTINGS, "model.name=three_blocks", "data.protocol=tune"]), tmp_path, say=silent)
    tensors, _ = read_tensors(tmp_path / "adapter_model.safetensors", "a delta")
    assert any(name.startswith("image_encoder.blocks.2.") for name in tensors)
    assert document["settings"]["model"] == "three_blocks"


def test_a_backbone_of_timm_needs_nothing(tmp_path: Path) -> None:
    settings = [*example("backbone").TIMM, "data.name=digits", "selection.max_images=16", "selection.batch_size=16", "device=cpu",
                "train.max_steps=2", "train.batch_size=16", "train.precision=fp32", "data.inner_images=20"]
    assert train(load_config(None, settings), tmp_path, say=silent)["n"] == 20


def test_a_network_of_ones_own_is_tuned_from_python() -> None:
    torch.manual_seed(0)
    net = example("backbone").SmallNet()
    images = torch.randn(8, 1, 16, 16)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(batch), (batch > 0).float())

    base = fingerprint(net)
    model = get_gps_model(net, GPSConfig(k=1), DataLoader(images, batch_size=4), loss)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    model.follow(optimizer)
    before = loss(model, images).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(model, images).backward()
        optimizer.step()
    assert loss(model, images).item() < before
    assert model.attached.counts()["selected"] == 32  # one connection a neuron
    assert fingerprint(model.unload()) == base
