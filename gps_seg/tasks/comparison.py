"""What a comparison of methods asks of a task: its data sets, one number an image, and the columns of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """One task's answers.

    Attributes:
        score: what is compared, as ``Task.score_name``.
        title: the same in a table.
        protocol: ``data.protocol`` of the final runs, where neither base nor method sets it.
        trains_on_each: whether each data set gets its own runs; else one run is scored on all of them.
        has_blocks: whether an evaluation measures named blocks.
        sets: the comparison's ``data`` -> name shown -> what ``evaluate --data`` takes, None for a run's own test part.
            Raises ConfigError, DataError: a name that is no data set, or a set given twice.
        find: (the ``data`` section, what to score on): that they are there. Raises DataError, ConfigError.
        validation: the ``data`` section -> what a reader must know of the part that rates are chosen on, after a semicolon.
        values: a document -> id -> the score of that image.
        facts: the documents of a method's seeds on a data set -> what its row holds beside score and cost; a ``note`` stands
            below the table.
        shown: a row -> title of a column -> its text, after the columns that all tasks have.
    """

    score: str
    title: str
    protocol: str
    trains_on_each: bool
    has_blocks: bool
    sets: Callable[[Sequence[str]], dict[str, str | None]]
    find: Callable[[Any, Sequence[str]], None]
    validation: Callable[[Any], str]
    values: Callable[[Document], dict[str, float]]
    facts: Callable[[Sequence[Document]], Row]
    shown: Callable[[Row], dict[str, str]]
