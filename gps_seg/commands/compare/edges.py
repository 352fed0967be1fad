"""Where in its grid each method's winner lies: one on the edge may have a better neighbour that nobody tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gps_seg.commands.compare.cells import Cell
from gps_seg.commands.compare.settings import RATE, Comparison
from gps_seg.config import GPSConfig

Grids = dict[str, dict[str, Any]]  # by dimension: values, chosen, place, and of whom it was taken over
INSIDE, LOWER, UPPER, UNTUNED, TAKEN = "inside", "lower edge", "upper edge", "untuned", "taken over"


def place_of(values: Sequence[float], chosen: float) -> str:
    """inside, lower edge or upper edge of the values tried; untuned where there was one."""
    if len(values) < 2:
        return UNTUNED
    return LOWER if chosen <= min(values) else UPPER if chosen >= max(values) else INSIDE


def grids_of(comparison: Comparison, final: Mapping[str, Sequence[Cell]]) -> dict[str, Grids]:
    """By method: each dimension of what it chose from, for the methods that finished."""
    found = {}
    for method, cells in final.items():
        done = [cell for cell in cells if cell.finished]
        if done:
            found[method] = _grids(comparison, done[0])
    return found


def _grids(comparison: Comparison, cell: Cell) -> Grids:
    own, lr = comparison.grid(cell.method), cell.config.train.lr
    grids = {RATE: _grid((lr,), lr)} | {key: _grid(own[key], value) for key, value in cell.point}
    chooser = comparison.chooser(cell.method)
    if chooser != cell.method:
        return {key: {**grid, "place": TAKEN, "of": chooser} for key, grid in grids.items()}
    selection = cell.config.selection
    if isinstance(selection, GPSConfig) and selection.k == "auto":
        grids["selection.k"] = _grid(selection.auto_k, cell.result()["run"]["k"])
    return grids


def _grid(values: Sequence[float], chosen: float) -> dict[str, Any]:
    return {"values": sorted(values), "chosen": chosen, "place": place_of(values, chosen)}


def edge_notes(grids: Mapping[str, Grids]) -> list[str]:
    """A sentence for each winner on an edge or taken over, and one that names the methods that had nothing to choose from."""
    notes = []
    for method, own in grids.items():
        for name, grid in own.items():
            if grid["place"] in (LOWER, UPPER):
                low, high = grid["values"][0], grid["values"][-1]
                notes.append(f"{method}: {name}={grid['chosen']:g} lies on the {grid['place']} of its grid, {low:g} to {high:g}: "
                             "widen the grid before comparing")
            if grid["place"] == TAKEN:
                notes.append(f"{method}: {name}={grid['chosen']:g} is what {grid['of']} chose")
    for name in dict.fromkeys(name for own in grids.values() for name in own):
        alone = [f"{method} ({own[name]['chosen']:g})" for method, own in grids.items()
                 if name in own and own[name]["place"] == UNTUNED]
        if alone:
            notes.append(f"untuned, one {name} each: {', '.join(alone)}")
    return notes
