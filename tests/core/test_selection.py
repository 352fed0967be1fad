"""Roles, scores, levels and counts, checked against slow and independent versions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gps_seg.core.roles import Policy, assign, role_of
from gps_seg.core.scores import data_free_scores, gradient_scores
from gps_seg.core.selection import counts, fingerprint, select
from gps_seg.core.table import table
from gps_seg.errors import ConfigError, TrainingError

EVERYTHING = Policy({"weight": "select", "bias": "train", "norm": "freeze", "scale": "train", "embedding": "freeze"})


class Scaled(nn.Module):
    """A layer with a raw scale and a raw table, as LayerScale and Swin have."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))
        self.table = nn.Parameter(torch.zeros(3, 4))


class LayerNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 5, 2), nn.Flatten(), nn.Linear(45, 7)
    )


def squared_error(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()  # type: ignore[no-any-return]


def scores_of(model: nn.Module, names: list[str], batches: list[Tensor], score: str = "gradient") -> dict[str, Tensor]:
    return gradient_scores(model, names, batches, squared_error, score=score)  # type: ignore[arg-type]


def test_roles_follow_the_owning_module_not_the_name() -> None:
    assert role_of(nn.Linear(2, 2), torch.zeros(2, 2)) == "weight"
    assert role_of(nn.Conv2d(2, 2, 1), torch.zeros(2)) == "bias"
    assert role_of(nn.BatchNorm2d(2), torch.zeros(2)) == "norm"
    assert role_of(LayerNorm2d(), torch.zeros(2)) == "norm"
    assert role_of(nn.Embedding(3, 2), torch.zeros(3, 2)) == "embedding"
    assert role_of(Scaled(), torch.zeros(4)) == "scale"
    assert role_of(Scaled(), torch.zeros(3, 4)) == "embedding"


def test_a_linear_called_norm_head_bias_pos_is_still_a_weight() -> None:
    model = nn.ModuleDict({"norm_head_bias_pos": nn.Linear(3, 2)})
    plan = assign(model, EVERYTHING)
    assert plan["norm_head_bias_pos.weight"].treatment == "select"
    assert plan["norm_head_bias_pos.bias"].role == "bias"


@pytest.mark.parametrize("k", [1, 2, 5, 1000])
def test_every_neuron_keeps_its_k_best_connections(k: int) -> None:
    model = small_net()
    plan = assign(model, EVERYTHING)
    names = [name for name, part in plan.items() if part.treatment == "select"]
    scores = scores_of(model, names, [torch.randn(2, 3, 4, 4) for _ in range(3)])
    selection = select(model, plan, scores, k=k)
    for name in names:
        rows = scores[name].movedim(1, 0) if name.startswith("3") else scores[name]  # the transposed convolution
        chosen = torch.zeros(scores[name].numel(), dtype=torch.bool)
        chosen[selection.sparse[name]] = True
        chosen_rows = chosen.view(scores[name].shape).movedim(1, 0) if name.startswith("3") else chosen.view(scores[name].shape)
        for row, picked in zip(rows, chosen_rows, strict=True):  # the slow version: sort one neuron at a time
            best = sorted(row.flatten().tolist(), reverse=True)[: min(k, row.numel())]
            assert sorted(row[picked].tolist(), reverse=True) == best


def test_all_levels_spend_the_same_budget() -> None:
    model = small_net()
    plan = assign(model, EVERYTHING)
    names = [name for name, part in plan.items() if part.treatment == "select"]
    scores = scores_of(model, names, [torch.randn(2, 3, 4, 4)])
    sizes = {level: counts(select(model, plan, scores, k=2, level=level), model)["selected"]  # type: ignore[arg-type]
             for level in ("neuron", "layer", "network")}
    assert sizes == dict.fromkeys(sizes, 2 * (6 + 5 + 7))


def test_network_level_takes_the_largest_scores_of_the_whole_model() -> None:
    model = small_net()
    plan = assign(model, EVERYTHING)
    names = [name for name, part in plan.items() if part.treatment == "select"]
    scores = scores_of(model, names, [torch.randn(2, 3, 4, 4)])
    selection = select(model, plan, scores, k=1, level="network")
    picked = torch.cat([scores[name].flatten()[indices] for name, indices in selection.sparse.items()])
    everything = torch.cat([scores[name].flatten() for name in names])
    assert torch.equal(picked.sort().values, everything.topk(len(picked)).values.sort().values)


def test_opposite_gradients_cancel_in_the_papers_score_and_add_up_in_its_absolute_variant() -> None:
    model = nn.Linear(3, 2, bias=False)
    x = torch.randn(4, 3)

    def signed(model: nn.Module, batch: Tensor) -> Tensor:
        return batch * model(x).sum()

    batches = [torch.tensor(1.0), torch.tensor(-1.0)]
    assert gradient_scores(model, ["weight"], batches, signed)["weight"].abs().max() == 0
    absolute = gradient_scores(model, ["weight"], batches, signed, score="gradient_abs")["weight"]
    torch.testing.assert_close(absolute, 2 * x.sum(0).abs().expand(2, 3))
    squared = gradient_scores(model, ["weight"], batches, signed, score="gradient_squared")["weight"]
    torch.testing.assert_close(squared, 2 * x.sum(0).square().expand(2, 3))


def test_the_gradient_score_equals_plain_autograd() -> None:
    model, batches = small_net(), [torch.randn(2, 3, 4, 4) for _ in range(3)]
    found = scores_of(model, ["0.weight", "5.weight"], batches)
    weighted = scores_of(model, ["0.weight", "5.weight"], batches, "gradient_weight")
    for batch in batches:
        squared_error(model, batch).backward()
    for name in found:
        parameter = model.get_parameter(name)
        torch.testing.assert_close(found[name], parameter.grad.abs())  # type: ignore[union-attr]
        torch.testing.assert_close(weighted[name], (parameter.grad * parameter).abs().detach())  # type: ignore[operator]


def test_the_pass_leaves_weights_gradients_and_flags_as_they_were() -> None:
    model = small_net()
    model[5].weight.requires_grad_(False)
    before = fingerprint(model.eval())
    scores_of(model, ["0.weight"], [torch.randn(2, 3, 4, 4)])
    assert fingerprint(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[5].weight.requires_grad and model[0].weight.requires_grad


def test_a_pass_without_batches_or_with_nan_is_an_error() -> None:
    model = small_net()
    with pytest.raises(TrainingError, match="expected at least one batch"):
        scores_of(model, ["0.weight"], [])
    with pytest.raises(TrainingError, match="loss of batch 2 is nan"):
        scores_of(model, ["0.weight"], [torch.randn(2, 3, 4, 4), torch.full((2, 3, 4, 4), float("nan"))])


def test_selecting_inside_a_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="2.weight: a norm has no rows"):
        assign(small_net(), Policy({**EVERYTHING.roles, "norm": "select"}))


def test_random_scores_repeat_with_their_seed_and_magnitude_is_the_weight() -> None:
    model = small_net()
    first, again, other = (data_free_scores(model, ["5.weight"], score="random", seed=seed)["5.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    magnitude = data_free_scores(model, ["5.weight"], score="magnitude")["5.weight"]
    assert torch.equal(magnitude, model[5].weight.detach().abs())


def test_a_head_whose_scores_are_all_zero_is_refused_though_the_encoders_are_not() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    roles = Policy({"weight": "select", "bias": "train", "norm": "freeze", "scale": "train", "embedding": "freeze"},
                   head=("1.*",), head_treatment="select")
    plan = assign(model, roles)
    for silent in ("0.weight", "1.weight"):
        scores = {name: torch.full((4 if name[0] == "0" else 2, 4), float(name != silent)) for name in ("0.weight", "1.weight")}
        with pytest.raises(TrainingError, match=f"every score is zero from {silent} on"):
            select(model, plan, scores, k=1)


def test_the_table_ends_with_totals_that_equal_the_counts() -> None:
    model = small_net()
    plan = assign(model, Policy(EVERYTHING.roles, head=["5.*"]))
    names = [name for name, part in plan.items() if part.treatment == "select"]
    selection = select(model, plan, data_free_scores(model, names, score="magnitude"), k=1)
    last = table(selection, model).splitlines()[-1].split()
    sizes = counts(selection, model)
    assert last[0] == "total" and last[1] == f"{sizes['selected']:,}" and last[4] == f"{sizes['head']:,}"


def test_the_fingerprint_sees_one_changed_bit() -> None:
    model = small_net()
    before = fingerprint(model)
    with torch.no_grad():
        model[5].weight[0, 0] = torch.nextafter(model[5].weight[0, 0], torch.tensor(9.0))
    assert fingerprint(model) != before
