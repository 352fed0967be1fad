"""Values that the deltas of several tasks share: one file for all, beside their folders.

``common.safetensors`` holds tensors as an exact delta does. A delta that lacks them names the file and its sha256 under
``common`` in adapter_config.json; together the two are the delta that the task alone would have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gps_seg.core.selection import Selection
from gps_seg.errors import CheckpointError
from gps_seg.files import sha256
from gps_seg.files.tensors import read_tensors, write_tensors
from gps_seg.runs.compact import exact

COMMON_FILE, COMMON_KEY = "common.safetensors", "common"
TRAINED_WITH = "trained_with"  # of a delta's description: the names of all tasks, each a run folder beside the others
FORMAT = "gps-seg common part 1"
Tensors = dict[str, Tensor]
Values = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # flat indices by weight, values by parameter


@dataclass(frozen=True)
class CommonPart:
    """The file of common values, and what it holds."""

    path: Path
    selection: Selection

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Write the file from one task's values, keyed like ``Attached.trainable()``, and its selection's indices.

        Args:
            state: of the common part alone.
        """
        write_tensors(self.path, exact(self.selection.sparse, state), {"format": FORMAT})

    def of(self, sparse: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensors:
        """The common values of a task's."""
        whole = {name: state[name] for name in self.selection.dense}
        return whole | {name: state[name][torch.isin(sparse[name], indices)] for name, indices in self.selection.sparse.items()}

    def without(self, sparse: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
        """A task's indices and values that are not common."""
        keep = {name: ~torch.isin(indices, self.selection.sparse[name]) for name, indices in sparse.items()
                if name in self.selection.sparse}
        rest = {name: indices[keep[name]] if name in keep else indices for name, indices in sparse.items()}
        values = {name: value[keep[name]] if name in keep else value for name, value in state.items()
                  if name not in self.selection.dense}
        empty = {name for name, indices in rest.items() if not len(indices)}
        return {name: rest[name] for name in rest if name not in empty}, {
            name: value for name, value in values.items() if name not in empty}

    def named(self) -> dict[str, str]:
        """How a delta names the file."""
        return {"file": self.path.name, "sha256": sha256(self.path)}


def read_common(folder: Path, named: Any) -> Tensors:
    """The tensors of the file that a delta names, found in its folder or beside that.

    Raises:
        CheckpointError: it is not there, another one is, or the name was edited.
    """
    file, digest = (named.get("file"), named.get("sha256")) if isinstance(named, dict) else (None, None)
    if not isinstance(file, str) or Path(file).name != file or not isinstance(digest, str):
        raise CheckpointError(f"{folder}: {COMMON_KEY!r} of adapter_config.json is wrong: the file was edited or damaged")
    places = [place / file for place in (folder, folder.absolute().parent)]
    for path in places:
        if path.is_file() and sha256(path) == digest:
            return read_tensors(path, "the values that tasks share")[0]
    found = next((path for path in places if path.is_file()), None)
    raise CheckpointError(f"{folder}: expected the values that it shares with other tasks, {file} with sha256 {digest[:16]}..., "
                          f"in {places[0].parent} or {places[1].parent}, found {f'another one at {found}' if found else 'none'}: "
                          "put the file there that was made with the run")


def join(own: Values, common: Values) -> tuple[Tensors, Tensors]:
    """A task's own values and the common ones as one delta: indices ascending, each with its value."""
    sparse, state = {**common[0], **own[0]}, {**common[1], **own[1]}
    for name in own[0].keys() & common[0].keys():
        indices, order = torch.cat([own[0][name], common[0][name]]).sort()
        sparse[name], state[name] = indices, torch.cat([own[1][name], common[1][name]])[order]
    return sparse, state
