"""The script for large archives, on a small one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scale.predict_archive import main


def test_memory_is_flat_and_a_kill_changes_nothing(
    trained: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(trained()), str(tmp_path / "archive"), "--images", "120"])
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == [0, -9, 0] and found["same_masks"]
    assert found["listed"] == [120, 120] and found["said"] == ["120 of 120 images predicted into " + str(tmp_path / path)
                                                              for path in ("archive/whole", "archive/broken")]
    assert 60 <= found["listed_when_killed"] < 120 and 0 <= found["masks_when_killed"] - found["listed_when_killed"] <= 1
    assert found["peak_mb_late"] < 1.05 * found["peak_mb_early"]
