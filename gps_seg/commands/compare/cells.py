"""The cells of a comparison: one ``gps-seg train`` each, in a process of its own.

Each method's learning rate, and what else it chooses from, is what gives the best inner validation score at the first seed. Where
the final runs keep their last step, which they must without a validation part, the rates are judged on their last step too: else
those that peak early would win. Finished cells are skipped, a killed comparison goes on where it was, and a cell that fails stops
nobody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gps_seg.commands.compare.settings import RATE, Comparison, Point
from gps_seg.config import RunConfig, dump_config
from gps_seg.errors import ConfigError, TrainingError
from gps_seg.files import read_json, write_text
from gps_seg.runs.folder import RESULT_FILE, read_config
from gps_seg.settings import differences

FAILED = ".failed.txt"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        data: the data set it trains on, where there are several.
        point: what it tries of the method's grid; empty: the base's own values.
        phase: tune or final where rates are chosen by other runs than the final ones, else empty.
    """

    method: str
    data: str
    point: Point
    phase: str
    config: RunConfig
    folder: Path

    @property
    def rate(self) -> float | None:
        """Of those to choose from; None: the base's."""
        return dict(self.point).get(RATE)

    @property
    def failed(self) -> Path:
        """Where its output goes if it fails."""
        return self.folder.with_suffix(self.folder.suffix + FAILED)

    @property
    def finished(self) -> bool:
        """Whether the run has ended well."""
        return (self.folder / RESULT_FILE).is_file()

    @property
    def title(self) -> str:
        """For messages."""
        point = "".join(f", {key.rpartition('.')[2]} {value:g}" for key, value in self.point)
        return (f"{self.data}: " if self.data else "") + f"{self.method}, seed {self.config.seed}{point}" + (
            f", {self.phase}" if self.phase else "")

    def result(self) -> Any:
        """What the run says of itself. Raises CheckpointError."""
        return read_json(self.folder / RESULT_FILE, "a result")

    def inner_score(self, name: str) -> float | None:
        """The inner validation's, of that name; None if the cell has failed."""
        if not self.finished:
            return None
        try:
            return float(self.result()["run"][f"best_inner_{name}"])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{self.folder / RESULT_FILE} holds no score: remove that folder to run it again") from None


def tuning_cells(comparison: Comparison, out: Path, method: str, data: str) -> list[Cell]:
    """A cell for each point of the method's grid, with the first seed; none where it has none, or takes another's choice."""
    apart = comparison.protocol(method, data) == "final"
    if comparison.chooser(method) != method or not comparison.grid(method):
        return []
    return [_cell(comparison, out, method, data, point, phase="tune" if apart else "") for point in comparison.points(method)]


def final_cells(comparison: Comparison, out: Path, method: str, data: str, point: Point) -> list[Cell]:
    """A cell for each seed; the first is the tuning cell of that point, where the two do not train apart."""
    apart = comparison.protocol(method, data) == "final"
    return [_cell(comparison, out, method, data, point, phase="final" if apart else "", seed=seed)
            for seed in comparison.seeds(method, data)]


def _cell(
    comparison: Comparison, out: Path, method: str, data: str, point: Point, *, phase: str, seed: int | None = None
) -> Cell:
    changes = {"data.protocol": phase or comparison.protocol(method, data)}
    changes |= {"train.keep": "last"} if phase == "tune" else {}
    config = comparison.config(method, data, seed, changes | dict(point))
    parts = (data, method, phase, f"seed{config.seed}", *(f"{key.rpartition('.')[2]}{value:g}" for key, value in point))
    return Cell(method, data, point, phase, config, out / "runs" / "-".join(filter(None, parts)))


def best_cell(tuning: Sequence[Cell], score: str) -> Cell | None:
    """The cell with the best inner validation score, the first of equal ones; None if all have failed."""
    scored = {cell: found for cell in tuning if (found := cell.inner_score(score)) is not None}
    return max(scored, key=scored.__getitem__, default=None)


def run_cells(todo: Sequence[Cell], devices: Sequence[str], say: Say = print) -> None:
    """Train what is not finished, one process a device at a time.

    Raises:
        ConfigError: a device is none, or a finished cell was run with other settings.
        TrainingError: interrupted; cells that wait are not begun, and what is finished stays.
    """
    for device in devices:
        if device.partition(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"--devices: expected cpu, cuda or cuda:NUMBER, got {device!r}")
    for cell in todo:
        if cell.finished:
            _check_unchanged(cell)
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)

    def work(cell: Cell) -> None:
        device = free.get()
        try:
            say(f"training {cell.title} on {device}")
            _train(cell, device, say)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(len(devices))
    try:
        list(pool.map(work, [cell for cell in todo if not cell.finished]))
    except KeyboardInterrupt:
        raise TrainingError("interrupted; the same command goes on with the cells that are not finished") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _check_unchanged(cell: Cell) -> None:
    """A finished cell counts only for the settings it was run with. Raises ConfigError that says what to do."""
    changed = differences(read_config(cell.folder).model_dump(), cell.config.model_dump())
    if changed := [key for key in changed if key != "device"]:
        raise ConfigError(f"{cell.folder} was run with other settings than {cell.title} has now, {', '.join(changed)}: choose "
                          "another --out, or remove that folder to run it again")


def _train(cell: Cell, device: str, say: Say) -> None:
    settings = cell.folder.with_suffix(cell.folder.suffix + ".yaml")
    write_text(settings, dump_config(cell.config.model_copy(update={"device": device.partition(":")[0]})))
    call(["train", str(settings), "--resume", "--out", str(cell.folder)], cell.failed, device, f"training {cell.title}", say)


def call(arguments: Sequence[str], failed: Path, device: str, what: str, say: Say) -> bool:
    """Run a gps-seg command; its output goes to a file only if it fails. Whether it went well.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    environment = dict(os.environ)
    if ":" in device:
        environment["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
    done = subprocess.run([sys.executable, "-m", "gps_seg.cli", *arguments], capture_output=True, text=True, env=environment)
    failed.unlink(missing_ok=True)
    if done.returncode and "interrupted at step" in done.stderr:
        raise KeyboardInterrupt
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        write_text(failed, done.stdout + done.stderr)
        say(f"failed: {what}: {last} (all of it in {failed})")
    return done.returncode == 0


def failures(files: Mapping[str, Path]) -> dict[str, str]:
    """Last line of each failed command's output, by title."""
    found = {}
    for title, path in files.items():
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            found[title] = lines[-1] if lines else "no output"
    return found
