"""The study of section 3's claim, on tiny runs of both tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from gps_seg.commands.study.gradient_order import Question, study
from gps_seg.commands.study.order_text import describe, word_of
from gps_seg.commands.train import train
from gps_seg.config import Score, load_config
from gps_seg.core.roles import neuron_rows
from gps_seg.core.scores import SUM_OF, gradient_scores, several_gradient_scores
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files.tensors import read_tensors
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.task_model import make_task
from support.commands import gps_seg
from support.settings import classification, silent

DIGITS = ["data.name=digits", "data.few_shot=2", "model.name=tiny", "model.input_size=64", "train.max_steps=2", "device=cpu",
          "train.batch_size=20", "train.precision=fp32", "data.augment.min_scale=0.5", "method=full"]
FEW = Question(options={"max_images": 2, "batch_size": 2}, device="cpu")
Trained = Callable[..., Path]


def test_change_and_scores_are_those_of_the_run(trained: Trained) -> None:
    folder = trained("method=full", "seed=3", model="tiny")
    document = study([folder], FEW, silent)
    (run,) = document["runs"].values()
    assert set(run["scores"]) == set(get_args(Score)) and document["mean"] == run["scores"]
    assert (run["optimizer"], run["images"], run["unchanged"]) == ("adamw", 2, pytest.approx(0, abs=0.05))
    base, delta = build_sam("tiny"), read_tensors(folder / "adapter_model.safetensors", "a delta")[0]
    name = "image_encoder.blocks.0.mlp.lin1.weight"
    weight = base.get_parameter(name).detach()
    change = (delta[name] - weight).abs()
    found = run["scores"]["magnitude"]["layers"][name]
    assert found["correlation"] == pytest.approx(spearmanr(weight.abs().flatten(), change.flatten()).statistic, abs=1e-6)
    best = neuron_rows(base.get_submodule(name.removesuffix(".weight")), weight.abs()).argmax(1)
    assert found["neuron_top"] == pytest.approx(float((best == change.argmax(1)).float().mean()))
    assert found["neurons"] == len(weight) and run["scores"]["gradient"]["total"]["scalars"] > 20 * weight.shape[1]


def test_after_one_step_of_plain_sgd_the_order_of_gradients_is_the_order_of_change(tmp_path: Path) -> None:
    """By definition, change = rate x gradient, where the step sees what the pass sees: all images, as they are."""
    still = [f"data.augment.{name}=0" for name in ("horizontal_flip", "vertical_flip", "rotate", "color", "blur", "noise")]
    settings = ["model.name=tiny", "data.name=phantom", "data.phantom_images=12", "evaluate.overlays=0", "device=cpu",
                "method=full", "train.optimizer=sgd", "train.momentum=0", "train.lr=1", "train.warmup=0", "train.clip=null",
                "train.max_steps=1", "train.precision=fp32", *still]
    images = len(make_task(load_config(None, settings)).splits().train)
    train(load_config(None, [*settings, f"train.batch_size={images}"]), tmp_path / "run", say=silent)
    found = study([tmp_path / "run"], Question(options={"batch_size": images}, device="cpu"), silent)["mean"]
    total = found["gradient"]["total"]
    assert total["correlation"] > 0.99 and total["correlation_in_neuron"] > 0.99 and total["neuron_top"] > 0.95
    assert found["gradient_squared"]["total"]["correlation"] == pytest.approx(total["correlation"])  # of a single batch
    assert abs(found["random"]["total"]["correlation"]) < 0.05 and found["magnitude"]["total"]["correlation"] < 0.5


def test_runs_of_both_tasks_are_studied_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        train(classification(None, [*DIGITS, f"seed={seed}"]), tmp_path / f"seed{seed}", say=silent)
    assert gps_seg(monkeypatch, "study", "gradient-order", tmp_path / "seed0", tmp_path / "seed1", "--k", 2, "--batch-size", 10,
                   "--json", tmp_path / "order.json", "--plot", tmp_path / "order.png", "--device", "cpu") == 0
    text = capsys.readouterr().out
    assert "Mean over 2 runs:" in text and "the order of accumulated gradients is the order of change" in text
    assert "Which score predicts the change best: over all weights, " in text and "| gradient_over_weight |" in text
    document = json.loads((tmp_path / "order.json").read_text())
    assert document["setting"]["k"] == 2 and document["setting"]["selection"]["loss"] == "supcon"
    both = [run["scores"]["gradient"]["total"]["correlation"] for run in document["runs"].values()]
    assert document["mean"]["gradient"]["total"]["correlation"] == pytest.approx(np.mean(both))
    with Image.open(tmp_path / "order.png") as picture:
        assert picture.width > 1000
    masks = trained("method=full", "seed=3", model="tiny")
    assert gps_seg(monkeypatch, "study", "gradient-order", masks, tmp_path / "seed0", "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert "expected runs of one base" in error and "study them one base at a time" in error and error.count("\n") == 1


@pytest.mark.parametrize(("settings", "options", "error", "text"), [
    (("method=full", "seed=3"), {"loss": "supcon"}, ConfigError, "selection.loss: a setting of task classification"),
    (("method=head",), {}, ConfigError, "expected a run of method full, which lets every weight change, got method head"),
])
def test_what_cannot_be_asked_is_explained(trained: Trained, settings: tuple[str, ...], options: dict[str, Any],
                                           error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        study([trained(*settings, model="tiny")], Question(options=options, device="cpu"), silent)


def test_a_run_twice_and_a_folder_without_a_run_are_refused(trained: Trained, tmp_path: Path) -> None:
    folder = trained("method=full", "seed=3", model="tiny")
    with pytest.raises(ConfigError, match="expected each run once"):
        study([folder, folder], FEW, silent)
    with pytest.raises(CheckpointError, match="expected a delta"):
        study([tmp_path], FEW, silent)


def test_the_verdict_follows_the_numbers() -> None:
    assert [word_of(value) for value in (0.95, 0.6, 0.3, 0.1, 0.05, -0.5, None)] == [
        "holds", "holds roughly", "holds moderately", "holds weakly", "does not hold", "does not hold",
        "cannot be told, all are ties"]
    part = {"scalars": 12, "neurons": 3, "correlation": 0.95, "correlation_in_neuron": 0.05, "top": 0.5, "top_chance": 0.25,
            "neuron_top": 0.5, "neuron_top_chance": 0.25}
    scores = {"gradient": {"total": part, "layers": {"fc": part}}, "random": {"total": part | {"neuron_top": 1.0}},
              "magnitude": {"total": part | {"correlation": None, "correlation_in_neuron": 0.2}}}
    text = describe({"runs": {}, "setting": {"k": 1}, "mean": scores})
    assert "over all weights it holds (rank correlation 0.950)" in text and "GPS chooses, it does not hold (0.050)" in text
    assert "a draw gives 25.0 %, so 2.0 times of it" in text
    assert "over all weights, gradient (0.950); within a neuron, magnitude (0.200); for the best 1 of a neuron, gradient" in text


def test_every_kind_of_score_comes_from_one_pass_as_from_passes_of_their_own() -> None:
    torch.manual_seed(0)
    model, batches = torch.nn.Linear(3, 2), [torch.randn(4, 3) for _ in range(3)]
    model.weight.data[0, 0] = 0

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().sum()

    together = several_gradient_scores(model, {"weight": tuple(SUM_OF)}, batches, loss)["weight"]
    for kind, score in together.items():
        assert torch.equal(score, gradient_scores(model, ["weight"], batches, loss, score=kind)["weight"])
    ratio = together["gradient"] / model.weight.detach().abs()
    assert torch.allclose(together["gradient_over_weight"].flatten()[1:], ratio.flatten()[1:])
    assert together["gradient_over_weight"].argmax() == 0 and together["gradient_over_weight"].isfinite().all()
