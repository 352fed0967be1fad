"""What a run says of itself, without paths of the machine it was made on: for folders that travel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from gps_seg.config import RunConfig, parse_config


def portable(value: Any) -> Any:
    """The value with the last part alone of every absolute path in it."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return kind(value).name
    return value


def portable_config(config: RunConfig) -> RunConfig:
    """The settings without paths of this machine; a known data set is found by its name."""
    values = portable(config.model_dump(mode="json"))
    if config.data.name != "folder":
        values["data"]["root"] = None
    return parse_config(values, "the settings without paths")
