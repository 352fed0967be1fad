"""The schedule of the released code, against timm's own scheduler, and the one that changes at each step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gps_seg.commands.train import train
from gps_seg.config import ClassTrainConfig, TrainConfig, load_config
from gps_seg.packages import import_torchvision
from gps_seg.runs.log import read_log
from gps_seg.runs.schedule import learning_rate
from support.settings import SETTINGS, silent


@pytest.mark.parametrize(("epochs", "warmup", "cooldown"), [(110, 10, 10), (12, 0, 0), (7, 3, 1), (5, 0, 2)])
def test_the_schedule_of_the_released_code_is_timms_own(epochs: int, warmup: int, cooldown: int) -> None:
    """As train_gps.py steps it: after each epoch, and after each update, which a schedule in epochs ignores."""
    import_torchvision()
    from timm.scheduler import CosineLRScheduler

    settings = ClassTrainConfig(schedule="timm", lr=3e-3, warmup=warmup / epochs, cooldown=cooldown / epochs, warmup_lr=1e-7,
                                min_lr=1e-8)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    theirs = CosineLRScheduler(optimizer, t_initial=epochs - cooldown, lr_min=1e-8, warmup_t=warmup, warmup_lr_init=1e-7)
    for epoch in range(epochs):
        for update in range(4):
            ours = learning_rate(4 * epoch + update, 4 * epochs, settings, steps_per_epoch=4)
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), (epoch, update)
            theirs.step_update(num_updates=4 * epoch + update + 1)
        theirs.step(epoch + 1)


def test_the_released_schedule_never_reaches_its_peak_and_the_other_does() -> None:
    rates = {}
    for schedule in ("timm", "steps"):
        settings = TrainConfig(schedule=schedule, lr=1.0, warmup=10 / 110, cooldown=10 / 110)  # type: ignore[arg-type]
        rates[schedule] = [learning_rate(step, 220, settings, steps_per_epoch=2) for step in range(220)]
    assert max(rates["timm"]) == pytest.approx(0.9755, abs=1e-4) and max(rates["steps"]) == 1
    assert rates["timm"][20] == rates["timm"][21] and rates["steps"][20] > rates["steps"][21]
    assert rates["timm"][200] == rates["timm"][-1] == rates["steps"][-1] == settings.min_lr


def test_a_run_follows_the_schedule_epoch_by_epoch(tmp_path: Path) -> None:
    config = load_config(None, [*SETTINGS, "train.schedule=timm", "train.max_steps=6", "train.batch_size=7", "train.warmup=0.34"])
    train(config, tmp_path / "run", say=silent)
    rates = [row["lr"] for row in read_log(tmp_path / "run") if "lr" in row]
    assert len(rates) == 6 and rates[0] == rates[1] == config.train.warmup_lr and rates[2] == rates[3] > rates[4] == rates[5]
