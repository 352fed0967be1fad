"""Settings: unknown keys name the nearest, values are checked, the resolved file reads back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gps_seg.config import LoraOptions, RunConfig, dump_config, load_config, page_of
from gps_seg.errors import ConfigError
from gps_seg.settings import known_keys

CONFIGS = sorted(path for path in (Path(__file__).parent.parent / "configs").glob("*.yaml") if "base:" not in path.read_text())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert isinstance(load_config(path), RunConfig)


def test_overrides_replace_the_files_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {lr: 0.1, epochs: 3}\nseed: 4\n")
    config = load_config(tmp_path / "a.yaml", ["train.lr=1e-3", "method=head", "data.augment.rotate=0", "model.input_size=128"])
    assert (config.train.lr, config.train.epochs, config.seed, config.method) == (1e-3, 3, 4, "head")
    assert config.data.augment.rotate == 0 and config.model.input_size == 128


@pytest.mark.parametrize(("override", "text"), [
    ("train.learning_rate=1", "unknown key 'train.learning_rate': it is train.lr"),
    ("train.batchsize=1", "unknown key 'train.batchsize', did you mean 'train.batch_size'?"),
    ("selektion.k=1", "unknown key 'selektion', did you mean 'selection'?"),
    ("lr=1", "unknown key 'lr', did you mean 'train.lr'?"),
    ("selection.k=0", "selection.k: input should be a whole number from 1, or auto, got 0"),
    ("method=lorra", "method: input should be 'gps', 'full', 'head', 'bitfit', 'partial', 'lora', "),
    ("train.lr=fast", "train.lr: input should be a valid number"),
    ("seed", "expected key=value, got 'seed'"),
    ("seed.a=1", "seed: input should be a valid integer"),
])
def test_wrong_settings_are_explained(override: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert any(part in str(caught.value) for part in text.split("|"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "- 1", "\x00"])
def test_broken_files_are_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match="a.yaml"):
        load_config(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration .*none.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_the_resolved_settings_read_back_unchanged(tmp_path: Path) -> None:
    config = load_config(None, ["selection.preset=official", "train.clip=null", "selection.include=['a.*']"])
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(("overrides", "text"), [
    (["method=full", "selection.head=freeze"], "selection.head: an option of method gps, bitfit, partial, lora"),
    (["method=bitfit", "selection.k=9"], "selection.k: an option of method gps, not read by method bitfit"),
    (["method=lora", "selection.width=9"], "selection.width: an option of method adapter, not read by method lora"),
    (["train.label_smoothing=0.1"], "train.label_smoothing: a setting of task classification, not read by task segmentation"),
    (["task=classification", "train.loss=dice"], "train.loss: a setting of task segmentation, not read by task classification"),
    (["data.phantom_images=20"], "phantom_images is read for data.name=phantom alone, the data set is kvasir-seg"),
    (["train.box_probability=0.7", "train.click_probability=0.4"], "of the same steps: expected at most 1 in all, got 1.1"),
    (["train.box_jitter=0.2"], "box_jitter is read with box_probability above 0 alone"),
    (["train.click_rounds=2"], "click_rounds is read with click_probability above 0 alone"),
    (["train.click_probability=0.5", "train.click_rounds=21"], "train.click_rounds: input should be less than or equal to 20"),
    (["evaluate.clicks=3"], "clicks is read with prompt=clicks alone, the prompt is none"),
    (["task=classification", "train.click_probability=0.5"], "train.click_probability: a setting of task segmentation, not"),
    (["task=classification", "evaluate.prompt=clicks"], "evaluate.prompt: a setting of task segmentation, not read"),
    (["train.momentum=0.5"], "momentum is read with optimizer=sgd alone, the optimizer is adamw"),
    (["selection.auto_steps=9"], "auto_steps is read with k=auto alone, k is 1"),
    (["selection.preset=official", "selection.bias=freeze"], "with preset=official the released rules decide it"),
    (["train.patience=2", "train.keep=last"], "patience waits for a better step, and keep=last takes the last one"),
    (["train.seed=1"], "unknown key 'train.seed': it is seed"),
    (["data.protocol=final", "train.patience=3"], "train.patience is not read with data.protocol=final"),
    (["selection.files=[a.safetensors]", "selection.k=9"], "k is not read where connections come from files"),
    (["task=classification", "selection.loss=cross_entropy", "selection.temperature=3"], "temperature is read with loss=supcon"),
    (["data.inner_fraction=0"], "to train on all images with nothing kept, use data.protocol=final"),
    (["task=[a]"], "task: expected segmentation or classification, got ['a']"),
    (["method=[gps]"], "method: input should be 'gps', 'full', "),
    (["task=detection"], "task: expected segmentation or classification, got 'detection'"),
])
def test_a_setting_that_the_chosen_method_or_task_does_not_read_is_an_error(overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert text in str(caught.value)


def test_another_method_leaves_the_files_options_of_its_own_behind_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("method: gps\nselection: {k: 3, max_images: 9}\n")
    said: list[str] = []
    config = load_config(tmp_path / "a.yaml", ["method=lora", "selection.rank=4"], say=said.append)
    assert config.selection == LoraOptions(rank=4)  # type: ignore[call-arg]
    assert said == [f"{tmp_path / 'a.yaml'}: its selection belongs to method gps and is left out for method lora"]
    assert load_config(tmp_path / "a.yaml", ["method=gps"], say=said.append).selection.k == 3  # type: ignore[attr-defined]
    assert len(said) == 1


def test_every_setting_says_what_it_is_for_or_has_a_plain_name() -> None:
    assert {"train.lr", "selection.k", "data.augment.rotate"} <= set(known_keys(page_of()))


def test_settings_and_help_load_without_torch_and_quickly() -> None:
    code = ("import sys, gps_seg.config, gps_seg.errors, gps_seg.metrics.masks, gps_seg.cli, gps_seg; "
            "assert 'torch' not in sys.modules and 'PIL' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_comparison_is_not_taken_for_a_run() -> None:
    path = Path(__file__).parent.parent / "configs" / "compare_kvasir.yaml"
    with pytest.raises(ConfigError, match="is a comparison of several runs: gps-seg compare"):
        load_config(path)
