"""Classification through the same core: the contrastive loss, runs on digits, both protocols, every backbone family."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.commands.train import train
from gps_seg.config import ClassGPSConfig, ClassTrainConfig, GPSConfig, LoraOptions
from gps_seg.core.attach import attach
from gps_seg.core.roles import matches
from gps_seg.core.scores import gradient_scores
from gps_seg.core.selection import counts, fingerprint
from gps_seg.data.batches import Batch
from gps_seg.errors import CheckpointError, ConfigError, DataError, TrainingError
from gps_seg.methods import METHODS
from gps_seg.methods.added import add_modules, fold_modules
from gps_seg.models.classifiers import build_backbone, load_backbone, normalisation
from gps_seg.models.weights import find_weights, read_state
from gps_seg.runs.delta import load_delta, save_delta
from gps_seg.runs.fit import Fit
from gps_seg.runs.schedule import learning_rate
from gps_seg.runs.task_model import TaskModel, make_task
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.losses import features_of, supervised_contrastive
from gps_seg.tasks.classification.task import Classification, Guess
from support.settings import classification, of_method, silent

SMALL = ["data.name=digits", "data.few_shot=2", "model.name=vit_tiny_patch16_224", "model.input_size=32", "train.max_steps=2",
         "train.batch_size=10", "train.precision=fp32", "selection.batch_size=10", "data.augment.min_scale=0.5"]


def slow_contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Khosla et al., equation 2, one term at a time."""
    z = F.normalize(features, dim=1)
    total = torch.zeros(())
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        denominator = sum(torch.exp(z[i] @ z[a] / temperature) for a in others)
        positives = [p for p in others if labels[p] == labels[i]]
        total = total - sum(torch.log(torch.exp(z[i] @ z[p] / temperature) / denominator) for p in positives) / len(positives)
    return total / len(z)


def test_the_contrastive_loss_equals_the_published_formula() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(10, 6), torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 2, 1])
    torch.testing.assert_close(supervised_contrastive(features, labels, 0.5), slow_contrastive(features, labels, 0.5))


def test_a_batch_without_positives_is_explained() -> None:
    with pytest.raises(DataError, match="1 of 3 views have no other view of their class.*use two views"):
        supervised_contrastive(torch.randn(3, 4), torch.tensor([0, 0, 1]))


@pytest.mark.parametrize("setting", ["selection.batch_size=1", "selection.max_images=1"])
def test_a_contrastive_selection_that_sees_one_image_at_a_time_is_one_line(setting: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="every score is zero.*needs several images, of at least two classes, in a batch"):
        train(classification(None, [*SMALL, setting]), tmp_path / "run", say=silent)


def test_the_linear_probe_has_both_its_names_and_files_are_of_gps_alone() -> None:
    assert classification(None, ["method=linear"]).method == "head"
    with pytest.raises(ConfigError, match="selection.files: an option of method gps, not read by method full"):
        classification(None, ["method=full", "selection.files=[a.safetensors]"])


def test_the_contrastive_selection_gives_the_head_no_gradient() -> None:
    model = build_backbone("vit_tiny_patch16_224", classes=3, input_size=32)
    batch = Batch(torch.randn(2, 2, 3, 32, 32), torch.tensor([0, 1]), ("a", "b"))
    Classification().selection_loss(model, batch, ClassGPSConfig()).backward()
    parameters = dict(model.named_parameters())
    assert parameters["head.weight"].grad is None and parameters["blocks.0.attn.qkv.weight"].grad is not None


FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}), "swin": ("swin_tiny_patch4_window7_224", {
        "img_size": 32, "window_size": 2, "depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2)}),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_selection_and_sparse_engine_serve_every_backbone_family(family: str) -> None:
    import timm

    name, options = FAMILIES[family]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).train()  # type: ignore[arg-type]
    model.head_patterns = (f"{model.pretrained_cfg['classifier']}.*",)
    batch = Batch(torch.randn(4, 2, 3, 32, 32), torch.tensor([0, 1, 2, 0]), tuple("abcd"))
    selection = METHODS["gps"](model, GPSConfig(), lambda names: gradient_scores(
        model, list(names), [batch], lambda model, batch: Classification().selection_loss(model, batch, ClassGPSConfig())), 0)
    sizes = counts(selection, model)
    neurons = sum(module.weight.shape[0] for name, module in model.named_modules()
                  if isinstance(module, nn.Linear | nn.Conv2d) and not matches(f"{name}.weight", model.head_patterns))
    assert sizes["selected"] == neurons > 0 and sizes["head"] > 0
    before = fingerprint(model)
    attached = attach(model, selection)
    assert "dense + pick" not in attached.backends().values()
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert all(value.grad is not None for value in attached.trainable().values())
    attached.unmerge()
    assert fingerprint(model) == before == selection.base


def test_vit_b_16_has_the_papers_83712_neurons_and_biases() -> None:
    model = build_backbone("vit_base_patch16_224")
    selection = METHODS["gps"](model, GPSConfig(score="magnitude"), lambda names: {
        name: dict(model.named_parameters())[name].detach().abs() for name in names}, 0)
    sizes = counts(selection, model)
    assert sizes["selected"] == sizes["bias"] == 83_712


@pytest.mark.parametrize("method", ["gps", "head", "lora", "vpt_deep", "spt_lora"])
def test_a_run_on_digits_leaves_selection_delta_and_scores(method: str, tmp_path: Path) -> None:
    said: list[str] = []
    document = train(classification(None, of_method(SMALL, method)), tmp_path / "run", say=said.append)
    assert document["part"] == "validation" and 0 <= document["accuracy"] <= 1 and len(document["images"]) == document["n"]
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert saved["run"]["method"] == method and said[-1].startswith("accuracy ")
    assert {"adapter_model.safetensors", "selection.safetensors", "config.yaml", "log.jsonl"} <= {
        path.name for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ConfigError, match="is not empty"):
        train(classification(None, SMALL), tmp_path / "run", say=silent)


def test_the_final_protocol_takes_the_last_step_and_reads_the_test_part_once(tmp_path: Path) -> None:
    config = classification(None, [*SMALL, "data.protocol=final", "train.mixup=0.8", "train.cutmix=1.0", "train.ema=0.9",
                                      "train.label_smoothing=0.1", "selection.loss=cross_entropy"])
    document = train(config, tmp_path / "run", say=silent)
    assert document["part"] == "test" and document["run"]["best_step"] == 2
    assert not [line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if "validation" in line]


def test_the_same_seed_repeats_a_run(tmp_path: Path) -> None:
    deltas = []
    for name in ("a", "b"):
        train(classification(None, [*SMALL, "train.mixup=0.8", "model.name=tiny_lite", "model.input_size=64"]),
                         tmp_path / name, say=silent)
        deltas.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert deltas[0] == deltas[1]


def test_warmup_and_cooldown_may_be_written_as_fractions_of_the_steps() -> None:
    settings = ClassTrainConfig.model_validate({"epochs": 110, "cooldown": "10/110", "warmup": "10/110", "lr": 1.0,
                                                "warmup_lr": 0.1, "min_lr": 0.01})
    rates = [learning_rate(step, 110, settings) for step in range(110)]
    assert rates[0] == pytest.approx(0.19) and rates[9] == pytest.approx(1.0) and max(rates) == pytest.approx(1.0)
    assert rates[99] > 0.01 and rates[100:] == pytest.approx([0.01] * 10)


def test_weights_of_another_architecture_are_refused_and_a_classifier_of_another_size_is_dropped(tmp_path: Path) -> None:
    source = build_backbone("vit_tiny_patch16_224", classes=7, input_size=32, seed=3)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    loaded = load_backbone("vit_tiny_patch16_224", classes=4, checkpoint=tmp_path / "vit.pth", input_size=32)
    assert torch.equal(loaded.state_dict()["blocks.3.mlp.fc1.weight"], source.state_dict()["blocks.3.mlp.fc1.weight"])
    assert loaded.state_dict()["head.weight"].shape[0] == 4
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_backbone("convnext_tiny", classes=4, checkpoint=tmp_path / "vit.pth")


def test_a_sams_encoder_pools_into_features_like_any_backbone() -> None:
    model = load_backbone("tiny", classes=5)
    image = torch.randn(2, 3, 64, 64)
    features = features_of(model, image)
    assert features.shape == (2, 32) and model(image).shape == (2, 5)
    assert normalisation(model)[0] == pytest.approx((123.675, 116.28, 103.53))
    assert normalisation(build_backbone("vit_tiny_patch16_224"))[0] == pytest.approx((127.5, 127.5, 127.5))


def test_a_report_names_accuracy_and_the_mean_over_classes() -> None:
    scores = [Guess(str(number), label, 0, 1.0) for number, label in enumerate([0, 0, 0, 1])]
    document = Classification().report(scores, settings={"split": "test"}, classes=("cat", "dog", "none"))
    assert (document["accuracy"], document["class_mean_accuracy"]) == (0.75, 0.5)
    assert document["by_class"] == {"cat": 1, "dog": 0}
    with pytest.raises(DataError, match="expected images to score"):
        Classification().report([], settings={"split": "test"}, classes=())


@pytest.mark.slow
def test_the_packaged_efficientnet_knows_a_palace_and_a_flower() -> None:
    from sklearn.datasets import load_sample_images

    model = load_backbone("tf_efficientnet_lite0", classes=2)
    stored = read_state(find_weights("tf_efficientnet_lite0"))
    assert torch.equal(model.state_dict()["conv_head.weight"], stored["_conv_head.weight"])
    assert normalisation(model)[0] == pytest.approx((127.5, 127.5, 127.5))
    assert model.get_classifier().weight.detach().std().item() == pytest.approx(0.02, rel=0.1)  # a first loss near log(classes)
    pooled = []
    for image in load_sample_images().images:  # china.jpg: a Chinese palace; flower.jpg: a dahlia
        side = min(image.shape[:2])
        pixels = torch.tensor(image[:side, -side:] / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
        small = nn.functional.interpolate(pixels, (224, 224), mode="area")
        logits = features_of(model.eval(), small) @ stored["_fc.weight"].T + stored["_fc.bias"]
        pooled.append(int(logits.argmax()))
    assert pooled[0] in (442, 698) and pooled[1] in (985, 947)  # bell cote or palace; daisy or mushroom


def test_lora_goes_onto_1x1_convolutions_where_an_encoder_has_no_linear_layer(tmp_path: Path) -> None:
    model, image = build_backbone("tf_efficientnet_lite0", classes=3).eval(), torch.randn(2, 3, 32, 32)
    stock = model(image)
    selection = METHODS["lora"](model, LoraOptions(), None, 0)  # type: ignore[arg-type]
    assert counts(selection, model)["inserted"] > 0 and torch.equal(model(image), stock)
    attached = attach(model, selection)
    optimizer = torch.optim.SGD(attached.trainable().values(), lr=0.1)
    model(image).square().sum().backward()
    optimizer.step()
    tuned = model(image)
    assert not torch.equal(tuned, stock)
    save_delta(tmp_path, attached, {})
    fresh = build_backbone("tf_efficientnet_lite0", classes=3).eval()
    load_delta(tmp_path, fresh, add_modules)
    assert torch.equal(fresh(image), tuned)
    attached.merge()
    fold_modules(model, selection.meta)
    torch.testing.assert_close(model(image), tuned, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == set(build_backbone("tf_efficientnet_lite0", classes=3).state_dict())


AUTO = [*SMALL, "model.name=tiny", "model.input_size=64", "selection.k=auto", "selection.auto_k=[4,1]", "selection.auto_steps=2"]


@pytest.mark.parametrize("protocol", ["tune", "final"])
def test_k_is_chosen_on_the_validation_part_and_never_on_the_test_part(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def score(model: TaskModel, items: Sequence[Item], *_: object, **__: object) -> list[Guess]:
        seen.append({item.id for item in items})
        return [Guess(item.id, item.label, len(seen) % 2 * item.label, 1.0) for item in items]  # the first trial, k = 1, is best

    monkeypatch.setattr(TaskModel, "score", score)
    config = classification(None, [*AUTO, f"data.protocol={protocol}"])
    document = train(config, tmp_path / "run", say=silent)
    trials = document["run"]["k_trials"]
    assert [(one["k"], one["steps"]) for one in trials] == [(1, 2), (4, 2)] and trials[0]["score"] == 1 > trials[1]["score"]
    assert document["run"]["k"] == 1 and document["run"]["trainable"]["selected"] == trials[0]["selected"]
    val = {item.id for item in make_task(classification(None, AUTO)).splits().inner}
    assert seen[:2] == [val, val] and (protocol == "tune" or not seen[2] & val)
    settings = [one for one in AUTO if not one.startswith("selection.auto")]
    given = train(classification(None, [*settings, f"data.protocol={protocol}", "selection.k=1"]), tmp_path / "given", say=silent)
    assert "k_trials" not in given["run"]
    deltas = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("run", "given")]
    assert protocol == "tune" or deltas[0] == deltas[1]  # the trials left no trace in the weights


@pytest.mark.parametrize(("override", "text"), [
    ("selection.k=0", "selection.k: input should be a whole number from 1, or auto, got 0"),
    ("selection.k=best", "selection.k: input should be a whole number from 1, or auto, got 'best'"),
    ("selection.auto_k=[1,1]", "selection.auto_k: input should be different whole numbers from 1"),
])
def test_a_wrong_k_is_explained(override: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("[", r"\[")):
        classification(None, [override])


def test_k_auto_outside_of_training_asks_for_a_number() -> None:
    model = build_backbone("vit_tiny_patch16_224", classes=3, input_size=32)
    with pytest.raises(ConfigError, match="selection.k=auto: expected a number here"):
        METHODS["gps"](model, GPSConfig(k="auto"), lambda names: {}, 0)


@pytest.mark.parametrize("method", ["gps", "lora"])
def test_a_killed_and_resumed_run_equals_an_unbroken_one(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*of_method(SMALL, method), "train.max_steps=4", "train.mixup=0.8", "model.drop_path=0.3", "train.ema=0.5"]
    config = classification(None, settings)
    whole = train(config, tmp_path / "whole", say=silent)
    step, calls = Fit.step, [0]

    def killed(run: Fit, pieces: Any, number: int) -> tuple[float, float]:
        calls[0] += 1
        if calls[0] == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, pieces, number)

    monkeypatch.setattr(Fit, "step", killed)
    with pytest.raises(TrainingError, match="interrupted at step 3 of 4"):
        train(config, tmp_path / "broken", say=silent)
    monkeypatch.setattr(Fit, "step", step)
    with pytest.raises(ConfigError, match="differs in train.lr: resume with the same settings"):
        train(classification(None, [*settings, "train.lr=1"]), tmp_path / "broken", resume=True, say=silent)
    resumed = train(config, tmp_path / "broken", resume=True, say=silent)
    assert resumed["images"] == whole["images"]
    deltas = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert deltas[0] == deltas[1]
    said: list[str] = []
    assert train(config, tmp_path / "broken", resume=True, say=said.append) == resumed
    assert said == [f"{tmp_path / 'broken'} is finished; nothing to do"]


def test_an_unknown_backbone_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'vit_base_patch16_225'; did you mean vit_base_patch16_22"):
        load_backbone("vit_base_patch16_225", classes=3)
