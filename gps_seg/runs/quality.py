"""The quality head trained last and alone: a finished run learns how good its masks are, and they stay, bit for bit.

Nothing but the head has a gradient, so that a step costs a forward pass. Its images are the run's training images, augmented as
they were, without prompts, and frames without a polyp; its values go into the run's delta, with a note of what they come from.

Source for training it last: retraining SAM3's presence head alone repaired most of its refusals (one author, unpublished).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gps_seg.config import RunConfig, TrainConfig, parse_config
from gps_seg.core.attach import attach
from gps_seg.core.roles import matches
from gps_seg.core.selection import Selection
from gps_seg.errors import ConfigError
from gps_seg.runs.delta import add_to_delta
from gps_seg.runs.device import make_accelerator
from gps_seg.runs.fit import fit
from gps_seg.runs.load import QUALITY, Run
from gps_seg.runs.log import RunLog
from gps_seg.runs.select import HEAD
from gps_seg.runs.setup import Say, Setup
from gps_seg.settings import parse_overrides, set_dotted
from gps_seg.tasks.segmentation.dataset import MaskBatch
from gps_seg.tasks.segmentation.native import resize
from gps_seg.tasks.segmentation.quality import quality_loss
from gps_seg.tasks.segmentation.task import Segmentation

DATA = ("negatives", "negative_centers", "negative_share", "negative_held", "negative_phantoms")
READ = (*(f"data.{name}" for name in DATA), "train.max_steps", "train.lr", "train.batch_size")
UNREAD = ("ema", "patience", "validate_every", "lr_selected", "lr_bias")  # of the run's training, which the head's is not
STEPS = 300


class _Alone(Segmentation):
    """The run's task, whose loss is the quality's and nothing else."""

    def loss(self, model: nn.Module, batch: MaskBatch, step: int = 0) -> Tensor:  # noqa: ARG002 - one signature
        """Squared error of the estimated IoU, without prompts."""
        answer = model(batch.image)
        logits = resize(answer.logits, batch.target.shape[-2:])
        return quality_loss(answer.quality, logits, batch.target, batch.valid, self.evaluate.threshold)


def train_quality(run: Run, overrides: Sequence[str] = (), say: Say = print) -> None:
    """Train the quality head of a run of segmentation and write it into the run's delta; ``run`` itself is used up.

    Args:
        overrides: of the run's settings, as many of ``READ`` as wanted; train.max_steps is 300 else.

    Raises:
        ConfigError: another setting, or negatives for a run that trained with its own.
        DataError: the run's data or the negatives are not there.
    """
    config = quality_settings(run, overrides)
    setup = _prepare(run, config, say)
    model = setup.model
    names = [name for name, _ in model.named_parameters() if matches(name, model.quality_patterns)]
    attached = attach(model, Selection({}, dict.fromkeys(names, HEAD), run.attached.selection.base))
    train, frames = config.train, len(setup.splits.negatives.train)
    say(f"quality head: {sum(parameter.numel() for parameter in attached.trainable().values()):,} parameters, {train.max_steps} "
        f"steps on {len(setup.splits.train)} training images and {frames} frames without a polyp beside them")
    log = RunLog(Path(), lambda _values, _step: None, say=say, enabled=False)
    fit(model, attached, setup.task, setup.training_loader(), None, config=train,
        accelerator=make_accelerator(run.device, run.precision), log=log)
    data = config.data.model_dump(mode="json")
    note = {"steps": train.max_steps, "lr": train.lr, "batch_size": train.batch_size, "data": {name: data[name] for name in DATA}}
    add_to_delta(run.folder, attached.state(), HEAD, {QUALITY: note})


def quality_settings(run: Run, overrides: Sequence[str]) -> RunConfig:
    """The run's settings, changed to train its quality head alone."""
    given = parse_overrides(overrides)
    if foreign := [key for key in given if key not in READ]:
        raise ConfigError(f"calibrate --quality: {', '.join(foreign)} is not read here; expected some of {', '.join(READ)}")
    data: Any = run.config.data
    if data.negatives and (changed := [key for key in given if key.startswith("data.")]):
        raise ConfigError(f"calibrate --quality: {', '.join(changed)}: the run has trained with the frames of "
                          f"{', '.join(data.negatives)}, and its quality head trains with the same: leave it out")
    values = run.config.model_dump(mode="json")
    plain = {name: TrainConfig.model_fields[name].default for name in UNREAD}
    values["train"] |= plain | {"quality": True, "keep": "last", "recompute": "none", "max_steps": STEPS}
    values["evaluate"]["threshold"] = run.threshold
    for key, value in given.items():
        set_dotted(values, key, value)
    return parse_config(values, "calibrate --quality")


def _prepare(run: Run, config: RunConfig, say: Say) -> Setup:
    """The run's own model, with its delta merged, and the checked data that its head trains on."""
    known: Any = config
    task = _Alone(known.model, known.data, known.train, known.evaluate, config.seed)
    splits = task.splits()
    for text in task.check(splits):
        say(f"warning: {text}")
    if not splits.negatives.train:
        say("warning: no frame without a polyp beside the training images: data.negatives names sets that hold some")
    model: Any = run.attached.merge()
    model.recompute, model.apart_patterns = known.train.recompute, model.quality_patterns
    return Setup(task, model, run.classes, run.device, run.precision, config, splits)
