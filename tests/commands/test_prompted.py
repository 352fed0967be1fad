"""Runs that are trained and scored with prompts simulated from the truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from gps_seg.commands.calibrate import calibrate
from gps_seg.commands.compare.settings import load_comparison
from gps_seg.commands.evaluate import evaluate_run, measure
from gps_seg.commands.evaluate_sets import macro, macro_line
from gps_seg.commands.predict import predict_files
from gps_seg.commands.predict_kinds import Wanted
from gps_seg.commands.train import train
from gps_seg.config import load_config
from gps_seg.data.images import write_image
from gps_seg.errors import ConfigError
from gps_seg.models.sam import SamModel
from gps_seg.runs.load import load_run
from gps_seg.runs.log import read_log
from gps_seg.runs.setup import prepare
from gps_seg.tasks.segmentation.phantom import phantom
from support.commands import gps_seg
from support.settings import SETTINGS, silent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("prompted") / "run"
    settings = [*SETTINGS, "train.max_steps=6", "train.box_probability=0.3", "train.click_probability=0.5",
                "train.click_rounds=2", "train.lr=1e-2", "evaluate.overlays=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(cache))
        train(load_config(None, settings), folder, say=silent)
    return folder


def test_a_run_learns_with_every_kind_of_prompt(run: Path) -> None:
    losses = [row["loss"] for row in read_log(run) if "loss" in row]
    assert len(losses) == 6 and all(0 < loss < 10 for loss in losses)


def test_predict_and_calibrate_know_no_truth_whatever_prompt_the_settings_name(run: Path, tmp_path: Path) -> None:
    """A run whose settings score it with clicks or boxes answers new pictures, and chooses its threshold, without them."""
    answers = {}
    for prompt in ("none", "box", "clicks"):
        copy = tmp_path / prompt
        shutil.copytree(run, copy)
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        settings["evaluate"] |= {"prompt": prompt}
        (copy / "config.yaml").write_text(yaml.safe_dump(settings))
        image, _ = phantom(3, size=(64, 80))
        write_image(tmp_path / "new.png", image)
        list(predict_files(load_run(copy, device="cpu"), [tmp_path / "new.png"], copy / "out", Wanted(overlays=False)))
        answers[prompt] = (copy / "out" / "new.png").read_bytes(), calibrate(copy, device="cpu").temperature
    assert answers["none"] == answers["box"] == answers["clicks"]


def test_presence_is_refused_beside_a_prompt(run: Path) -> None:
    with pytest.raises(ConfigError, match="--presence: with --prompt box nobody is told that there is no polyp: leave one out"):
        evaluate_run(run, prompt="box", presence=0.5)


def test_evaluate_reports_scores_after_clicks_with_intervals_and_says_what_was_simulated(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clicks.json"
    code = gps_seg(monkeypatch, "evaluate", run, "--prompt", "clicks", "--device", "cpu", "--json", file, "--split", "train",
                   "--csv", tmp_path / "clicks.csv")
    text = capsys.readouterr().out
    assert code == 0
    found = json.loads(file.read_text())
    polyps = [image for image in found["images"] if image["target_fraction"]]
    assert found["clicks"]["images"] == len(polyps) < found["n"]  # phantoms hold frames without a polyp
    by_hand = sum(image["dice"] for image in polyps) / len(polyps)
    assert found["clicks"]["dice_after_1"] == pytest.approx(by_hand)  # the rows are those after evaluate.clicks, one
    assert set(found["intervals"]["clicks"]) == set(found["clicks"]) - {"images", "most", "never_iou_90", "never_dice_95"}
    assert found["settings"]["prompt"] == "1 click simulated from the truth"
    assert "prompt 1 click simulated" in text and text.rstrip().endswith(", prompt: 1 click simulated from the truth)")
    assert "NoC@90 (IoU 0.90)" in text and "dice_after_3" in (tmp_path / "clicks.csv").read_text().splitlines()[0]
    assert gps_seg(monkeypatch, "evaluate", run, "--prompt", "click") == 2
    assert "--prompt: expected none, box or clicks, got 'click'" in capsys.readouterr().err


def test_each_image_is_encoded_once_for_all_its_clicks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, decoded = [], []
    encode, decode = SamModel.encode, SamModel.decode

    def counted(self: SamModel, image: torch.Tensor) -> torch.Tensor:
        encoded.append(len(image))
        return encode(self, image)

    def told(self: SamModel, *arguments: object, **more: object) -> object:
        decoded.append(1)
        return decode(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(SamModel, "encode", counted)
    monkeypatch.setattr(SamModel, "decode", told)
    found = evaluate_run(run, prompt="clicks", device="cpu")
    assert sum(encoded) == found["n"] and len(decoded) >= 20


def test_the_same_simulation_gives_the_same_scores_whatever_the_batch(run: Path) -> None:
    loaded = load_run(run, device="cpu")
    task = loaded.task
    scores = []
    for size in (1, 3):
        prompted = type(task)(task.sam, task.data, task.train, task.evaluate.model_copy(update={"prompt": "clicks"}), task.seed)
        changed = type(loaded)(**{**vars(loaded), "task": prompted})
        found, _ = measure(changed, prompted.items(None, "test"), None, "test", config=loaded.config, batch_size=size)
        scores.append([score.clicks.dice for score in found])
    for one, other in zip(*scores, strict=True):
        assert one == pytest.approx(other, abs=0.01)


def test_a_frame_without_a_polyp_is_scored_as_without_a_prompt(run: Path) -> None:
    found = {prompt: evaluate_run(run, prompt=prompt, split="train", device="cpu") for prompt in ("none", "box", "clicks")}
    for rows in zip(*(document["images"] for document in found.values()), strict=True):
        if rows[0]["target_fraction"] == 0:
            assert len({row["fp"] for row in rows}) == 1
    assert "clicks" not in found["box"] and found["box"]["settings"]["prompt"] == "ground-truth box"


def test_a_run_whose_own_prompt_is_clicks_ends_with_their_report(tmp_path: Path) -> None:
    settings = [*SETTINGS, "train.max_steps=1", "evaluate.prompt=clicks", "evaluate.clicks=3"]
    found = train(load_config(None, settings), tmp_path / "run", say=silent)
    assert found["settings"]["prompt"] == "3 clicks simulated from the truth"
    assert found["clicks"]["dice_after_3"] == pytest.approx(
        sum(row["dice"] for row in found["images"] if row["target_fraction"]) / found["clicks"]["images"])
    assert evaluate_run(tmp_path / "run", device="cpu")["clicks"] == found["clicks"]


def test_the_untuned_base_is_scored_with_prompts_by_the_same_measure() -> None:
    config = load_config(None, [*SETTINGS, "evaluate.prompt=clicks"])
    setup = prepare(config, silent)
    _, document = measure(setup, setup.task.items(None, "test", ()), None, "test", config=config)
    assert document["clicks"]["images"] > 0 and document["settings"]["prompt"] == "1 click simulated from the truth"


def test_prompts_and_none_are_neither_compared_nor_averaged_without_a_word(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompt in ("none", "clicks"):
        assert gps_seg(monkeypatch, "evaluate", run, "--prompt", prompt, "--json", tmp_path / f"{prompt}.json") == 0
    documents = {prompt: json.loads((tmp_path / f"{prompt}.json").read_text()) for prompt in ("none", "clicks")}
    assert macro_line(macro({"set": documents["clicks"]})).endswith("; prompt: 1 click simulated from the truth")
    assert "prompt" not in macro_line(macro({"set": documents["none"]}))
    capsys.readouterr()
    assert gps_seg(monkeypatch, "compare-scores", f"a={tmp_path / 'none.json'}", f"b={tmp_path / 'clicks.json'}") == 2
    said = capsys.readouterr().err
    assert "expected reports of one prompt, got a: none; b: 1 click simulated" in said and len(said.splitlines()) == 1


def test_methods_of_a_comparison_have_one_prompt(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"model": {"name": "tiny"}, "data": {"name": "phantom"}}))
    methods = {"gps": {}, "head": {"evaluate.prompt": "clicks"}}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "methods": methods}))
    with pytest.raises(ConfigError, match="expected one prompt for all methods, gps has evaluate.prompt=none, evaluate.clicks=1 "
                                          "and head has evaluate.prompt=clicks, evaluate.clicks=1: their scores do not compare"):
        load_comparison(tmp_path / "compare.yaml")
    methods["gps"] = {"evaluate.prompt": "clicks"}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "methods": methods}))
    assert load_comparison(tmp_path / "compare.yaml").page.methods == methods
