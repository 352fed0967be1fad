"""Which scalars of a model may change: the best-scored connections, and parameters that train as a whole.

A plan (:mod:`gps_seg.core.roles`) and scores (:mod:`gps_seg.core.scores`) make a :class:`Selection`: flat indices, never dense
masks.

Source: Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024, arXiv 2312.10136. Where we
differ from the released code: one ``topk`` per tensor runs on the tensor's device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gps_seg.core.roles import TRANSPOSED, Assignment, Role, matches, neuron_rows, owners
from gps_seg.errors import TrainingError

Level = Literal["neuron", "layer", "network"]


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


def select(
    model: nn.Module,
    plan: Mapping[str, Assignment],
    scores: Mapping[str, Tensor],
    *,
    k: int,
    head_k: int | None = None,
    level: Level = "neuron",
    meta: Mapping[str, str] | None = None,
) -> Selection:
    """Keep the best connections under one budget: k times the number of neurons, whatever the level.

    ``neuron`` keeps the k best of every row (all of a row shorter than k); ``layer`` the best of each tensor; ``network``
    the best of all tensors together, the head's apart from the others. Ties follow ``torch.topk``.

    Args:
        head_k: of parameters with the role ``head``; default: k.
        scores: name -> score in the weight's shape, for every parameter whose treatment is ``select``.

    Raises:
        TrainingError: all scores are zero.
    """
    names = [name for name, assignment in plan.items() if assignment.treatment == "select"]
    for group in ([name for name in names if (plan[name].role == "head") is head] for head in (False, True)):
        if group and not any(bool(scores[name].any()) for name in group):
            raise TrainingError(f"selection: every score is zero from {group[0]} on, nothing tells connections apart; a "
                                "contrastive loss needs several images, of at least two classes, in a batch")
    owner_of = owners(model)
    rows = {name: neuron_rows(owner_of[name][0], scores[name]) for name in names}
    head = {name: view for name, view in rows.items() if plan[name].role == "head"}
    chosen = _best({name: view for name, view in rows.items() if name not in head}, k, level)
    chosen |= _best(head, k if head_k is None else head_k, level)
    sparse = {name: _to_weight_order(owner_of[name][0], scores[name], chosen[name]) for name in names}
    dense = {name: assignment.role for name, assignment in plan.items() if assignment.treatment == "train"}
    kept = {name: indices for name, indices in sparse.items() if len(indices)}
    return Selection(kept, dense, fingerprint(model), dict(meta or {}))


def _best(rows: Mapping[str, Tensor], k: int, level: Level) -> dict[str, Tensor]:
    """Flat indices into each tensor of neurons."""
    if level == "neuron":
        return {name: _best_of_rows(view, k) for name, view in rows.items()}
    budget = {name: view.shape[0] * min(k, view.shape[1]) for name, view in rows.items()}
    if level == "layer":
        return {name: view.flatten().topk(budget[name]).indices for name, view in rows.items()}
    return _best_of_all(rows, sum(budget.values())) if rows else {}


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
        chosen = neuron_rows(owner, positions).flatten()[chosen]
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


def counts(
    selection: Selection, parameters: nn.Module | Mapping[str, Tensor], head: Sequence[str] = ()
) -> dict[str, int]:
    """Trainable scalars by role, their sum as ``trainable``, and the model's size as ``parameters``.

    Args:
        parameters: the model before anything is attached to it, or its parameters by name.
        head: globs of names whose selected connections count as ``head``, not as ``selected``.
    """
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else parameters
    sizes = {name: parameter.numel() for name, parameter in named.items()}
    found = {"selected": 0}
    for name, indices in selection.sparse.items():
        role = "head" if matches(name, head) else "selected"
        found[role] = found.get(role, 0) + len(indices)
    for name, role in selection.dense.items():
        found[role] = found.get(role, 0) + sizes[name]
    found["trainable"] = sum(found.values())
    found["parameters"] = sum(sizes.values())
    return found


def block_of(name: str) -> str:
    """The block a parameter belongs to: its name up to the last number, or its first part."""
    parts = name.split(".")[:-1]
    numbered = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1]) if numbered else parts[0] if parts else name
