"""A run as ONNX files: what torch answers, in ONNX Runtime and OpenVINO, with the names that SAM's tools know."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gps_seg import Predictor
from gps_seg.commands.export import Exports, export_run
from gps_seg.commands.onnx.parts import FRAME, Decoder, Encoder
from gps_seg.commands.predict import open_model, predict_files
from gps_seg.commands.predict_kinds import Wanted
from gps_seg.data.images import read_image, read_mask, write_image
from gps_seg.data.transforms import fit_image, normalise
from gps_seg.errors import CheckpointError, ConfigError, DataError
from gps_seg.files import sha256
from gps_seg.metrics.masks import score_image
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.exported import load_exported
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.sets import set_pairs
from support.commands import gps_seg

runtime: Any = pytest.importorskip("onnxruntime", reason="pip install 'gps-seg[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'gps-seg[onnx]'")
PIXELS = [phantom(index, size=(72, 100))[0] for index in range(3)]


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("train.quality=true", "evaluate.threshold=0.45")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("onnx") / "out"
    (line,) = export_run(run, Exports(onnx=target))
    assert line.startswith(f"{target}: 3 ONNX files, ") and line.endswith(" from torch at most")
    return target


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "in" / f"{index}.png" for index in range(len(PIXELS))]
    for path, pixels in zip(paths, PIXELS, strict=True):
        write_image(path, pixels)
    return paths


def session(exported: Path, name: str) -> Any:
    return runtime.InferenceSession(str(exported / name), providers=["CPUExecutionProvider"])


def test_the_command_predicts_with_an_export_what_torch_predicts(
    run: Path, exported: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, asked in (("torch", [run, "--precision", "fp32"]), ("onnx", [exported, "--engine", "onnx"])):
        assert gps_seg(monkeypatch, "predict", *asked, files[0].parent, "--out", tmp_path / name, "--device", "cpu") == 0
    for path in files:
        ours, theirs = (read_mask(tmp_path / name / path.name) for name in ("onnx", "torch"))
        assert (ours != theirs).mean() < 1e-3
    ours, theirs = ((tmp_path / name / "presence.csv").read_text().splitlines() for name in ("onnx", "torch"))
    assert len(ours) == len(theirs) == 4


def test_probabilities_are_torchs_in_batches_of_any_size(run: Path, exported: Path, files: list[Path]) -> None:
    wanted = dict(load_run(run, device="cpu", precision="fp32").predict_files(files))
    for size in (1, 2, 3):
        for id_, found in load_exported(exported, presence=0).predict_files(files, batch_size=size):
            np.testing.assert_allclose(found, wanted[id_], atol=1e-5)


def test_a_predictor_reads_an_export_and_predict_goes_on_with_no_other_engine(
    run: Path, exported: Path, files: list[Path], tmp_path: Path
) -> None:
    loaded = load_exported(exported)
    predictor = Predictor(loaded)
    assert [answer.problem for answer in predict_files(loaded, files, tmp_path / "out")] == ["", "", ""]
    for path, found in zip(files, predictor.predict(files), strict=True):
        assert np.array_equal(read_mask(tmp_path / "out" / path.name), found.mask)
    with pytest.raises(ConfigError, match="an exported model answers without a prompt: load the run itself"):
        predictor.set_image(PIXELS[0])
    with pytest.raises(DataError, match="was begun with another engine onnx, now torch, model: go on with the same"):
        list(predict_files(load_run(run, device="cpu"), files, tmp_path / "out", Wanted(resume=True)))


def test_openvino_answers_alike(run: Path, exported: Path, files: list[Path]) -> None:
    pytest.importorskip("openvino", reason="pip install 'gps-seg[openvino]'")
    wanted = dict(load_run(run, device="cpu", precision="fp32").predict_files(files))
    for id_, found in load_exported(exported, "openvino").predict_files(files, batch_size=2):
        np.testing.assert_allclose(found, wanted[id_], atol=1e-4)


def test_who_reads_the_description_alone_gets_the_same_probability(run: Path, exported: Path, files: list[Path]) -> None:
    about = json.loads((exported / "onnx.json").read_text())
    assert about["threshold"] == 0.45 and about["has_quality"] and about["difference"] < 1e-4
    assert str(run) not in json.dumps(about) and "batch" in about["how"]["model.onnx"]
    picture = about["picture"]
    fitted, _ = fit_image(read_image(files[0]), picture["input_size"], picture["resize"])
    image = normalise(fitted, picture["input_size"], picture["mean"], picture["std"])[None]
    probability, logits, quality = session(exported, "model.onnx").run(["probability", "logits", "quality"], {"image": image})
    with torch.inference_mode():
        found = load_run(run, device="cpu", precision="fp32").model(torch.from_numpy(image))
    np.testing.assert_allclose(logits, found.logits, atol=1e-5)
    np.testing.assert_allclose(quality, found.quality.clamp(0, 1), atol=1e-5)
    assert probability.shape == (1, 1, 64, 64) and 0 <= probability.min() <= probability.max() <= 1


def test_the_pair_has_the_names_and_sizes_of_sams_tools(exported: Path) -> None:
    encoder, decoder = session(exported, "encoder.onnx"), session(exported, "decoder.onnx")
    assert [(one.name, one.shape) for one in encoder.get_inputs()] == [("input_image", ["image_height", "image_width", 3])]
    assert [one.name for one in encoder.get_outputs()] == ["image_embeddings"]
    assert [one.name for one in decoder.get_inputs()] == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"]
    assert [one.name for one in decoder.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]
    embedding = encoder.run(None, {"input_image": np.full((300, FRAME, 3), 90, np.float32)})[0]
    for height, width in ((50, 171), (171, 50), (1, 900)):
        masks, quality, low = decoder.run(None, {
            "image_embeddings": embedding, "point_coords": np.array([[[500, 200], [0, 0]]], np.float32),
            "point_labels": np.array([[1, -1]], np.float32), "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32), "orig_im_size": np.array([height, width], np.float32)})
        assert masks.shape == (1, 1, height, width) and quality.shape == (1, 1) and low.shape == (1, 1, 256, 256)
    tool = yaml.safe_load((exported / "x-anylabeling.yaml").read_text())
    assert tool["type"] == "segment_anything"
    assert {tool["encoder_model_path"], tool["decoder_model_path"]} <= set(os.listdir(exported))


def test_the_pairs_graphs_are_the_models_own_answers_to_prompts() -> None:
    model = build_sam("tiny")
    model.set_input_size(FRAME // 16)
    embedding = torch.randn(2, 32, 4, 4)
    places, labels = torch.rand(2, 3, 2) * 64, torch.tensor([[1, 0, 1], [0, 1, 1]])
    framed = (places + 0.5) * 16 - 0.5  # the same places in SAM's frame
    padded = torch.cat([framed, torch.zeros(2, 1, 2)], 1), torch.cat([labels, torch.full((2, 1), -1)], 1).float()
    nothing = torch.zeros(2, 1, 256, 256), torch.zeros(1), torch.tensor([72.0, 100.0])
    with torch.no_grad():
        wanted = model.decode(embedding, points=(places, labels))
        masks, quality, _ = Decoder(model)(embedding, *padded, *nothing)
        boxed = model.decode(embedding, boxes=torch.tensor([[3.0, 5, 40, 50]]).expand(2, -1))
        corners = ((torch.tensor([[[3.0, 5], [40, 50]]]) + 0.5) * 16 - 0.5).expand(2, -1, -1)
        by_corners = Decoder(model)(embedding, corners, torch.tensor([[2.0, 3.0]]).expand(2, -1), *nothing)[1]
    torch.testing.assert_close(quality, wanted.quality)
    torch.testing.assert_close(by_corners, boxed.quality)
    large = torch.nn.functional.interpolate(wanted.logits, (FRAME, FRAME), mode="bilinear")[..., :737, :]
    torch.testing.assert_close(masks, torch.nn.functional.interpolate(large, (72, 100), mode="bilinear"), atol=1e-4, rtol=1e-4)


def test_the_encoder_normalises_pads_and_shrinks() -> None:
    model = build_sam("tiny")
    small = torch.rand(40, 64, 3) * 255
    with torch.no_grad():
        found = Encoder(model)(small.repeat_interleave(16, 0).repeat_interleave(16, 1))
        square = torch.from_numpy(normalise(small.numpy(), 64, model.spec.mean, model.spec.std))[None]  # type: ignore[arg-type]
        torch.testing.assert_close(found, model.encode(square), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [("model.name=tiny", "method=adapter"), ("model.resize=squash",)])
def test_other_models_and_methods_are_exported_too(
    settings: tuple[str, ...], trained: Callable[..., Path], tmp_path: Path, files: list[Path]
) -> None:
    run = trained(*settings)
    (line,) = export_run(run, Exports(onnx=tmp_path / "out"))
    squashes = "model.resize=squash" in settings
    assert ("this model squashes" in line) == (not (tmp_path / "out/encoder.onnx").exists()) == squashes
    wanted = dict(load_run(run, device="cpu", precision="fp32").predict_files(files))
    for id_, found in load_exported(tmp_path / "out").predict_files(files):
        np.testing.assert_allclose(found, wanted[id_], atol=1e-5)


def test_what_cannot_be_exported_or_read_is_one_line(run: Path, exported: Path, tmp_path: Path, files: list[Path]) -> None:
    other = shutil.copytree(exported, tmp_path / "other")
    (other / "model.onnx").write_bytes((exported / "encoder.onnx").read_bytes())
    known = shutil.copytree(other, tmp_path / "known")
    relabel(known)
    broken = shutil.copytree(exported, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no network")
    relabel(broken)
    size = shutil.copytree(exported, tmp_path / "size")
    about = json.loads((size / "onnx.json").read_text())
    about["picture"]["input_size"] = 128
    (size / "onnx.json").write_text(json.dumps(about))
    for call, error, words in (
        (lambda: list(export_run(run, Exports())), ConfigError, "--merged FILE, --onnx DIR"),
        (lambda: list(export_run(run, Exports(onnx=exported))), ConfigError, "choose another --onnx"),
        (lambda: open_model(run, "onnx"), ConfigError, r"expected a folder that gps-seg export RUN --onnx DIR made"),
        (lambda: open_model(exported), ConfigError, "add --engine onnx"),
        (lambda: open_model(exported, "tensorrt"), ConfigError, "expected torch, onnx or openvino, got 'tensorrt'"),
        (lambda: open_model(exported, "onnx", base=run), ConfigError, "--base: an export holds its base"),
        (lambda: open_model(exported, "onnx", precision="bf16"), ConfigError, "--precision: an export computes in fp32"),
        (lambda: open_model(exported, "onnx", device="tpu"), ConfigError, "--device: expected auto or cpu"),
        (lambda: open_model(other, "onnx"), CheckpointError, "is of another model, damaged or missing"),
        (lambda: open_model(known, "onnx"), CheckpointError, "got input_image and image_embeddings: it is the ONNX file"),
        (lambda: open_model(broken, "onnx"), CheckpointError, "ONNX Runtime refuses the file"),
        (lambda: list(open_model(size, "onnx").predict_files(files)), CheckpointError, "refuses a batch of 1 of 128 x 128 px"),
    ):
        with pytest.raises(error, match=words) as raised:
            call()  # type: ignore[operator]
        assert "\n" not in str(raised.value)


def relabel(folder: Path) -> None:
    about = json.loads((folder / "onnx.json").read_text())
    about["files"] = {name: sha256(folder / name) for name in about["files"]}
    (folder / "onnx.json").write_text(json.dumps(about))


def test_an_opset_that_the_runtime_does_not_know_is_one_line(exported: Path, tmp_path: Path) -> None:
    import onnx

    newer = shutil.copytree(exported, tmp_path / "newer")
    document = onnx.load(newer / "model.onnx")
    document.opset_import[0].version = 999
    onnx.save(document, newer / "model.onnx")
    relabel(newer)
    with pytest.raises(CheckpointError, match=r"ONNX Runtime refuses the file .*opset"):
        load_exported(newer)


def test_after_a_failure_nothing_is_left(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError):
        list(export_run(damaged, Exports(onnx=tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_missing_package_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript is not installed: pip install 'gps-seg\[onnx\]'"):
        list(export_run(run, Exports(onnx=tmp_path / "out")))


@pytest.mark.slow
def test_lite_medsam_with_its_weights_answers_real_images_as_torch_does(trained: Callable[..., Path], tmp_path: Path) -> None:
    if not os.environ.get("GPS_SEG_DATA"):
        pytest.skip("Kvasir-SEG is not here: set GPS_SEG_DATA")
    pairs = set_pairs("kvasir-seg")[:2]
    run = trained("train.quality=true", model="lite_medsam")
    list(export_run(run, Exports(onnx=tmp_path / "out")))
    loaded, other = load_run(run, device="cpu", precision="fp32"), load_exported(tmp_path / "out", presence=0)
    wanted = dict(loaded.predict_files([pair.image for pair in pairs]))
    for pair in pairs:
        ((_, found),) = other.predict_files([pair.image])
        np.testing.assert_allclose(found, wanted[pair.id], atol=1e-3)
        ours, theirs = (score_image(pair.id, one > 0.5, read_mask(pair.mask)).dice for one in (found, wanted[pair.id]))
        assert ours == pytest.approx(theirs, abs=1e-3)
