"""Settings of runs that end in seconds."""

from __future__ import annotations

SETTINGS = ["model.name=tiny", "data.name=phantom", "data.phantom_images=20", "train.max_steps=4", "train.batch_size=4",
            "train.precision=fp32", "evaluate.overlays=1", "device=cpu", "selection.max_images=8"]
