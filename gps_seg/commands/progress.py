"""How far a long command is, and how long it will take: a bar on a terminal, and lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

SECONDS = 30.0  # between two lines


class Progress:
    """Counts images on stderr: a bar on a terminal, elsewhere a line with rate and time left, at most every 30 seconds.

    Args:
        total: images to come, those done earlier among them.
        name: of what is done, such as predict.
        shown: False for the processes beside the main one, which say nothing.
        file: default: stderr.
        clock: seconds.
    """

    def __init__(
        self, total: int, name: str, *, shown: bool = True, file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.name, self.shown, self.file, self.clock = total, name, shown, file or sys.stderr, clock
        self.done = self.earlier = 0
        self._began = self._told = clock()
        self._bar = tqdm(total=total, desc=name, unit="image", file=self.file, disable=not (shown and self.file.isatty()))

    def step(self, *, earlier: bool = False) -> None:
        """One image is done; ``earlier``: it was before, so that it says nothing about the rate."""
        self.done += 1
        if earlier:
            self.earlier += 1
            self._bar.initial = self.earlier
        self._bar.update()
        if self.shown and self._bar.disable and self.clock() - self._told >= SECONDS:
            self._told = self.clock()
            print(self.line(), file=self.file, flush=True)

    def line(self) -> str:
        """Where it stands, in words."""
        new, seconds = self.done - self.earlier, self.clock() - self._began
        if not new or seconds <= 0:
            return f"{self.name}: {self.done} of {self.total} images"
        rate = new / seconds
        left = tqdm.format_interval((self.total - self.done) / rate)
        return f"{self.name}: {self.done} of {self.total} images, {rate:.3g} a second, {left} left"

    def say(self, text: str) -> None:
        """A line on stdout, above the bar."""
        if self.shown:
            self._bar.write(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()
