"""Deltas that share one base in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gps_seg.config import GPSConfig
from gps_seg.core.attach import attach
from gps_seg.core.scores import data_free_scores
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.core.swap import Switchboard
from gps_seg.errors import CheckpointError
from gps_seg.methods import METHODS
from gps_seg.models.sam import SamModel
from gps_seg.models.sam_zoo import build_sam


def delta(model: SamModel, seed: int, config: GPSConfig) -> tuple[Selection, dict[str, Tensor]]:
    """A random selection with random values; the model is as before afterwards."""
    selection = METHODS["gps"](model, config, lambda names: data_free_scores(model, list(names), score="random", seed=seed), seed)
    attached = attach(model, selection)
    state = {name: value + seed * 0.1 for name, value in attached.state().items()}
    attached.unmerge()
    return selection, state


@pytest.mark.parametrize("name", ["tiny", "tiny_lite"])
def test_switching_equals_attaching_and_returns_to_the_base_bit_for_bit(name: str) -> None:
    model, image = build_sam(name).eval(), torch.randn(1, 3, 64, 64)
    base = fingerprint(model)
    deltas = {str(seed): delta(model, seed, GPSConfig(preset="official")) for seed in (1, 2)}  # type: ignore[call-arg]
    board = Switchboard(model)
    for key, (selection, state) in deltas.items():
        board.add(key, selection, state)
    for key in ("1", "2", "1"):
        other = build_sam(name).eval()
        attach(other, deltas[key][0]).load(deltas[key][1])
        board.switch(key)
        assert board.active == key
        with torch.no_grad():
            assert torch.equal(model(image).logits, other(image).logits)
    board.switch(None)
    assert fingerprint(model) == base


def test_unknown_names_other_bases_and_wrong_values_are_refused() -> None:
    model = build_sam("tiny")
    selection, state = delta(model, 1, GPSConfig())  # type: ignore[call-arg]
    board = Switchboard(build_sam("tiny", seed=1))
    with pytest.raises(CheckpointError, match="delta 'a' was made on base"):
        board.add("a", selection, state)
    board = Switchboard(model)
    with pytest.raises(CheckpointError, match="no delta called 'a' here; there are: none"):
        board.switch("a")
    state.popitem()
    with pytest.raises(CheckpointError, match="name different parameters"):
        board.add("a", selection, state)
