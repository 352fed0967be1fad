"""How the paper counts what trains, each convention by its name: its tables use more than one.

Source: Zhang et al., GPS, CVPR 2024, arXiv 2312.10136: 0.77 % in Table 2 (FGVC, 5 tasks), 0.25 % in Table 3 (VTAB-1k, 19), 0.36 %
over all 24. Two ways to sum up tasks stand beside each other: the mean of the tasks' percentages, and what all tasks together
train relative to one backbone, as Jia et al., VPT, ECCV 2022, arXiv 2203.12119, Table 1, have it ("total params").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from gps_seg.metrics.tables import markdown_table


@dataclass(frozen=True)
class Count:
    """What a task trains under a classification configuration; ``parameters`` is the encoder's size."""

    title: str
    data: str
    model: str
    k: int
    selected: int
    bias: int
    other: int
    head: int
    parameters: int


SELECTED, BIASES, ALL = "selected connections", "with biases", "with biases and head"
COUNTED = {SELECTED: ("selected",), BIASES: ("selected", "bias", "other"), ALL: ("selected", "bias", "other", "head")}
FGVC = ("cub_200_2011", "nabirds", "oxford_flowers", "stanford_dogs", "stanford_cars")
GROUPS = {"FGVC": 5, "VTAB-1k": 19}  # tasks of each
PUBLISHED = {"FGVC": 0.77, "VTAB-1k": 0.25}
PUBLISHED_MEAN, PUBLISHED_MODEL = 0.36, "vit_base_patch16_224"


def trained(count: Count, counted: str) -> int:
    """Scalars that train, of those that a convention counts."""
    return sum(getattr(count, part) for part in COUNTED[counted])


def percent(count: Count, counted: str) -> float:
    """The same in percent of the encoder."""
    return 100 * trained(count, counted) / count.parameters


def group_of(count: Count) -> str | None:
    """The benchmark that a task belongs to."""
    return "FGVC" if count.data in FGVC else "VTAB-1k" if count.data.startswith("vtab_") else None


def conventions(counts: Sequence[Count]) -> list[str]:
    """Markdown: a table a backbone with a row a convention, and what the paper's 0.36 % is, where all tasks are there."""
    return [line for model in dict.fromkeys(count.model for count in counts)
            for line in _one_backbone(model, [count for count in counts if count.model == model])]


def _one_backbone(model: str, counts: Sequence[Count]) -> list[str]:
    groups = {name: found for name in GROUPS if (found := [count for count in counts if group_of(count) == name])}
    size = counts[0].parameters
    rows = []
    for counted in COUNTED:
        together = sum(trained(count, counted) for count in counts)
        means = [mean(percent(count, counted) for count in found) for found in (*groups.values(), counts)]
        rows.append([counted, *(f"{one:.3f}" for one in means), f"{together / 1e6:.3f}", f"{100 * together / size:.2f}",
                     f"{1 + together / size:.3f}"])
    columns = ["what is counted", *(f"mean %, {name}" for name in groups), f"mean %, {len(counts)} tasks", "all tasks, millions",
               "all tasks, % of one backbone", "backbones to keep"]
    whole = model == PUBLISHED_MODEL and {name: len(found) for name, found in groups.items()} == GROUPS
    return ["", f"Conventions, {model}, {size:,} parameters without head:", "", *markdown_table(columns, rows, left=columns[:1]),
            *(_the_papers(groups) if whole else ())]


def _the_papers(groups: dict[str, list[Count]]) -> Iterator[str]:
    """Which count comes nearest to each published percentage, and what the 24 tasks' is made of."""
    found = {name: {counted: mean(percent(count, counted) for count in counts) for counted in COUNTED}
             for name, counts in groups.items()}
    nearest = {name: min(ours, key=lambda counted: abs(ours[counted] - PUBLISHED[name])) for name, ours in found.items()}
    tasks = sum(GROUPS.values())
    of_tables = sum(GROUPS[name] * PUBLISHED[name] for name in GROUPS) / tasks
    mixed = sum(GROUPS[name] * found[name][nearest[name]] for name in GROUPS) / tasks
    alike = [sum(GROUPS[name] * found[name][counted] for name in GROUPS) / tasks for counted in COUNTED]
    yield ""
    for name, counted in nearest.items():
        label = counted if counted == SELECTED else f"selected connections {counted}"
        yield f"The paper's {PUBLISHED[name]:.2f} % of {name} is nearest to: {label} ({found[name][counted]:.3f} %)."
    said = "reproduced" if any(round(one, 2) == PUBLISHED_MEAN for one in alike) else "not reproduced"
    yield (f"The paper's {PUBLISHED_MEAN} % of {tasks} tasks is the mean of the tasks' percentages as its two tables have them "
           f"({of_tables:.3f} %), which count differently; counted as they do, ours is {mixed:.3f} %. Counted alike throughout "
           f"it is {said}: {', '.join(f'{one:.3f} % ({counted})' for counted, one in zip(COUNTED, alike, strict=True))}.")
