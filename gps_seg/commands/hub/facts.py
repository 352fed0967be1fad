"""What a run folder says of itself, for its card: read from its files alone, so that any run of any age has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gps_seg.config import RunConfig
from gps_seg.errors import CheckpointError
from gps_seg.files import read_json
from gps_seg.files.tensors import read_tensors
from gps_seg.models.hub import is_hub_name
from gps_seg.models.weights import hub_name_of
from gps_seg.runs.compact import COLUMNS, INDICES
from gps_seg.runs.delta import read_delta_config
from gps_seg.runs.folder import CONFIG_FILE, DELTA_FILE, RESULT_FILE, read_config
from gps_seg.tasks.classification.catalog import ADAPTERS, RANGE
from gps_seg.tasks.segmentation.sets import DRAWN, known_name, label, terms_of, title_of

OWNERS = "the terms of its owner"
# Of a result: block, name, and how it is called; a classifier's have no block.
SCORES = (("per_image", "dice", "Dice, mean over images"), ("per_image", "iou", "IoU, mean over images"),
          ("per_image", "nsd", "NSD, mean over images"), ("per_image", "hd95", "HD95 in pixels, mean over images"),
          ("dataset", "dice", "Dice, pixels pooled"), ("", "accuracy", "accuracy"),
          ("", "class_mean_accuracy", "accuracy, mean over classes"))


@dataclass(frozen=True)
class Score:
    """One number of the run's own report, with its 95 % interval where it has one."""

    metric: str
    title: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Facts:
    """What there is to say of a run.

    Attributes:
        description: adapter_config.json.
        config: its settings; None for a delta alone.
        result: result.json; empty for a run without one.
        values: number of trained values.
    """

    description: Mapping[str, Any]
    config: RunConfig | None
    result: Mapping[str, Any]
    values: int

    @property
    def task(self) -> str:
        """segmentation or classification."""
        return str(self.description.get("task", "segmentation"))

    @property
    def base(self) -> str:
        """The base model's name."""
        return str((self.description.get("model") or {}).get("name") or "unknown")

    @property
    def hub_base(self) -> str | None:
        """The base's name on the Hub; None for weights that nobody can name, or that are not there."""
        given = (self.description.get("model") or {}).get("checkpoint")
        if given is None:
            return hub_name_of(self.base)
        return Path(given).as_posix() if is_hub_name(Path(given)) else None

    @property
    def licence(self) -> str:
        """Of the base's published weights."""
        return str(self.description.get("weights_licence", "unknown"))

    @property
    def data(self) -> str | None:
        """The training set's name, without a path of this machine; None where that was not noted."""
        named = self.description.get("data")
        return label(str(named)) if named else None

    @property
    def title(self) -> str:
        """Of the training set."""
        return {None: "unknown data", "folder": "a folder of one's own"}.get(self.data) or title_of(str(self.data))

    @property
    def terms(self) -> dict[str, str]:
        """Title of each set trained on -> its terms."""
        if self.data is None:
            return {}
        beside = getattr(self.config.data, "negatives", ()) if self.config else ()
        return {self.title: _terms(self.data), **{title_of(known_name(one) or label(one)): _terms(known_name(one) or one)
                                                  for one in map(str, beside)}}

    @property
    def is_free(self) -> bool:
        """Whether the data binds nobody: it was drawn."""
        return bool(self.terms) and set(self.terms.values()) == {DRAWN}

    @property
    def part(self) -> str | None:
        """Which part of the data the report is of; None without a report."""
        return (self.result.get("settings") or {}).get("split") if self.scores else None

    @property
    def scores(self) -> list[Score]:
        """The numbers of the run's own report; none without one."""
        return list(_scores(self.result))


def read_facts(folder: Path) -> Facts:
    """Read a run folder. Raises CheckpointError: no delta there, or a damaged file; ConfigError: its settings are."""
    description = read_delta_config(folder)
    result = read_json(folder / RESULT_FILE, "a result") if (folder / RESULT_FILE).is_file() else {}
    if not isinstance(result, dict):
        raise CheckpointError(f"{folder / RESULT_FILE}: expected a result, the file was edited or damaged")
    tensors, _ = read_tensors(folder / DELTA_FILE, "a delta")
    values = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith((INDICES, COLUMNS)))
    config = read_config(folder) if (folder / CONFIG_FILE).is_file() else None
    return Facts(description, config, result, values)


def _terms(name: str) -> str:
    """What is known of a set's terms, and where they stand."""
    if known := terms_of(name):
        return known
    whole = name.partition(RANGE)[0]
    if whole == "polyp_patches":
        return f"those of the pictures, Kvasir-SEG's or {OWNERS}: {terms_of('kvasir-seg')}"
    return f"{OWNERS}; {ADAPTERS[whole].where}" if whole in ADAPTERS and whole != "folder" else OWNERS


def _scores(result: Mapping[str, Any]) -> Iterator[Score]:
    for block, name, title in SCORES:
        values = result.get(block) if block else result
        value = values.get(name) if isinstance(values, Mapping) else None
        if isinstance(value, (int, float)):
            intervals = (result.get("intervals") or {}).get(block) or {} if block else {"accuracy": result.get("interval")}
            ends = intervals.get(name)
            yield Score(f"{block}_{name}" if block == "dataset" else name, title, float(value), tuple(ends) if ends else None)
