"""The commands, run for real: a run from training to export, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gps_seg.cli import main
from gps_seg.data.images import read_image, read_mask, write_image
from gps_seg.packages import import_segment_anything
from gps_seg.tasks.segmentation.phantom import phantom, write_phantoms
from support.settings import SETTINGS


def in_a_process(*arguments: object, cache: Path, code: int = 0) -> str:
    """Run the command as a user does; returns stdout, or stderr if it should fail."""
    env = {**os.environ, "GPS_SEG_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-m", "gps_seg.cli", *map(str, arguments)], capture_output=True, text=True,
                          check=False, env=env, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def gps_seg(*arguments: object, cache: Path, code: int = 0) -> str:
    """The same without the seconds that a process takes to begin."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setenv("GPS_SEG_CACHE", str(cache))
        patch.setattr(sys, "argv", ["gps-seg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == code, out.getvalue() + error.getvalue()
    return error.getvalue() if code else out.getvalue()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text("method: gps\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path, config: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    text = in_a_process("train", config, *SETTINGS, "--out", out, cache=cache)
    assert text.splitlines()[-1].startswith("mDice 0.") and text.splitlines()[-1].endswith("(per_image, 4 images)")
    assert "selection pass: 8 training images" in text and "selected 672, bias 608, head 65,568" in text
    return out


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "selection.safetensors", "adapter_config.json", "adapter_model.safetensors", "log.jsonl",
            "result.json", "scores.csv", "overlays", "tensorboard", "training.png"} <= names
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt")]
    result = json.loads((run / "result.json").read_text())
    assert result["n"] == len(result["images"]) == 4 and 0 <= result["per_image"]["dice"] <= 1
    named = {"method", "seed", "versions", "revision", "hardware", "peak_memory_bytes", "step_s", "trainable"}
    assert named <= set(result["run"])
    assert result["run"]["peak_memory_bytes"] > 10**7
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert {path.stem.split("_")[0] for path in (run / "overlays").glob("*_*.png")} == {"best", "median", "worst"}
    assert read_image(run / "overlays" / "cases.png").shape[0] > 300


def test_evaluating_the_saved_run_repeats_its_result(run: Path, cache: Path, tmp_path: Path) -> None:
    text = gps_seg("evaluate", run, "--json", tmp_path / "e.json", "--csv", tmp_path / "e.csv", "--device", "cpu",
                   "--blocks", "all", "--plots", tmp_path / "plots", "--markdown", tmp_path / "e.md", cache=cache)
    found, trained = json.loads((tmp_path / "e.json").read_text()), json.loads((run / "result.json").read_text())
    assert found["settings"]["split"] == "test" and found["settings"]["prompt"] == "none"
    assert [image["id"] for image in found["images"]] == [image["id"] for image in trained["images"]]
    assert found["settings"]["images_trained_on"] == 0
    assert found["per_image"]["dice"] == trained["per_image"]["dice"]  # in the run's own precision
    mean = found["per_image"]
    assert text.splitlines()[-1] == f"mDice {mean['dice']:.4f} mIoU {mean['iou']:.4f} (per_image, 4 images)"
    assert 0 < found["calibration"]["ece"] < 1 and 0 < found["pranet"]["max_dice"] < 1 and "polyps" in found
    assert {"boxes.png", "size.png", "reliability.png", "cases"} == {path.name for path in (tmp_path / "plots").iterdir()}
    assert "| pranet | mean Dice |" in (tmp_path / "e.md").read_text()


def test_evaluating_on_images_it_was_trained_on_is_said(run: Path, cache: Path, tmp_path: Path) -> None:
    source = next(cache.glob("phantom-*-20-0"))
    text = gps_seg("evaluate", run, "--data", source, "--json", tmp_path / "e.json", "--device", "cpu", cache=cache)
    assert "warning: 16 of these 20 images were in the run's training or inner validation part" in text
    assert json.loads((tmp_path / "e.json").read_text())["settings"]["images_trained_on"] == 16


def test_predicting_without_masks_and_scoring_the_files_equals_evaluating(run: Path, cache: Path, tmp_path: Path) -> None:
    root = write_phantoms(tmp_path / "set", 5, size=(120, 90))
    gps_seg("predict", run, root / "images", "--out", tmp_path / "p", "--device", "cpu", cache=cache)
    assert read_mask(tmp_path / "p" / "phantom_00000.png").shape == (120, 90)
    assert read_image(tmp_path / "p" / "overlays" / "phantom_00000.png").shape == (120, 90, 3)
    gps_seg("evaluate", run, "--data", root, "--json", tmp_path / "e.json", "--device", "cpu", cache=cache)
    gps_seg("score", "--pred", tmp_path / "p", "--gt", root, "--json", tmp_path / "s.json", cache=cache)
    evaluated, scored = (json.loads((tmp_path / name).read_text()) for name in ("e.json", "s.json"))
    assert evaluated["images"] == scored["images"] and evaluated["dataset"] == scored["dataset"]
    error = gps_seg("predict", run, root / "images", "--out", tmp_path / "p", cache=cache, code=2)
    assert "already holds 5 of these predictions" in error and "--overwrite" in error


def test_one_bad_file_among_good_ones_is_named_and_the_others_are_predicted(run: Path, cache: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "good.png", phantom(1)[0])
    Image.fromarray(phantom(2)[0][..., 0].astype(np.uint16) * 257).save(tmp_path / "in" / "sixteen.tif")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8\xff cut")
    error = gps_seg("predict", run, tmp_path / "in", "--out", tmp_path / "out", cache=cache, code=2)
    assert "1 of 3 inputs could not be read" in error and "bad.jpg" in error and len(error.strip().splitlines()) == 1
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"good.png", "sixteen.png"}


def test_the_exported_file_is_a_stock_checkpoint(run: Path, cache: Path, tmp_path: Path) -> None:
    gps_seg("export", run, "--merged", tmp_path / "merged.pth", cache=cache)
    import_segment_anything()
    from gps_seg.models.sam_zoo import build_sam, load_sam

    state = torch.load(tmp_path / "merged.pth", weights_only=True)
    assert list(state) == list(build_sam("tiny").state_dict())
    load_sam("tiny", checkpoint=tmp_path / "merged.pth")
    assert "is there already" in gps_seg("export", run, "--merged", tmp_path / "merged.pth", cache=cache, code=2)
    error = gps_seg("export", run, "--merged", tmp_path / "a.onnx", cache=cache, code=2)
    assert "expected a .pth or .safetensors file" in error


def test_select_prints_the_table_and_info_describes_machine_and_run(run: Path, cache: Path, config: Path, tmp_path: Path) -> None:
    text = gps_seg("select", config, *SETTINGS, "--out", tmp_path / "s.safetensors", cache=cache)
    assert "image_encoder.blocks.1" in text
    assert (tmp_path / "s.safetensors").read_bytes() == (run / "selection.safetensors").read_bytes()
    assert "lite_medsam" in gps_seg("info", cache=cache)
    described = gps_seg("info", run, cache=cache)
    assert "gps on tiny" in described and "total" in described and "mDice" in described
    assert "phantom" in gps_seg("data", "list", cache=cache)
    assert "0 errors" in gps_seg("data", "check", write_phantoms(tmp_path / "set", 3), cache=cache)


def test_a_finished_run_is_not_trained_again_and_another_is_not_written_over(run: Path, cache: Path, config: Path) -> None:
    before = (run / "adapter_model.safetensors").read_bytes()
    assert "is not empty" in gps_seg("train", config, *SETTINGS, "--out", run, cache=cache, code=2)
    assert "is finished" in gps_seg("train", config, *SETTINGS, "--out", run, "--resume", cache=cache)
    changed = gps_seg("train", config, *SETTINGS, "seed=9", "--out", run, "--resume", cache=cache, code=2)
    assert "differs in seed" in changed
    assert (run / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("arguments", "text"), [
    (["train", "none.yaml", "--out", "x"], "cannot read the configuration none.yaml"),
    (["train", "CONFIG", "train.learnrate=1", "--out", "x"], "unknown key 'train.learnrate'"),
    (["train", "CONFIG", "model.name=sam_vit_x", "data.name=phantom", "data.phantom_images=20", "--out", "x"], "unknown model"),
    (["train", "CONFIG", "model.checkpoint=none.pth", "data.name=phantom", "data.phantom_images=20", "--out", "x"],
     "expected a weight file at none.pth"),
    (["train", "CONFIG", "data.name=folder", "data.root=nowhere", "--out", "x"], "expected a data set folder at nowhere"),
    (["train", "CONFIG", "train.precision=fp16", "device=cpu", "--out", "x"], "fp16 needs a CUDA device"),
    (["train", "CONFIG", "device=gpu", "--out", "x"], "device: input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    (["train", "CONFIG", "data.name=phantom", "data.root=.", "--out", "x"], "phantoms are drawn"),
    (["evaluate", "nowhere"], "expected a run folder at nowhere"),
    (["predict", ".", "nothing.png", "--out", "x"], "expected an image or a folder at nothing.png"),
    (["score", "--pred", "a", "--gt", "b"], "expected a folder of masks at b"),
    (["info", "nowhere"], "expected a run folder at nowhere, or the name of a ready model, found neither"),
    (["info", "."], "expected a delta's adapter_config.json at adapter_config.json, found none"),
    (["data", "download", "cvc"], "can download kvasir-seg, got 'cvc'"),
    (["data", "check", "nowhere"], "expected the name of a data set or a folder with images/ and masks/"),
])
def test_mistakes_are_one_line_and_exit_status_two(
    arguments: list[str], text: str, cache: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = gps_seg(*[str(config) if argument == "CONFIG" else argument for argument in arguments], cache=cache, code=2)
    assert text in error and len(error.strip().splitlines()) == 1
    assert error.startswith("gps-seg: error: ")
    assert not (tmp_path / "x" / "adapter_model.safetensors").exists()


def test_a_mistake_ends_the_process_with_status_two_and_one_line(cache: Path, config: Path) -> None:
    error = in_a_process("train", config, "train.learnrate=1", "--out", "x", cache=cache, code=2)
    assert error.startswith("gps-seg: error: ") and "unknown key 'train.learnrate'" in error and error.count("\n") == 1


def test_help_takes_less_than_a_second_of_the_processor(cache: Path) -> None:
    before = os.times()  # not the clock's: other work on the machine would count
    text = in_a_process("--help", cache=cache)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0
    for command in ("train", "select", "evaluate", "score", "predict", "export", "info", "data"):
        assert command in text
