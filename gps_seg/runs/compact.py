"""The compact form of a delta: values in 16 bits, and of each selected entry its column alone. Half the bytes, or less.

Where every row of a weight has the same number of selected entries, as at the neuron level, their places are an int16 matrix
``NAME.gps_columns`` (rows, entries a row), columns ascending in each row; elsewhere (transposed convolutions, the layer and
network levels, rows of more than 32,768 columns) they stay int32 flat indices. All values are fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gps_seg.errors import CheckpointError

INDICES, COLUMNS, VALUES = ".gps_indices", ".gps_columns", ".gps_values"
WIDEST = 32768  # columns that int16 can name
NORMAL = 2.0**-14  # below it fp16 keeps fewer than 11 binary digits
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Rounding:
    """What 16 bits cost a delta.

    Attributes:
        relative: largest difference as a part of the value, over values of at least 2**-14; at most 2**-11.
        absolute: largest difference of all values.
        small: number of values below 2**-14, not 0, which keep fewer digits; values: number of all.
    """

    relative: float
    absolute: float
    small: int
    values: int


def rounding(state: Mapping[str, Tensor]) -> Rounding:
    """What :func:`half` does to the values of a delta.

    Raises:
        CheckpointError: a value is too large for 16 bits, or no number.
    """
    if not state:  # of method none
        return Rounding(0.0, 0.0, 0, 0)
    value = torch.cat([tensor.flatten().double() for tensor in state.values()])
    rounded = torch.cat([half(name, tensor).flatten() for name, tensor in state.items()]).double()
    away, size = (rounded - value).abs(), value.abs()
    normal = size >= NORMAL
    relative = (away[normal] / size[normal]).max() if normal.any() else torch.zeros(())
    return Rounding(float(relative), float(away.max()), int(((size > 0) & ~normal).sum()), len(value))


def half(name: str, tensor: Tensor) -> Tensor:
    """The tensor in fp16. Raises CheckpointError: a value of it is too large for that, or no number."""
    rounded = tensor.to(torch.float16)
    if not rounded.isfinite().all():
        largest = float(tensor.abs().max())
        raise CheckpointError(f"{name}: expected values that 16 bits can hold (up to {torch.finfo(torch.float16).max:g}), got "
                              f"{largest:g}; keep this delta as it is")
    return rounded


def exact(sparse: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensors:
    """The tensors of an exact delta: int32 indices and fp32 values. Arguments as for :func:`compress`."""
    tensors: Tensors = {}
    for name, value in state.items():
        if name in sparse:
            tensors[name + INDICES], tensors[name + VALUES] = sparse[name].to(torch.int32), value
        else:
            tensors[name] = value
    return tensors


def compress(sparse: Mapping[str, Tensor], state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Tensors:
    """The tensors of a compact delta.

    Args:
        sparse: weight name -> ascending flat indices. state: values, keyed like ``Attached.trainable()``. shapes: of the weights.

    Raises:
        CheckpointError: a value is too large for 16 bits.
    """
    tensors: Tensors = {}
    for name, value in state.items():
        if name not in sparse:
            tensors[name] = half(name, value)
            continue
        columns = columns_of(sparse[name], shapes[name])
        tensors |= {name + INDICES: sparse[name].to(torch.int32)} if columns is None else {name + COLUMNS: columns}
        tensors[name + VALUES] = half(name, value)
    return tensors


def columns_of(indices: Tensor, shape: torch.Size) -> Tensor | None:
    """Int16 columns (rows, entries a row) of ascending flat indices into a weight; None where rows differ, or are too wide."""
    rows, width = shape[0], shape.numel() // shape[0]
    each, rest = divmod(len(indices), rows)
    if rest or not each or width > WIDEST:
        return None
    matrix = indices.view(rows, each)
    if not torch.equal(matrix // width, torch.arange(rows)[:, None].expand(rows, each)):
        return None
    return (matrix % width).to(torch.int16)


def expand(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> tuple[Tensors, Tensors]:
    """Flat indices by weight, and values by parameter, of the tensors of a delta of either form.

    Raises:
        CheckpointError: columns are of another weight than the model's.
    """
    sparse = {name.removesuffix(INDICES): places.long() for name, places in tensors.items() if name.endswith(INDICES)}
    for name, places in tensors.items():
        if name.endswith(COLUMNS):
            weight = name.removesuffix(COLUMNS)
            sparse[weight] = _flat(weight, places.long(), shapes.get(weight))
    state = {name.removesuffix(VALUES): value for name, value in tensors.items() if not name.endswith((INDICES, COLUMNS))}
    return sparse, state


def _flat(name: str, columns: Tensor, shape: torch.Size | None) -> Tensor:
    if shape is None:
        raise CheckpointError(f"the delta names {name}, which the model lacks")
    width = shape.numel() // shape[0]
    if columns.ndim != 2 or len(columns) != shape[0] or not bool(((columns >= 0) & (columns < width)).all()):
        raise CheckpointError(f"{name}: expected columns of {shape[0]} rows in 0..{width - 1}; the delta is for another model")
    return (columns + torch.arange(shape[0])[:, None] * width).flatten()
