"""Several selections on one base: how much they share, block by block, and what sharing saves.

Source: Zhang et al., GPS, CVPR 2024, arXiv 2312.10136, Figs. 8, 9 and 12 (about two thirds of the selected connections are
shared across six tasks of VTAB-1k); that every task needs its own selection is the limitation the paper names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gps_seg.core.selection import Selection, block_of
from gps_seg.errors import CheckpointError

ENCODER = "encoder_sha256"  # in a selection's meta: the base without its head, which is fresh for every task and seed


def per_block(selection: Selection) -> dict[str, int]:
    """Number of selected connections of each block, in the selection's order."""
    found: dict[str, int] = {}
    for name, indices in selection.sparse.items():
        block = block_of(name)
        found[block] = found.get(block, 0) + len(indices)
    return found


def check_same_base(selections: Mapping[str, Selection]) -> None:
    """Raises CheckpointError if the selections were made on different weights, so that their indices mean different things.

    Heads may differ where all selections say what their encoder was.
    """
    encoders = {name: selection.meta.get(ENCODER, "") for name, selection in selections.items()}
    bases = encoders if all(encoders.values()) else {name: selection.base for name, selection in selections.items()}
    if len(set(bases.values())) > 1:
        shown = ", ".join(f"{name} {base[:12]}" for name, base in bases.items())
        raise CheckpointError(f"the selections are of different base weights: {shown}")


def overlap(selections: Mapping[str, Selection]) -> Tensor:
    """Part of the row's connections that the column has chosen too: fp64 (n, n), ones on the diagonal.

    Raises:
        CheckpointError: different bases.
    """
    check_same_base(selections)
    chosen = list(selections.values())
    return torch.tensor([[_common(a, b) / max(1, size_of(a)) for b in chosen] for a in chosen], dtype=torch.float64)


def size_of(selection: Selection) -> int:
    """Number of selected connections."""
    return sum(len(indices) for indices in selection.sparse.values())


def _common(a: Selection, b: Selection) -> int:
    return sum(int(torch.isin(indices, b.sparse[name], assume_unique=True).sum())
               for name, indices in a.sparse.items() if name in b.sparse)


@dataclass(frozen=True)
class Shared:
    """One selection for all tasks, and what is left for each.

    Attributes:
        common: connections that all tasks train.
        rests: by task, its other connections; ``common`` and a rest together hold all the task chose.
    """

    common: Selection
    rests: Mapping[str, Selection]

    def sizes(self) -> dict[str, int]:
        """Connections to store: ``common`` once, ``rest`` of all tasks together."""
        return {"common": size_of(self.common), "rest": sum(size_of(rest) for rest in self.rests.values())}


def share(selections: Mapping[str, Selection], least: float = 0.5) -> Shared:
    """Split the tasks' selections into what enough of them chose and small rests.

    Args:
        selections: by task, on one base.
        least: part of the tasks that must have chosen a connection for it to be common, 0..1.

    Raises:
        CheckpointError: different bases.
    """
    check_same_base(selections)
    first = next(iter(selections.values()))
    needed = max(1, math.ceil(least * len(selections)))
    common = {}
    for name in dict.fromkeys(name for selection in selections.values() for name in selection.sparse):
        indices, votes = torch.cat([s.sparse[name] for s in selections.values() if name in s.sparse]).unique(return_counts=True)
        if (votes >= needed).any():
            common[name] = indices[votes >= needed]
    meta = {"method": "gps", "tasks": ", ".join(selections), "least": str(least)}
    meta |= {ENCODER: first.meta[ENCODER]} if ENCODER in first.meta else {}
    return split(selections, Selection(common, first.dense, first.base, meta))


def split(selections: Mapping[str, Selection], common: Selection) -> Shared:
    """What each task chose beyond the common part.

    Raises:
        CheckpointError: different bases.
    """
    check_same_base({**selections, "common": common})
    rests = {task: Selection(_without(selection.sparse, common.sparse), selection.dense, selection.base, selection.meta)
             for task, selection in selections.items()}
    return Shared(common, rests)


def _without(sparse: Mapping[str, Tensor], common: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rest = {name: indices[~torch.isin(indices, common[name])] if name in common else indices for name, indices in sparse.items()}
    return {name: indices for name, indices in rest.items() if len(indices)}


def union(parts: Sequence[Selection]) -> Selection:
    """All connections and whole tensors of several selections on one base."""
    names = dict.fromkeys(name for part in parts for name in part.sparse)
    sparse = {name: torch.cat([part.sparse[name] for part in parts if name in part.sparse]).unique() for name in names}
    dense = {name: role for part in parts for name, role in part.dense.items()}
    return Selection(sparse, dense, parts[0].base, parts[0].meta)
