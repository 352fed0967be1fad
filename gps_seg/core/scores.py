"""The selection pass: a score for every scalar of the weights that are selected from.

Source: Zhang et al., GPS, CVPR 2024, arXiv 2312.10136: the absolute value of the gradient, summed with its sign over one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from gps_seg.errors import TrainingError

Score = Literal[
    "gradient", "gradient_abs", "gradient_squared", "gradient_weight", "gradient_over_weight", "magnitude", "random"
]
BatchT = TypeVar("BatchT")
Scores = Callable[[Sequence[str]], dict[str, Tensor]]  # runs the selection pass: weight names -> fp32 scores in their shapes
DATA_FREE = ("magnitude", "random")
# Score -> what is summed over the batches for it: gradients with their sign, their absolute values, or their squares.
SUM_OF: dict[Score, str] = {
    "gradient": "signed", "gradient_abs": "absolute", "gradient_squared": "squared", "gradient_weight": "signed",
    "gradient_over_weight": "signed",
}


def gradient_scores(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[BatchT],
    loss: Callable[[nn.Module, BatchT], Tensor],
    *,
    score: Score | Mapping[str, Score] = "gradient",
) -> dict[str, Tensor]:
    """One pass over the batches: name -> fp32 score of every scalar, in the weight's shape. Weights do not move.

    Each layer's gradient is added to its running score and freed as soon as the backward pass reaches it, so no full-size
    copy of the gradient ever exists. ``gradient`` is |sum over batches of the gradient|: opposite gradients cancel.

    Args:
        model: any module; its mode (train or eval) is the caller's choice.
        names: the weights to score.
        batches: what ``loss`` takes; the order matters only to rounding.
        loss: (model, batch) -> scalar tensor.
        score: ``gradient``, ``gradient_abs`` (sum of |g|), ``gradient_squared`` (sum of g^2, an empirical Fisher),
            ``gradient_weight`` (|w * sum of g|), ``gradient_over_weight`` (|sum of g / w|); or the score of each name.

    Raises:
        TrainingError: there was no batch, or a loss or score is not a finite number.
    """
    found = several_gradient_scores(model, {name: (kind,) for name, kind in _of_each(names, score).items()}, batches, loss)
    return {name: single for name, scores in found.items() for single in scores.values()}


def several_gradient_scores(
    model: nn.Module,
    kinds: Mapping[str, Sequence[Score]],
    batches: Iterable[BatchT],
    loss: Callable[[nn.Module, BatchT], Tensor],
) -> dict[str, dict[Score, Tensor]]:
    """As :func:`gradient_scores`, several kinds of each weight from one pass: name -> kind -> score.

    Each sum that some kind needs is kept while the pass runs: of the gradients, of their absolute values, of their squares.
    """
    parameters = dict(model.named_parameters())
    running = {name: {SUM_OF[kind]: torch.zeros_like(parameters[name], dtype=torch.float32) for kind in asked}
               for name, asked in kinds.items()}
    required = {name: parameter.requires_grad for name, parameter in parameters.items()}
    handles = []
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in running)
            if name in running:
                handles.append(parameter.register_post_accumulate_grad_hook(_adding_to(running[name])))
        count = 0
        for count, batch in enumerate(batches, start=1):
            value = loss(model, batch)
            if not torch.isfinite(value):
                raise TrainingError(f"selection pass: the loss of batch {count} is {value.item()}; check images and weights")
            value.backward()
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])
    if count == 0:
        raise TrainingError("selection pass: expected at least one batch, got none")
    return {name: {kind: _finish(name, running[name][SUM_OF[kind]], parameters[name], kind) for kind in asked}
            for name, asked in kinds.items()}


def _adding_to(sums: Mapping[str, Tensor]) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        parameter.grad = None
        for name, total in sums.items():
            if name == "absolute":
                total.add_(gradient.abs())
            elif name == "squared":
                total.add_(gradient.float().square())
            else:
                total.add_(gradient)

    return hook


def _finish(name: str, total: Tensor, parameter: Tensor, score: Score) -> Tensor:
    """The score of a kind from its sum, which other kinds may share: it loses at most its sign, which none of them looks at."""
    if not torch.isfinite(total).all():
        raise TrainingError(f"selection pass: the score of {name} is not finite; try precision fp32")
    if score == "gradient_weight":
        return (total * parameter.detach()).abs_()
    if score == "gradient_over_weight":  # a weight of zero has the largest ratio there is, not infinity
        limits = torch.finfo(torch.float32)
        return (total / parameter.detach().float().abs().clamp_min(limits.tiny)).abs_().clamp_max_(limits.max)
    return total.abs_()


def data_free_scores(
    model: nn.Module, names: Sequence[str], *, score: Score | Mapping[str, Score], seed: int = 0
) -> dict[str, Tensor]:
    """Scores that need no data: ``magnitude`` (|w|) or ``random`` (uniform, from the seed and the order of names)."""
    parameters, kind = dict(model.named_parameters()), _of_each(names, score)
    generator = torch.Generator().manual_seed(seed)
    return {name: parameters[name].detach().float().abs() if kind[name] == "magnitude"
            else torch.rand(parameters[name].shape, generator=generator) for name in names}


def scores_of_each(
    model: nn.Module, score: Mapping[str, Score], run_pass: Callable[[Sequence[str]], dict[str, Tensor]], *, seed: int = 0
) -> dict[str, Tensor]:
    """Scores of several kinds: one pass over the data, ``run_pass(names)``, for all that need it, none for the others."""
    free = [name for name, kind in score.items() if kind in DATA_FREE]
    rest = [name for name in score if name not in free]
    return data_free_scores(model, free, score=score, seed=seed) | (run_pass(rest) if rest else {})


def _of_each(names: Sequence[str], score: Score | Mapping[str, Score]) -> dict[str, Score]:
    return {name: score if isinstance(score, str) else score[name] for name in names}
