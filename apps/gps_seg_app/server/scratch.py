"""The app's private folder: uploads and results live here, for a while, and nowhere else."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PREFIX = "gps-seg-app-"


def remove_leftovers(place: Path) -> None:
    """Remove the private folders of this user's apps that were killed. Elsewhere than on POSIX they stay to the system."""
    if os.name != "posix":
        return
    for folder in place.glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        try:
            if number.isdigit() and folder.stat().st_uid == os.getuid():
                os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


class Scratch:
    """A folder of mode 0700 that all temporary files of this process go to; emptied by age, and removed on leaving.

    Args:
        keep_seconds: age at which :meth:`sweep` deletes a file.
        every_seconds: how often it runs by itself.
    """

    def __init__(self, *, keep_seconds: float = 7200, every_seconds: float = 60) -> None:
        self.keep_seconds, self.every_seconds = keep_seconds, every_seconds
        self.also: list[Callable[[], object]] = []  # further things to do as often
        self._stop = threading.Event()

    def __enter__(self) -> Scratch:
        remove_leftovers(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))  # mkdtemp makes it 0700
        self._before = (tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR"))
        tempfile.tempdir = str(self.folder)  # half-read uploads too
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder / "gradio")
        (self.folder / "gradio").mkdir(mode=0o700)
        threading.Thread(target=self._run, name="sweep", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        tempfile.tempdir = self._before[0]
        os.environ.pop("GRADIO_TEMP_DIR")
        if self._before[1] is not None:
            os.environ["GRADIO_TEMP_DIR"] = self._before[1]
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self, now: float | None = None) -> int:
        """Delete every file older than ``keep_seconds``, then folders left empty. Returns the number of files deleted."""
        limit = (time.time() if now is None else now) - self.keep_seconds
        deleted = 0
        for path in sorted(self.folder.rglob("*"), reverse=True):  # children before their folder
            try:
                if path.is_dir() and path != self.folder / "gradio":
                    if path.stat().st_mtime < limit:
                        path.rmdir()
                elif path.is_file() and path.stat().st_mtime < limit:
                    path.unlink()
                    deleted += 1
            except OSError:  # in use, not empty, or gone by itself
                continue
        return deleted

    def _run(self) -> None:
        while not self._stop.wait(self.every_seconds):
            self.sweep()
            for act in self.also:
                act()
