"""The YAML of a comparison, its checks, and the settings of its cells. Every cell's settings are checked before any cell runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gps_seg.config import RunConfig, TaskName, load_config, page_of
from gps_seg.errors import ConfigError
from gps_seg.metrics.measures import parse_blocks
from gps_seg.settings import check_settings, known_keys, parse_overrides, read_yaml
from gps_seg.tasks.comparison import Compared
from gps_seg.tasks.lookup import COMPARED

MEAN, MEAN_OF_GROUPS = "mean", "mean of groups"  # over all data sets, and over the means of the groups


class ComparisonConfig(BaseModel):
    """The YAML of a comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskName | None = Field(None, description="must be the base's, if it is given")
    base: Path = Field(description="settings that all cells share, as for gps-seg train; relative to the YAML. Its selection "
                       "section is for cells of its own method. Here and in settings {data} stands for the name of the data "
                       "set that a classifier trains on")
    methods: dict[str, dict[str, Any]] = Field(min_length=1, description="name -> settings that make the method, dotted keys")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    learning_rates: tuple[float, ...] = Field((), description="what each method chooses from; empty: the base's rate for all")
    data: tuple[str, ...] = Field(
        (), description="segmentation: what to score on, known names or folders, empty for the base's own test part; "
        "classification: what to train and score on, runs of their own for each"
    )
    settings: dict[str, Any] = Field({}, description="settings for all cells, over the base's, dotted keys; those of selection "
                                     "for the cells whose method reads them")
    reference: str | None = Field(None, description="method that p-values compare with; default: the first")
    columns: dict[str, dict[str, float]] = Field(
        {}, description="published scores shown beside ours in 0..1: method -> data set, group or mean -> score"
    )
    groups: dict[str, tuple[str, ...]] = Field({}, description="name -> data sets whose mean is shown")
    blocks: tuple[str, ...] = Field((), description="what is measured of masks; default: as gps-seg evaluate")

    @field_validator("seeds", "learning_rates")
    @classmethod
    def _differ(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"expected different numbers, got {list(values)}")
        return values

    @field_validator("methods")
    @classmethod
    def _are_names_of_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values:
            if not name.strip() or set(name) & set('/\\:*?"<>|') or name.startswith("."):
                raise ValueError(f"{name!r} cannot be a file's name; use letters, digits, spaces, commas, = and -")
        return values

    @field_validator("blocks")
    @classmethod
    def _are_known(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return parse_blocks(",".join(values)) if values else ()


@dataclass(frozen=True)
class Comparison:
    """A checked comparison.

    Attributes:
        sets: name shown -> what ``evaluate --data`` takes; None: the test part of what was trained on.
    """

    path: Path
    page: ComparisonConfig
    task: str
    sets: Mapping[str, str | None]

    @property
    def compared(self) -> Compared:
        """What the task says of comparisons."""
        return COMPARED[self.task]

    @property
    def reference(self) -> str:
        """The method that p-values compare with."""
        return self.page.reference or next(iter(self.page.methods))

    @property
    def trained(self) -> tuple[str, ...]:
        """The data sets that have runs of their own; one empty name where the base's is the only one."""
        return tuple(self.sets) if self.compared.trains_on_each else ("",)

    def protocol(self, method: str, data: str) -> str:
        """``data.protocol`` of a method's final runs: what base, settings or method set, else the task's own.

        honest trains as tune does, and would read the test part at each rate: tune takes its place, and the scoring reads it.
        """
        section = self.config(method, data).data
        found = section.protocol if "protocol" in section.model_fields_set else self.compared.protocol
        return "tune" if found == "honest" else found

    def rates(self, method: str, data: str) -> tuple[float, ...]:
        """The rates that a method chooses from; none for one that trains nothing."""
        return self.page.learning_rates if self.config(method, data).trains else ()

    def seeds(self, method: str, data: str) -> tuple[int, ...]:
        """The seeds of a method's final runs; one for a method that trains nothing, whose runs are all alike."""
        return self.page.seeds if self.config(method, data).trains else self.page.seeds[:1]

    def config(self, method: str, data: str, seed: int | None = None, changes: Mapping[str, Any] | None = None) -> RunConfig:
        """The settings of one cell: the base's, then the shared ones, the method's own and the changes. Raises ConfigError."""
        values = {**self._shared(method), "method": method, **self.page.methods[method],
                  "seed": self.page.seeds[0] if seed is None else seed, **(changes or {})}
        if self.compared.trains_on_each:
            values["data.name"] = data
        base = Path(str(self.page.base).replace("{data}", data))
        try:
            config = load_config(base, [_override(key, value).replace("{data}", data) for key, value in values.items()],
                                 task=self.task)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: method {method}: {error}") from None
        if config.task != self.task:
            raise ConfigError(f"{self.path}: task: expected that of the base, got {self.task}, {base} is of {config.task}")
        return config

    def _shared(self, method: str) -> dict[str, Any]:
        """The shared settings without those of selection that only other methods of the comparison read."""
        def reads(name: str, key: str) -> bool:
            kind = str(self.page.methods[name].get("method", name))
            return key in known_keys(page_of(self.task, "head" if kind == "linear" else kind))

        return {key: value for key, value in self.page.settings.items() if not key.startswith("selection.")
                or reads(method, key) or not any(reads(name, key) for name in self.page.methods)}


def _override(key: str, value: Any) -> str:
    return f"{key}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}"


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> Comparison:
    """Read and check a comparison's YAML.

    Args:
        overrides: ``key=value`` as for gps-seg train, over its ``settings``.

    Raises:
        ConfigError: unreadable, a wrong key, or settings that no run accepts.
        DataError: a name that is no data set.
    """
    values = read_yaml(path)
    if not {"base", "methods"} & set(values):
        raise ConfigError(f"{path}: expected a comparison with base and methods, such as configs/compare_kvasir.yaml; "
                          f"a single run's settings go to gps-seg train")
    page = check_settings(ComparisonConfig, values, str(path))
    page = page.model_copy(update={"base": path.parent / page.base, "settings": page.settings | parse_overrides(overrides)})
    comparison = _with_sets(path, page)
    for data in comparison.trained:
        for method in page.methods:
            for rate in comparison.rates(method, data) or (None,):
                comparison.config(method, data, changes={} if rate is None else {"train.lr": rate})
    _check_prompts(comparison)
    return comparison


def _check_prompts(comparison: Comparison) -> None:
    """A prompt that is made from the truth tells of it: all methods have the same, or none. Raises ConfigError."""
    data, keys = comparison.trained[0], {"prompt", "clicks"}
    asked = {method: comparison.config(method, data).evaluate.model_dump(include=keys) for method in comparison.page.methods}
    first, *others = asked.items()
    for method, prompt in others:
        if prompt != first[1]:
            got = (f"{name} has {', '.join(f'evaluate.{key}={value}' for key, value in own.items())}"
                   for name, own in (first, (method, prompt)))
            raise ConfigError(f"{comparison.path}: expected one prompt for all methods, {' and '.join(got)}: their scores do not "
                              "compare")


def _with_sets(path: Path, page: ComparisonConfig) -> Comparison:
    """The task and its data sets, and that every name in the YAML is one of its own. Raises ConfigError."""
    first = Path(str(page.base).replace("{data}", next(iter(page.data), "")))
    task = page.task or read_yaml(first).get("task", "segmentation")
    if task not in COMPARED:
        raise ConfigError(f"{first}: task: expected {' or '.join(COMPARED)}, got {task!r}")
    try:
        comparison = Comparison(path, page, task, COMPARED[task].sets(page.data))
        _check_taken(comparison)
        _check_names(comparison)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return comparison


def _check_taken(comparison: Comparison) -> None:
    """What the comparison sets for each cell is not set a second time, where it would have no effect."""
    page, compared = comparison.page, comparison.compared
    if page.blocks and not compared.has_blocks:
        raise ConfigError(f"blocks: only masks have them, and the base is of {comparison.task}")
    taken = {"task": "the base", "seed": "seeds", "device": "--devices"}
    taken |= {"train.lr": "learning_rates"} if page.learning_rates else {}
    taken |= {"data.name": "data"} if compared.trains_on_each else {}
    for section, keys in {"settings": page.settings, **{f"methods: {name}": own for name, own in page.methods.items()}}.items():
        for key in keys:
            if key in taken or (key == "method" and section == "settings"):
                raise ConfigError(f"{section}: {key} is what {taken.get(key, 'methods')} decides: leave it out here")


def _check_names(comparison: Comparison) -> None:
    """What names a data set, a mean or a method names one of the comparison's own."""
    page, sets = comparison.page, comparison.sets
    shown = (*sets, *page.groups, MEAN, MEAN_OF_GROUPS)
    checks = [
        ("reference", page.methods, [comparison.reference]), ("columns", page.methods, page.columns),
        *((f"columns: {method}", shown, values) for method, values in page.columns.items()),
        *((f"groups: {name}", sets, members) for name, members in page.groups.items()),
    ]
    for key, allowed, names in checks:
        for name in names:
            if name not in allowed:
                raise ConfigError(f"{key}: expected one of {', '.join(allowed)}, got {name!r}")
