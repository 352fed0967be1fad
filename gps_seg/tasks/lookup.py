"""All tasks. To add one: a class and what comparisons ask of it here, a page in ``config.PAGES``."""

from __future__ import annotations

from gps_seg.tasks.classification import comparison as classification
from gps_seg.tasks.classification.task import Classification
from gps_seg.tasks.comparison import Compared
from gps_seg.tasks.segmentation import comparison as segmentation
from gps_seg.tasks.segmentation.task import Segmentation

TASKS: dict[str, type[Segmentation] | type[Classification]] = {"segmentation": Segmentation, "classification": Classification}
COMPARED: dict[str, Compared] = {"segmentation": segmentation.COMPARED, "classification": classification.COMPARED}
