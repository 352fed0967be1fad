"""SPT: what the budget buys, against a slow version that takes one entry after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gps_seg.config import SptOptions, parse_config
from gps_seg.core.attach import attach
from gps_seg.core.scores import data_free_scores
from gps_seg.core.selection import Selection, counts, fingerprint
from gps_seg.errors import ConfigError, TrainingError
from gps_seg.methods import METHODS
from gps_seg.methods.added import add_modules, fold_modules, remove_modules
from gps_seg.methods.spt import _places, _sensitive
from gps_seg.models.classifiers import build_backbone

METHOD = pytest.mark.parametrize("method", ["spt_lora", "spt_adapter"])


class Small(nn.Module):
    """Two linear layers, a norm and a head."""

    head_patterns = ("head.*",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.patch, self.head = nn.LayerNorm(8), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.first(x + self.cls_token[0]).relu())))  # type: ignore[no-any-return]


def scored(model: nn.Module, names: Any, high: dict[str, int]) -> dict[str, Tensor]:
    """Scores below one, but for so many entries of each named parameter, the last ones, which are 2 and more."""
    found = {name: torch.rand(model.get_parameter(name).shape, generator=torch.Generator().manual_seed(1)) for name in names}
    for name, number in high.items():
        found[name].flatten()[-number:] += 2
    return found


def chosen(model: nn.Module, method: str, high: dict[str, int], **options: Any) -> Selection:
    page = SptOptions(**{"rank": 1, "matrix_ratio": 2, **options})
    return METHODS[method](model, page, lambda names: scored(model, names, high), 0)


def slow(scores: dict[str, Tensor], cost: Any, budget: int) -> dict[str, list[int]]:
    """One entry more at a time, the best first."""
    order = sorted(((float(value), name, index) for name, score in scores.items() for index, value in enumerate(score.flatten())),
                   reverse=True)
    taken: dict[str, list[int]] = {name: [] for name in scores}
    for _, name, index in order:
        more = {**taken, name: sorted([*taken[name], index])}
        if sum(cost(one, len(indices)) for one, indices in more.items()) > budget:
            break
        taken = more
    return taken


@METHOD
@pytest.mark.parametrize("budget", [3, 17, 40, 99])
def test_the_budget_buys_what_one_entry_after_the_other_would(method: str, budget: int) -> None:
    model = Small()
    places = _places(model, method, SptOptions(rank=1, matrix_ratio=2))
    scores = data_free_scores(model, list(places), score="random", seed=budget)
    found = _sensitive(scores, places, budget)
    assert {name: indices.tolist() for name, indices in found.items()} == slow(
        scores, lambda name, number: places[name].cost(number), budget)


@pytest.mark.parametrize(("method", "module"), [("spt_lora", 24), ("spt_adapter", 2 * 8 + 1 + 8)])
def test_a_sensitive_matrix_gets_a_module_a_sensitive_vector_trains_whole_the_rest_by_entries(method: str, module: int) -> None:
    model, high = Small(), {"second.weight": 14, "norm.bias": 2, "first.weight": 5, "first.bias": 3}
    base, encoder = fingerprint(model), 8 + 8 * 16 + 16 + 16 * 8 + 8 + 16 + 72
    selection = chosen(model, method, high, budget=(8 + module + 8 + 5 + 3) / encoder + 1e-6)
    assert selection.base == base
    assert {name: indices.tolist() for name, indices in selection.sparse.items()} == {
        "first.weight": [123, 124, 125, 126, 127], "first.bias": [13, 14, 15]}
    roles = {name: role for name, role in selection.dense.items() if role != "inserted"}
    assert roles == {"cls_token": "embedding", "norm.bias": "norm", "head.weight": "head", "head.bias": "head"}
    assert all(name.startswith("second.spt.") for name, role in selection.dense.items() if role == "inserted")
    sizes = counts(selection, model)
    assert sizes["inserted"] == module and sizes["trainable"] - sizes["head"] == 8 + module + 8 + 5 + 3


@METHOD
@pytest.mark.parametrize("budget", [0.05, 0.2, 0.6])
def test_the_encoder_never_trains_more_than_its_budget(method: str, budget: float) -> None:
    model = Small()
    encoder = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head"))
    sizes = counts(chosen(model, method, {}, budget=budget), model)
    assert 0 < sizes["trainable"] - sizes["head"] <= budget * encoder


@METHOD
def test_new_modules_change_no_output_train_and_can_be_rebuilt_and_taken_out(method: str) -> None:
    model, image = Small(), torch.randn(5, 8)
    stock = model(image)
    selection = chosen(model, method, {"second.weight": 30}, budget=0.3)
    assert torch.equal(model(image), stock)
    attached = attach(model, selection)
    optimizer = torch.optim.SGD(attached.trainable().values(), lr=0.1)
    attached.follow(optimizer)
    for _ in range(2):
        model(image).square().sum().backward()
        optimizer.step()
    trained = model(image)
    again = Small()
    add_modules(again, selection.meta)
    attach(again, selection).load(attached.state())
    assert torch.equal(again(image), trained) and not torch.equal(trained, stock)
    attached.merge()
    if method == "spt_lora":
        fold_modules(model, selection.meta)
        torch.testing.assert_close(model(image), trained)
        assert list(model.state_dict()) == list(Small().state_dict())
    else:
        with pytest.raises(ConfigError, match="method spt_adapter: its modules cannot be merged into a stock model"):
            fold_modules(model, selection.meta)
        remove_modules(model, selection.meta)


@METHOD
def test_a_model_without_linear_layers_is_refused_in_one_line(method: str) -> None:
    model = build_backbone("tf_efficientnet_lite0", classes=3)
    with pytest.raises(ConfigError, match=f"method {method}: expected an encoder with linear layers to tune, EfficientNet has "
                                          "none; use gps, lora, ssf or bitfit"):
        METHODS[method](model, SptOptions(), lambda names: {}, 0)


def test_a_budget_too_small_for_anything_and_scores_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="selection.budget: expected a larger part: it pays for 0 parameters beside the class"):
        chosen(Small(), "spt_lora", {}, budget=1e-6)
    with pytest.raises(TrainingError, match="every sensitivity is zero"):
        METHODS["spt_lora"](Small(), SptOptions(), lambda names: {name: torch.zeros(3) for name in names}, 0)


def test_a_vit_gets_what_was_released_and_its_patch_embedding_stays_frozen() -> None:
    model = build_backbone("vit_tiny_patch16_224", classes=3, input_size=32)
    places = _places(model, "spt_lora", SptOptions())
    assert not any(name.startswith(("patch_embed.", "head.")) or name in ("cls_token", "pos_embed") for name in places)
    assert sum(place.role == "weight" for place in places.values()) == 12 * 4
    assert places["blocks.0.mlp.fc1.weight"].whole == 8 * (192 + 768) and places["norm.weight"].least == 192 / 5
    assert _places(model, "spt_adapter", SptOptions())["blocks.0.mlp.fc1.weight"].whole == 2 * 8 * 768 + 8 + 768


def test_its_options_are_those_of_a_selection_pass_and_squared_gradients_are_the_default() -> None:
    config = parse_config({"task": "classification", "method": "spt_lora", "selection": {"budget": "1/200"}}, "test")
    assert isinstance(config.selection, SptOptions)
    assert (config.selection.score, config.selection.budget) == ("gradient_squared", 0.005)
