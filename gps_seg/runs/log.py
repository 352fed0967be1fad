"""What a run tells while it goes: log.jsonl, TensorBoard events, the best delta so far; and a polite Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from gps_seg.files import disk_error, write_text


class RunLog:
    """The log of one run folder.

    Args:
        folder: the run folder.
        save_best: called with (values, step) when a validation beats all before it.
        say: called with a line of text after each validation.
        enabled: only the main process of several writes.
        shows_progress: whether to draw a progress bar.
    """

    def __init__(
        self, folder: Path, save_best: Callable[[Mapping[str, Tensor], int], None], *,
        say: Callable[[str], None] = print, enabled: bool = True, shows_progress: bool = True,
    ) -> None:
        self.folder, self.save_best, self.say = folder, save_best, say
        self.enabled, self.shows_progress = enabled, enabled and shows_progress
        self.state_path = folder / "last.safetensors"
        self._writer: Any = None
        self._bar: Any = None

    def open(self, step: int, steps: int) -> None:
        """Start or go on after ``step`` of ``steps``: rows written after the last checkpoint are dropped, to come again."""
        if not self.enabled:
            return
        from torch.utils.tensorboard import SummaryWriter  # imported here: slow, and of use to training only

        path = self.folder / "log.jsonl"
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))
        self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        self._bar = tqdm(total=steps, initial=step, desc="train", unit="step", disable=not self.shows_progress)

    def row(self, row: Mapping[str, float | int]) -> None:
        """Append one line of numbers, flushed; the same numbers go to TensorBoard and the progress bar."""
        if not self.enabled:
            return
        path = self.folder / "log.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(row)) + "\n")
            for name, value in row.items():
                if name != "step" and self._writer is not None:
                    self._writer.add_scalar(name, value, row["step"])
        except OSError as error:
            raise disk_error(path, error) from None
        if "loss" in row:
            self._bar.set_postfix(loss=f"{row['loss']:.3f}", lr=f"{row['lr']:.1e}", refresh=False)
            self._bar.update()

    def best(self, values: Mapping[str, Tensor], step: int) -> None:
        """Hand the best values so far to the run folder."""
        if self.enabled:
            self.save_best(values, step)

    def close(self) -> None:
        """Flush TensorBoard and end the progress bar."""
        if self.enabled:
            self._writer.close()
            self._bar.close()


def read_log(folder: Path) -> list[dict[str, float]]:
    """All complete rows of a run's log.jsonl."""
    return [json.loads(line) for line in _complete_lines(folder / "log.jsonl")]


def _complete_lines(path: Path) -> list[str]:
    """Lines of a JSONL file; a last line cut off by a kill is dropped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


class Interruption:
    """Within the block the first Ctrl-C or SIGTERM sets ``asked`` instead of stopping in the middle of a step."""

    asked = False

    def __enter__(self) -> Interruption:
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        for former_number, former in self._former.items():  # a second Ctrl-C stops at once
            signal.signal(former_number, former)

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
