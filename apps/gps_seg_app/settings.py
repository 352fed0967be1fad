"""What the app is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gps_seg_app.limits import Limits


@dataclass(frozen=True)
class Settings:
    """What one server needs.

    Attributes:
        runs: run folders by the name shown on the page.
        port: None: the first free one from 7860 on.
        users: passwords by name; empty: no login.
        save_folder: where corrected pairs go; None: they cannot be saved.
        threshold: where the threshold begins; None: at each run's own.
        fast: look at three quarters of each side, which costs accuracy.
    """

    runs: Mapping[str, Path]
    port: int | None = None
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    save_folder: Path | None = None
    device: str = "auto"
    open_browser: bool = False
    limits: Limits = field(default_factory=Limits)
    threshold: float | None = None
    fast: bool = False
