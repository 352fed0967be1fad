"""The command line in this process, which spares a test the seconds of an own one."""

from __future__ import annotations

import sys

import pytest

from gps_seg.cli import main


def gps_seg(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["gps-seg", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)
