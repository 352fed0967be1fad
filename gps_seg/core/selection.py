"""The core: which scalars of a model may change. Knows torch and nothing of tasks, data or SAM.

Three steps, each a function: :func:`assign` gives every parameter a role by the module that owns it, and a treatment;
:func:`gradient_scores` runs the selection pass; :func:`select` keeps the best connections. The result is a
:class:`Selection`: flat indices, never dense masks.

Source: Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024, arXiv 2312.10136. Where we
differ from the released code: roles come from module types instead of name substrings, and one ``topk`` per tensor runs on
the tensor's device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from gps_seg.errors import ConfigError, TrainingError

Role = Literal["weight", "bias", "norm", "scale", "embedding", "head", "inserted"]
Treatment = Literal["select", "train", "freeze"]
Score = Literal["gradient", "gradient_abs", "gradient_squared", "gradient_weight", "magnitude", "random"]
Level = Literal["neuron", "layer", "network"]
BatchT = TypeVar("BatchT")

WEIGHT_OWNERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.MultiheadAttention)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Policy:
    """How roles become treatments. Patterns are globs over parameter names; ``*`` crosses dots.

    Order of decision: ``overrides`` (first hit wins), ``head`` patterns, ``exclude``, not in ``include``, role.
    """

    roles: Mapping[str, Treatment]
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    overrides: Sequence[tuple[str, Treatment]] = ()
    head: Sequence[str] = ()
    head_treatment: Treatment = "train"


@dataclass(frozen=True)
class Assignment:
    """One parameter's place in the plan. ``neurons`` is the number of output rows or channels (0 without rows)."""

    role: Role
    treatment: Treatment
    numel: int
    neurons: int


@dataclass(frozen=True)
class Selection:
    """Which scalars may change.

    Attributes:
        sparse: weight name -> int64 (n,) ascending flat indices into the contiguous weight.
        dense: name -> role of every parameter that trains as a whole.
        base: :func:`fingerprint` of the model the selection was made on.
        meta: text that says how it was made (score, level, k, images, ...).
    """

    sparse: Mapping[str, Tensor]
    dense: Mapping[str, Role]
    base: str
    meta: Mapping[str, str] = field(default_factory=dict)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a parameter name fits any glob pattern."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def owners(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Parameter name -> (owning module, attribute). A shared parameter appears once, under its first name."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, _ in model.named_parameters():
        module_name, _, attribute = name.rpartition(".")
        found[name] = (model.get_submodule(module_name), attribute)
    return found


def role_of(owner: nn.Module, parameter: Tensor) -> Role:
    """The role of a parameter, from the type of the module that owns it.

    Norm layers are torch's and every class whose name contains "Norm" (SAM and timm define their own). A parameter that
    sits directly on some other module is a ``scale`` if one-dimensional (LayerScale's gamma), else an ``embedding``
    (class token, absolute or relative position table).
    """
    if "Norm" in type(owner).__name__:
        return "norm"
    if isinstance(owner, WEIGHT_OWNERS):
        return "weight" if parameter.ndim >= 2 else "bias"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    return "scale" if parameter.ndim <= 1 else "embedding"


def assign(model: nn.Module, policy: Policy) -> dict[str, Assignment]:
    """Give every parameter of the model exactly one role and one treatment.

    Raises:
        ConfigError: ``select`` was asked for a tensor without rows.
    """
    plan: dict[str, Assignment] = {}
    parameters = dict(model.named_parameters())
    for name, (owner, _) in owners(model).items():
        parameter = parameters[name]
        role = role_of(owner, parameter)
        is_head = matches(name, policy.head)
        treatment = _treatment(name, role, policy)
        neurons = _neuron_rows(owner, parameter).shape[0] if role == "weight" else 0
        if treatment == "select" and role != "weight":
            raise ConfigError(f"{name}: a {role} has no rows to select from; use train or freeze")
        plan[name] = Assignment("head" if is_head else role, treatment, parameter.numel(), neurons)
    return plan


