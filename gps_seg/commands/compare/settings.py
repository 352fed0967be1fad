"""A comparison, its checks, and the settings of its cells. Every cell's settings are checked before any cell runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from gps_seg.commands.compare.page import ComparisonConfig
from gps_seg.config import RunConfig, load_config, page_of
from gps_seg.errors import ConfigError
from gps_seg.settings import check_settings, known_keys, parse_overrides, read_yaml
from gps_seg.tasks.comparison import Compared
from gps_seg.tasks.lookup import COMPARED

RATE = "train.lr"
Point = tuple[tuple[str, int | float], ...]  # of what a method chooses from: each setting and its value
MEAN, MEAN_OF_GROUPS = "mean", "mean of groups"  # over all data sets, and over the means of the groups


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

    def chooser(self, method: str) -> str:
        """The method whose tuning decides about a method: itself, or the one whose choice it takes."""
        return self.page.rates_of.get(method, method)

    def grid(self, method: str) -> dict[str, tuple[int | float, ...]]:
        """What a method chooses from, its rate first: setting -> values; empty: it trains with the base's, or nothing."""
        return self.asked(method) if self.config(method, self.trained[0]).trains else {}

    def asked(self, method: str) -> dict[str, tuple[int | float, ...]]:
        """What is written of a method's grid, whether it trains or not; for no method's name, what is written for all."""
        name = self.chooser(method)
        rates = self.page.rates.get(name, self.page.learning_rates)
        return ({RATE: rates} if rates else {}) | self.page.grid.get(name, {})

    def points(self, method: str) -> list[Point]:
        """Every combination of a method's grid; one that changes nothing where there is none."""
        grid = self.grid(method)
        return [tuple(zip(grid, values, strict=True)) for values in product(*grid.values())]

    def protocol(self, method: str, data: str) -> str:
        """``data.protocol`` of a method's final runs: what base, settings or method set, else the task's own.

        honest trains as tune does, and would read the test part at each rate: tune takes its place, and the scoring reads it.
        """
        section = self.config(method, data).data
        found = section.protocol if "protocol" in section.model_fields_set else self.compared.protocol
        return "tune" if found == "honest" else found

    def seeds(self, method: str, data: str) -> tuple[int, ...]:
        """The seeds of a method's final runs; one for a method that trains nothing, whose runs are all alike."""
        return self.page.seeds if self.config(method, data).trains else self.page.seeds[:1]

    def config(self, method: str, data: str, seed: int | None = None, changes: Mapping[str, Any] | None = None) -> RunConfig:
        """The settings of one cell: the base's, then the shared ones, the method's own and the changes. Raises ConfigError."""
        own = {key: each[data] for key, each in self.page.by_data.get(method, {}).items() if data in each}
        values = {**self._shared(method), "method": method, **self.page.methods[method], **own,
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
            for point in comparison.points(method):
                comparison.config(method, data, changes=dict(point))
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
    taken |= {"data.name": "data"} if compared.trains_on_each else {}
    sections: dict[str, Mapping[str, Any]] = {"settings": page.settings}
    sections |= {f"methods: {name}": own for name, own in page.methods.items()}
    sections |= {f"by_data: {name}": own for name, own in page.by_data.items()}
    if any(RATE in own for own in page.grid.values()):
        raise ConfigError(f"grid: {RATE} is what learning_rates or rates decides: leave it out here")
    for section, keys in sections.items():
        tuned = comparison.asked(section.partition(": ")[2])  # of settings: what all choose from
        decided = taken | {key: "learning_rates" if key == RATE else "grid" for key in tuned}
        for key in keys:
            if key in decided or (key == "method" and not section.startswith("methods")):
                raise ConfigError(f"{section}: {key} is what {decided.get(key, 'methods')} decides: leave it out here")


def _check_names(comparison: Comparison) -> None:
    """What names a data set, a mean or a method names one of the comparison's own."""
    page, sets = comparison.page, comparison.sets
    shown = (*sets, *page.groups, MEAN, MEAN_OF_GROUPS)
    checks = [
        ("reference", page.methods, [comparison.reference]), ("columns", page.methods, page.columns),
        ("rates", page.methods, page.rates), ("by_data", page.methods, page.by_data),
        ("grid", page.methods, page.grid), ("rates_of", page.methods, [*page.rates_of, *page.rates_of.values()]),
        *((f"by_data: {method}: {key}", comparison.trained, each)
          for method, own in page.by_data.items() for key, each in own.items()),
        *((f"columns: {method}", shown, values) for method, values in page.columns.items()),
        *((f"groups: {name}", sets, members) for name, members in page.groups.items()),
    ]
    for key, allowed, names in checks:
        for name in names:
            if name not in allowed:
                raise ConfigError(f"{key}: expected one of {', '.join(allowed)}, got {name!r}")
