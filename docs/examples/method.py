"""A method: train whole neurons, those of each layer that the data pull at most."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from gps_seg.config import HeadOptions, PassOptions
from gps_seg.core.roles import Policy, assign, neuron_rows, owners
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.methods.parts import encoder_of, head_of


class NeuronOptions(HeadOptions, PassOptions):
    """Options of neurons."""

    part: float = Field(0.01, gt=0, le=1, description="of each layer's neurons")


def neurons(model: nn.Module, options: NeuronOptions, scores: Scores, seed: int) -> Selection:
    """Train all connections of the ``options.part`` of each encoder layer's neurons whose summed gradient is largest."""
    roles = Policy({"weight": "select", "bias": "train", "norm": "freeze", "scale": "freeze", "embedding": "freeze"},
                   include=encoder_of(model), head=head_of(model), head_treatment=options.head)
    plan = assign(model, roles)
    names = [name for name, assignment in plan.items() if assignment.treatment == "select"]
    sparse = {}
    for name, score in scores(names).items():
        layer = owners(model)[name][0]
        strength = neuron_rows(layer, score.cpu()).sum(dim=1)
        positions = neuron_rows(layer, torch.arange(score.numel()).view(score.shape))
        best = strength.topk(max(1, round(options.part * len(strength)))).indices
        sparse[name] = positions[best].flatten().sort().values
    dense = {name: assignment.role for name, assignment in plan.items() if assignment.treatment == "train"}
    return Selection(sparse, dense, fingerprint(model), {"method": "neurons", "part": str(options.part)})
