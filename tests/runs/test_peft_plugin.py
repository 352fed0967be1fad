"""The method as peft's users meet it: their functions, any torch model, transformers' SAMs, and GPSModel's results."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gps_seg.peft as plugin
from gps_seg import GPSConfig, GPSModel, get_gps_model
from gps_seg.core.selection import fingerprint
from gps_seg.errors import CheckpointError, ConfigError

import peft  # isort: skip - torchvision may need care before it


class Net(nn.Module):
    """Linear layers, convolutions with and without groups, a norm, and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
            self.norm = nn.LayerNorm(8)
            self.body = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            self.head = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
        self.encoder_patterns, self.head_patterns = ("first.*", "second.*", "norm.*", "body.*"), ("head.*",)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.norm(self.second(self.first(x)).mean((2, 3)))))


DRAW = torch.Generator().manual_seed(1)
BATCHES = [(torch.randn(4, 3, 6, 6, generator=DRAW), torch.randn(4, 2, generator=DRAW)) for _ in range(3)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def train(model: nn.Module, parameters: list[nn.Parameter], follow: Callable[[Any], Any] | None = None) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    if follow is not None:
        follow(optimizer)
    for batch in BATCHES:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def tuned(seed: int = 0, **settings: Any) -> Any:
    config = plugin.select(Net(), plugin.GPSConfig(modules_to_save=["head"], seed=seed, **settings), BATCHES, loss)
    model = peft.get_peft_model(Net(), config)
    train(model, trainable(model))
    return model


X = BATCHES[0][0]


def test_selection_training_and_counts_are_gps_models() -> None:
    ours = get_gps_model(Net(), GPSConfig(k=1), BATCHES, loss)
    assert torch.equal(ours(X), Net()(X))
    train(ours, ours.trainable_parameters(), ours.follow)
    theirs = tuned()
    assert torch.equal(theirs(X), ours(X))
    assert theirs.get_nb_trainable_parameters()[0] == ours.attached.counts()["trainable"]
    for name, parameter in theirs.merge_and_unload().named_parameters():
        assert torch.equal(parameter, dict(ours.base_model.named_parameters())[name]), name


def test_a_saved_adapter_comes_back_to_the_bit_and_merges_into_a_stock_model(tmp_path: Path) -> None:
    model = tuned(k=2)
    with torch.no_grad():
        wanted = model(X)
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["peft_type"] == "GPS" and document["k"] == 2 and "selection" not in document
    loaded = peft.PeftModel.from_pretrained(Net(), tmp_path)
    assert torch.equal(loaded(X), wanted) and not trainable(loaded)
    merged = loaded.merge_and_unload()
    assert torch.equal(merged(X), wanted)
    assert [(name, type(module)) for name, module in merged.named_modules()] == [
        (name, type(module)) for name, module in Net().named_modules()]
    assert list(merged.state_dict()) == list(Net().state_dict())


def test_unmerging_disabling_and_unloading_bring_the_base_back_to_the_bit() -> None:
    model, base = tuned(), Net()
    with torch.no_grad():
        wanted = model(X)
        with model.disable_adapter():
            assert torch.equal(model(X), base(X))
        model.merge_adapter()
        assert torch.equal(model(X), wanted)
        model.unmerge_adapter()
        assert torch.equal(model(X), wanted)
    assert fingerprint(model.unload()) == fingerprint(base)


def test_several_adapters_live_on_one_base(tmp_path: Path) -> None:
    one, two = tuned(), tuned(k=2, train_bias=False)
    for name, model in (("one", one), ("two", two)):
        model.save_pretrained(tmp_path / name)
    model = peft.PeftModel.from_pretrained(Net(), tmp_path / "one", adapter_name="one", is_trainable=True)
    model.load_adapter(tmp_path / "two", "two")
    with torch.no_grad():
        for _ in range(2):
            for name, alone in (("one", one), ("two", two)):
                model.set_adapter(name)
                assert torch.equal(model(X), alone(X))
    model.set_adapter("one")
    before = model.base_model.model.first.gps_values["two"].clone()
    train(model, trainable(model))
    assert torch.equal(model.base_model.model.first.gps_values["two"], before)
    model.delete_adapter("two")
    assert fingerprint(model.unload()) == fingerprint(Net())


def test_adapters_that_change_the_same_scalars_are_not_mixed(tmp_path: Path) -> None:
    tuned().save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(Net(), tmp_path, adapter_name="a")
    model.load_adapter(tmp_path, "b")
    with pytest.raises(ConfigError, match="a, b change the same scalars"):
        model.base_model.merge_adapter(adapter_names=["a", "b"])


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_scores_without_data_need_no_pass(score: str) -> None:
    model = peft.get_peft_model(Net(), plugin.GPSConfig(score=score, k=2, target_modules=["first", "body.0"]))
    assert model.get_nb_trainable_parameters()[0] == 2 * 8 + 8 + 2 * 16 + 16
    model(X).sum().backward()
    assert all(parameter.grad is not None for parameter in trainable(model))


def test_the_gradients_are_the_dense_ones_at_the_selected_entries() -> None:
    model = peft.get_peft_model(Net(), plugin.select(Net(), plugin.GPSConfig(k=3), BATCHES, loss))
    dense = Net()
    loss(model, BATCHES[0]).backward()
    loss(dense, BATCHES[0]).backward()
    for name in ("first", "second", "body.0", "head.1"):
        layer: Any = model.base_model.model.get_submodule(name)
        assert layer.base_layer.weight.grad is None
        wanted: Any = dense.get_submodule(name).weight.grad
        torch.testing.assert_close(layer.gps_values["default"].grad, wanted.flatten()[layer.gps_indices["default"].long()])


def test_deltas_are_converted_both_ways(tmp_path: Path) -> None:
    ours = get_gps_model(Net(), GPSConfig(k=1), BATCHES, loss)
    train(ours, ours.trainable_parameters(), ours.follow)
    ours.save_pretrained(tmp_path / "ours")
    wanted = ours(X).detach()
    plugin.to_peft_model(GPSModel.from_pretrained(Net(), tmp_path / "ours")).save_pretrained(tmp_path / "peft")
    theirs = peft.PeftModel.from_pretrained(Net(), tmp_path / "peft")
    assert torch.equal(theirs(X), wanted)
    back = plugin.to_gps_model(theirs)
    assert torch.equal(back(X), wanted)
    back.save_pretrained(tmp_path / "back")
    assert torch.equal(GPSModel.from_pretrained(Net(), tmp_path / "back")(X), wanted)
    with pytest.raises(CheckpointError, match="an adapter of peft: load it with"):
        GPSModel.from_pretrained(Net(), tmp_path / "peft")
    with pytest.warns(UserWarning, match="Unexpected keyword"), pytest.raises(CheckpointError, match="a delta of gps-seg itself"):
        peft.PeftModel.from_pretrained(Net(), tmp_path / "ours")


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    tuned().save_pretrained(tmp_path)
    adapted = peft.get_peft_model(Net(), plugin.GPSConfig(score="random"))
    for call, error, words in (
        (lambda: peft.get_peft_model(Net(), plugin.GPSConfig()), ConfigError, "nothing is selected yet"),
        (lambda: plugin.select(Net(), plugin.GPSConfig()), ConfigError, "needs batches and a loss"),
        (lambda: plugin.select(adapted, plugin.GPSConfig()), ConfigError, "expected a model without adapters"),
        (lambda: plugin.select(Net(), plugin.GPSConfig(score="best")), ConfigError, "GPSConfig.score: expected one of"),
        (lambda: plugin.select(Net(), plugin.GPSConfig(target_modules=["norm"])), ConfigError, "norm is a LayerNorm"),
        (lambda: plugin.select(Net(), plugin.GPSConfig(target_modules=["nothing"])), ConfigError, "no linear layer"),
        (lambda: plugin.GPSConfig(k=0), ConfigError, "a whole number from 1, got 0"),
        (lambda: peft.PeftModel.from_pretrained(Net(1), tmp_path), CheckpointError, "is of a base with fingerprint"),
        (lambda: plugin.to_gps_model(adapted, "other"), ConfigError, "expected a PeftModel with an adapter 'other'"),
    ):
        with pytest.raises(error, match=words) as raised:
            call()  # type: ignore[no-untyped-call]
        assert "\n" not in str(raised.value)


def tiny_sam() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import SamConfig, SamModel

    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
              "output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 32, "num_pos_feats": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    prompts = {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4}
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    return SamModel(config), {"pixel_values": torch.randn(2, 3, 32, 32), "input_points": torch.rand(2, 1, 1, 2) * 32}


def tiny_sam2() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import Sam2Config, Sam2Model

    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [2, 2, 2, 2],
                "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]}
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
              "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    return Sam2Model(config), {"pixel_values": torch.randn(2, 3, 64, 64), "input_points": torch.rand(2, 1, 1, 2) * 64}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21.2 asks transformers 5.23 for it
@pytest.mark.parametrize("make", [tiny_sam, tiny_sam2])
def test_transformers_sams_are_tuned_saved_and_merged(make: Callable[[], tuple[Any, dict[str, Tensor]]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    base = copy.deepcopy(model)

    def masks(model: nn.Module, _: object = None) -> Tensor:
        return model(**inputs, multimask_output=False).pred_masks.square().mean()

    config = plugin.GPSConfig(target_modules=r"vision_encoder\..*(qkv|proj|lin1|lin2|proj_in|proj_out|projection)",
                              modules_to_save=["mask_decoder"])
    tuned = peft.get_peft_model(model, plugin.select(model, config, [None], masks))
    before = masks(tuned).detach()
    optimizer = torch.optim.AdamW(trainable(tuned), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        masks(tuned).backward()
        optimizer.step()
    after = masks(tuned).detach()
    assert after != before
    tuned.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert masks(loaded) == after
    merged = loaded.merge_and_unload()
    assert masks(merged) == after and list(merged.state_dict()) == list(base.state_dict())
