"""What a click does to the logits of a model that was tuned without prompts, and so no longer hears them.

Measured on 60 test images of Kvasir-SEG with a GPS run: handing clicks or boxes to the tuned decoder changed Dice by less than
0.001, and no click was obeyed. So a click pulls the logits around it towards its label instead: fully at its own place, less with
distance and with difference in the encoder's features. REACH was chosen on 48 training images. On 24 test images (128 px input)
clicks on the middle of the largest error raised Dice from 0.790 to 0.872 with one and 0.899 with two, and each was obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 0.15  # standard deviation of a click's reach, in parts of the input's side
STRENGTH = 2.0  # logit at the click afterwards: a probability of 0.88, or 0.12


def pull(logits: Tensor, features: Tensor, points: Sequence[tuple[float, float, int]]) -> Tensor:
    """Apply clicks one after the other.

    Args:
        logits: (1, 1, h, h), of the padded input.
        features: the embedding (1, C, g, g) of the same input.
        points: (x, y, label), x and y in parts of the input's side; label 1 is polyp, 0 is background.

    Returns:
        logits (1, 1, h, h), changed around the clicks.
    """
    side, grid = logits.shape[-1], features.shape[-1]
    directions = F.normalize(features - features.mean(dim=(2, 3), keepdim=True), dim=1)[0]
    centres = (torch.arange(side, device=logits.device) + 0.5) / side
    for x, y, label in points:
        row, column = (min(grid - 1, max(0, int(value * grid))) for value in (y, x))
        likeness = torch.einsum("c,chw->hw", directions[:, row, column], directions)
        likeness = F.interpolate(likeness[None, None], (side, side), mode="bilinear", align_corners=False)
        distance = (centres[:, None] - y) ** 2 + (centres[None, :] - x) ** 2
        weight = torch.exp(-distance / (2 * REACH**2) + likeness - 1)
        row, column = (min(side - 1, max(0, int(value * side))) for value in (y, x))
        lacking = (STRENGTH if label else -STRENGTH) - float(logits[0, 0, row, column])
        if (lacking > 0) == bool(label):  # the model is not that sure already
            logits = logits + lacking * (weight / weight[0, 0, row, column]).clamp(max=1)
    return logits
