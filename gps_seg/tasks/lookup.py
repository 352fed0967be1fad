"""All tasks. To add one: a class and what comparisons ask of it here, a page in ``config.PAGES``."""

from __future__ import annotations

from typing import Any

from gps_seg.config import RunConfig
from gps_seg.tasks.classification import comparison as classification
from gps_seg.tasks.classification.task import Classification
from gps_seg.tasks.comparison import Compared
from gps_seg.tasks.segmentation import comparison as segmentation
from gps_seg.tasks.segmentation.task import Segmentation
from gps_seg.tasks.task import Task

TASKS: dict[str, type[Segmentation] | type[Classification]] = {"segmentation": Segmentation, "classification": Classification}
COMPARED: dict[str, Compared] = {"segmentation": segmentation.COMPARED, "classification": classification.COMPARED}


def make_task(config: RunConfig) -> Task:
    """The task of a run, from the sections of its settings that it reads."""
    kind: Any = TASKS[config.task]
    return kind(config.model, config.data, config.train, config.evaluate, config.seed)
