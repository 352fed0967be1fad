"""The YAML of a comparison, key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gps_seg.config import TaskName
from gps_seg.metrics.measures import parse_blocks

Grid = dict[str, dict[str, tuple[int | float, ...]]]


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
    rates: dict[str, tuple[float, ...]] = Field({}, description="what single methods choose from instead: method -> rates")
    by_data: dict[str, dict[str, dict[str, Any]]] = Field(
        {}, description="what a method sets differently on each data set it trains on: method -> setting -> data set -> value"
    )
    grid: Grid = Field(
        {}, description="what a method chooses on each data set beside its rate: method -> setting -> values; every combination "
        "is trained once"
    )
    rates_of: dict[str, str] = Field(
        {}, description="methods that choose nothing and take what another method chose: method -> that one; said below the table"
    )
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

    @field_validator("rates")
    @classmethod
    def _each_differ(cls, values: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for method, rates in values.items():
            if not rates or len(set(rates)) < len(rates):
                raise ValueError(f"{method}: expected different numbers, at least one, got {list(rates)}")
        return values

    @field_validator("grid")
    @classmethod
    def _values_differ(cls, values: Grid) -> Grid:
        for method, own in values.items():
            for key, each in own.items():
                if not each or len(set(each)) < len(each):
                    raise ValueError(f"{method}: {key}: expected different numbers, at least one, got {list(each)}")
        return values

    @model_validator(mode="after")
    def _nobody_takes_what_was_taken(self) -> ComparisonConfig:
        for method, chooser in self.rates_of.items():
            if chooser == method or chooser in self.rates_of:
                raise ValueError(f"rates_of: {method}: expected a method that chooses for itself, got {chooser!r}")
            if method in self.rates or method in self.grid:
                raise ValueError(f"rates_of: {method} takes what {chooser} chose: leave it out of rates and grid")
        return self

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
