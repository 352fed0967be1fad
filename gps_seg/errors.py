"""Every error a user can cause. The command line prints their text as one line and exits with status 2."""

from collections.abc import Iterable


class GpsSegError(Exception):
    """A user's mistake or a broken input: the text says what was expected, what came, where, and what to do."""


class ConfigError(GpsSegError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class DataError(GpsSegError):
    """An image, mask, list or data set is missing, unreadable or inconsistent."""


class CheckpointError(GpsSegError):
    """Weights, a selection or a delta are missing, damaged, or belong to another model."""


class TrainingError(GpsSegError):
    """A run cannot go on: the loss is not a number, or the run was interrupted."""


class WriteError(GpsSegError):
    """A file cannot be written: the disk is full, or its folder is missing, closed or no folder."""


def first_names(names: Iterable[str], most: int = 5) -> str:
    """The first few names, for a sentence that has said how many there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