def _treatment(name: str, role: Role, policy: Policy) -> Treatment:
    for pattern, treatment in policy.overrides:
        if fnmatchcase(name, pattern):
            return treatment
    if matches(name, policy.head):
        return policy.head_treatment
    if matches(name, policy.exclude) or not matches(name, policy.include):
        return "freeze"
    return policy.roles[role]


def _neuron_rows(owner: nn.Module, tensor: Tensor) -> Tensor:
    """View (or copy) of a weight-shaped tensor as (neurons, connections)."""
    if isinstance(owner, TRANSPOSED):  # weight is (in, out / groups, *kernel)
        return tensor.movedim(1, 0).flatten(1)
    return tensor.flatten(1)


def gradient_scores(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[BatchT],
    loss: Callable[[nn.Module, BatchT], Tensor],
    *,
    score: Score = "gradient",
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
            ``gradient_weight`` (|w * sum of g|).

    Raises:
        TrainingError: there was no batch, or a loss or score is not a finite number.
    """
    parameters = dict(model.named_parameters())
    running = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in names}
    required = {name: parameter.requires_grad for name, parameter in parameters.items()}
    handles = []
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in running)
            if name in running:
                handles.append(parameter.register_post_accumulate_grad_hook(_adding_to(running[name], score)))
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
    return {name: _finish(name, total, parameters[name], score) for name, total in running.items()}


def _adding_to(total: Tensor, score: Score) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        parameter.grad = None
        if score == "gradient_abs":
            total.add_(gradient.abs())
        elif score == "gradient_squared":
            total.add_(gradient.float().square())
        else:
            total.add_(gradient)

    return hook


def _finish(name: str, total: Tensor, parameter: Tensor, score: Score) -> Tensor:
    if not torch.isfinite(total).all():
        raise TrainingError(f"selection pass: the score of {name} is not finite; try precision fp32")
    if score == "gradient_weight":
        total.mul_(parameter.detach())
    return total.abs_()


def data_free_scores(model: nn.Module, names: Sequence[str], *, score: Score, seed: int = 0) -> dict[str, Tensor]:
    """Scores that need no data: ``magnitude`` (|w|) or ``random`` (uniform, from the seed and the order of names)."""
    parameters = dict(model.named_parameters())
    if score == "magnitude":
        return {name: parameters[name].detach().float().abs() for name in names}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(parameters[name].shape, generator=generator) for name in names}


def select(
    model: nn.Module,
    plan: Mapping[str, Assignment],
    scores: Mapping[str, Tensor],
    *,
    k: int,
    level: Level = "neuron",
    meta: Mapping[str, str] | None = None,
) -> Selection:
    """Keep the best connections under one budget: k times the number of neurons, whatever the level.

    ``neuron`` keeps the k best of every row (all of a row shorter than k); ``layer`` the best of each tensor; ``network``
    the best of all tensors together. Ties follow ``torch.topk``.

    Args:
        scores: name -> score in the weight's shape, for every parameter whose treatment is ``select``.

    Raises:
        TrainingError: all scores are zero.
    """
    names = [name for name, assignment in plan.items() if assignment.treatment == "select"]
    if names and not any(bool(scores[name].any()) for name in names):
        raise TrainingError("selection: every score is zero, nothing tells connections apart; a contrastive loss needs several "
                            "images, of at least two classes, in a batch")
    owner_of = owners(model)
    rows = {name: _neuron_rows(owner_of[name][0], scores[name]) for name in names}
    budget = {name: view.shape[0] * min(k, view.shape[1]) for name, view in rows.items()}
    if level == "neuron":
        chosen = {name: _best_of_rows(rows[name], k) for name in names}
    elif level == "layer":
        chosen = {name: rows[name].flatten().topk(budget[name]).indices for name in names}
    else:
        chosen = _best_of_all(rows, sum(budget.values()))
    sparse = {name: _to_weight_order(owner_of[name][0], scores[name], chosen[name]) for name in names}
    dense = {name: assignment.role for name, assignment in plan.items() if assignment.treatment == "train"}
    kept = {name: indices for name, indices in sparse.items() if len(indices)}
    return Selection(kept, dense, fingerprint(model), dict(meta or {}))


def _best_of_rows(rows: Tensor, k: int) -> Tensor:
    width = rows.shape[1]
    columns = rows.topk(min(k, width), dim=1).indices
    offsets = torch.arange(rows.shape[0], device=rows.device)[:, None] * width
    return (columns + offsets).flatten()


def _best_of_all(rows: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    flat = torch.cat([tensor.flatten().cpu() for tensor in rows.values()])
    best = flat.topk(budget).indices
    chosen, start = {}, 0
    for name, tensor in rows.items():
        inside = best[(best >= start) & (best < start + tensor.numel())]
        chosen[name] = inside - start
        start += tensor.numel()
    return chosen


def _to_weight_order(owner: nn.Module, score: Tensor, chosen: Tensor) -> Tensor:
    """Flat indices into the neuron view -> ascending flat indices into the weight itself, on the CPU."""
    if isinstance(owner, TRANSPOSED):
        positions = torch.arange(score.numel(), device=chosen.device).view(score.shape)
        chosen = _neuron_rows(owner, positions).flatten()[chosen]
    return chosen.sort().values.cpu()


def fingerprint(model: nn.Module, skip: Sequence[str] = ()) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and persistent buffers, sorted by name.

    Args:
        skip: globs of what does not count, such as a classifier's fresh head.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if matches(name, skip):
            continue
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{data.dtype}|{tuple(data.shape)}|".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def counts(selection: Selection, parameters: nn.Module | Mapping[str, Tensor]) -> dict[str, int]:
    """Trainable scalars by role, their sum as ``trainable``, and the model's size as ``parameters``.

    Args:
        parameters: the model before anything is attached to it, or its parameters by name.
    """
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else parameters
    sizes = {name: parameter.numel() for name, parameter in named.items()}
    found = {"selected": sum(len(indices) for indices in selection.sparse.values())}
    for name, role in selection.dense.items():
        found[role] = found.get(role, 0) + sizes[name]
    found["trainable"] = sum(found.values())
    found["parameters"] = sum(sizes.values())
    return found


def table(selection: Selection, model: nn.Module) -> str:
    """The selection as text: one line a block, columns selected / bias / other / head / block size / percent."""
    columns = ("selected", "bias", "other", "head", "size")
    blocks: dict[str, dict[str, int]] = {}
    detailed = {name.partition(".")[0] for name in selection.sparse}  # a part without selected entries is one line
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        row = blocks.setdefault(block_of(name) if part in detailed else part, dict.fromkeys(columns, 0))
        row["size"] += parameter.numel()
        row["selected"] += len(selection.sparse.get(name, ()))
        if name in selection.dense:
            role = selection.dense[name]
            row[role if role in ("bias", "head") else "other"] += parameter.numel()
    width = max(len(block) for block in blocks)
    lines = [f"{'block':<{width}} {'selected':>10} {'bias':>8} {'other':>10} {'head':>10} {'size':>12} {'trained':>9}"]
    total = dict.fromkeys(columns, 0)
    for block, row in blocks.items():
        lines.append(_table_line(block, row, width))
        total = {key: total[key] + row[key] for key in total}
    return "\n".join([*lines, _table_line("total", total, width)])


def block_of(name: str) -> str:
    """The block a parameter belongs to: its name up to the last number, or its first part."""
    parts = name.split(".")[:-1]
    numbered = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1]) if numbered else parts[0] if parts else name


def _table_line(block: str, row: Mapping[str, int], width: int) -> str:
    trained = row["selected"] + row["bias"] + row["other"] + row["head"]
    return (
        f"{block:<{width}} {row['selected']:>10,} {row['bias']:>8,} {row['other']:>10,} {row['head']:>10,} "
        f"{row['size']:>12,} {100 * trained / row['size']:>8.3f}%"
    )
