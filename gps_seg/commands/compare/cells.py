"""``gps-seg compare CONFIG``: methods x seeds x data sets from one YAML, each method with its own learning rate.

A cell is one ``gps-seg train`` in a process of its own, which never scores the test list. Each method's rate is the one of the
grid with the best inner validation Dice at the first seed; only then are the chosen runs scored, once for each data set.
Finished cells are skipped, a killed comparison goes on where it was, and a cell that fails is recorded and stops nobody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gps_seg.class_config import ClassConfig, load_class_config
from gps_seg.config import RunConfig, check_settings, dump_config, load_config
from gps_seg.errors import ConfigError, TrainingError
from gps_seg.files import read_json, write_bytes
from gps_seg.metrics.measures import parse_blocks
from gps_seg.tasks.classification.catalog import ADAPTERS

FAILED = ".failed.txt"
MEAN, MEAN_OF_GROUPS = "mean", "mean of groups"  # over all data sets, and over the means of the groups
Say = Callable[[str], None]


class GridConfig(BaseModel):
    """The YAML of a comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Literal["segmentation", "classification"] = Field("segmentation", description="what the base's settings are for")
    base: Path = Field(description="settings that all cells share, for gps-seg train or classify; relative to the YAML. Here and "
                       "in the settings of a classification comparison {data} stands for the data set's name")
    methods: dict[str, dict[str, Any]] = Field(min_length=1, description="name -> settings that make the method, dotted keys")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    learning_rates: tuple[float, ...] = Field((), description="the grid; empty: the base's rate for all")
    data: tuple[str, ...] = Field(
        (), description="segmentation: what to score on, known names or folders, empty for the base's own test list; "
        "classification: the data sets, one table each"
    )
    settings: dict[str, Any] = Field({}, description="settings for all cells, over the base's")
    reference: str | None = Field(None, description="method that p-values compare with; default: the first")
    columns: dict[str, dict[str, float]] = Field(
        {}, description="published numbers shown beside ours, method -> column -> value; classification: method -> data set or "
        "mean -> accuracy in 0..1"
    )
    groups: dict[str, tuple[str, ...]] = Field({}, description="classification: name -> data sets whose mean is shown")
    blocks: tuple[str, ...] = Field(("per_image", "dataset"), description="what is scored")


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    method: str
    seed: int
    rate: float | None
    folder: Path
    more: tuple[str, ...] = ()
    data: str = ""

    @property
    def failed(self) -> Path:
        """Where its output goes if it fails."""
        return self.folder.with_suffix(self.folder.suffix + FAILED)

    @property
    def finished(self) -> bool:
        """Whether the run has ended well."""
        return (self.folder / "result.json").is_file()

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.method}, seed {self.seed}" + ("" if self.rate is None else f", lr {self.rate:g}")

    def inner_score(self) -> float | None:
        """Best Dice on the inner validation part, or accuracy on the validation part; None if the cell has failed."""
        if not self.finished:
            return None
        result = read_json(self.folder / "result.json", "a result")
        try:
            return float(result["accuracy"] if "accuracy" in result else result["run"]["best_inner_dice"])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{self.folder / 'result.json'} holds no score: remove that folder to run it again") from None


def load_grid(path: Path) -> GridConfig:
    """Read and check a comparison's YAML; every cell's settings are checked before any cell runs.

    Raises:
        ConfigError: unreadable, a wrong key, or settings that no run accepts.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ConfigError(f"cannot read the comparison {path}; configs/compare_kvasir.yaml is an example") from None
    if not isinstance(values, dict) or not {"base", "methods"} & set(values):
        raise ConfigError(f"{path}: expected a comparison with base and methods, such as configs/compare_kvasir.yaml; "
                          f"a single run's settings go to gps-seg train")
    grid = check_settings(GridConfig, values, str(path))
    if grid.reference is not None and grid.reference not in grid.methods:
        raise ConfigError(f"{path}: reference: expected one of {', '.join(grid.methods)}, got {grid.reference!r}")
    if len(set(grid.seeds)) < len(grid.seeds):
        raise ConfigError(f"{path}: seeds: expected different numbers, got {list(grid.seeds)}")
    if len(set(grid.learning_rates)) < len(grid.learning_rates):
        raise ConfigError(f"{path}: learning_rates: expected different numbers, got {list(grid.learning_rates)}")
    if wrong := [name for name in grid.methods if not name.strip() or set(name) & set('/\\:*?"<>|') or name.startswith(".")]:
        raise ConfigError(f"{path}: methods: {wrong[0]!r} cannot be a file's name; use letters, digits, spaces, commas, = and -")
    parse_blocks(",".join(grid.blocks))
    _check_names(path, grid)
    grid = grid.model_copy(update={"base": path.parent / grid.base})
    for method in grid.methods:
        for rate in grid.learning_rates or (None,):
            settings_of(grid, Cell(method, grid.seeds[0], rate, path, data=(*grid.data, "")[0]), ())
        if grid.task == "classification":
            for data in grid.data:
                settings_of(grid, Cell(method, grid.seeds[0], None, path, (f"data.name={data}",), data), ())
    return grid


def _check_names(path: Path, grid: GridConfig) -> None:
    """What names a data set, a mean or a method names one of the comparison's own. Raises ConfigError."""
    if grid.task == "segmentation":
        if wrong := [name for name in grid.columns if name not in grid.methods]:
            raise ConfigError(f"{path}: columns: expected one of {', '.join(grid.methods)}, got {wrong[0]!r}")
        if grid.groups:
            raise ConfigError(f"{path}: groups: only classification data sets are grouped")
        return
    if not grid.data:
        raise ConfigError(f"{path}: data: expected the names of classification data sets, got none")
    shown = (*grid.data, *grid.groups, MEAN, MEAN_OF_GROUPS)
    checks: list[tuple[str, Collection[str], Iterable[str]]] = [
        ("data", ADAPTERS, grid.data), ("columns", grid.methods, grid.columns),
        *((f"columns: {method}", shown, values) for method, values in grid.columns.items()),
        *((f"groups: {name}", grid.data, members) for name, members in grid.groups.items()),
    ]
    for key, allowed, names in checks:
        for name in names:
            if name not in allowed:
                raise ConfigError(f"{path}: {key}: expected one of {', '.join(allowed)}, got {name!r}")


def overrides(grid: GridConfig, method: str, seed: int, rate: float | None) -> list[str]:
    """The ``key=value`` settings of one cell, over the base file."""
    chosen = {"method": method} if not any(key == "method" for key in grid.methods[method]) else {}
    values = {**grid.settings, **chosen, **grid.methods[method]}
    values |= {"seed": seed, "evaluate.test": False} if grid.task == "segmentation" else {"train.seed": seed}
    if rate is not None:
        values["train.lr"] = rate
    return [f"{key}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}"
            for key, value in values.items()]


def cells(grid: GridConfig, out: Path, method: str) -> tuple[list[Cell], Callable[[float | None], list[Cell]]]:
    """A method's tuning cells, and a function from the chosen rate to all its final cells, the first of which is tuned."""
    def cell(seed: int, rate: float | None) -> Cell:
        name = f"{method}-seed{seed}" + ("" if rate is None else f"-lr{rate:g}")
        return Cell(method, seed, rate, out / "runs" / name)

    tuning = [cell(grid.seeds[0], rate) for rate in grid.learning_rates or (None,)]
    return tuning, lambda rate: [cell(seed, rate) for seed in grid.seeds]


def best_rate(tuning: Sequence[Cell]) -> Cell | None:
    """The cell with the best inner validation score; None if all have failed."""
    scored = [(score, -index) for index, cell in enumerate(tuning) if (score := cell.inner_score()) is not None]
    return tuning[-max(scored)[1]] if scored else None


def source_of(grid: GridConfig, cell: Cell, more: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """A cell's YAML file and the settings that override it, as ``load_config`` and ``load_class_config`` take them."""
    values = [value.replace("{data}", cell.data) for value in overrides(grid, cell.method, cell.seed, cell.rate)]
    return Path(str(grid.base).replace("{data}", cell.data)), [*values, *cell.more, *more]


def config_of(grid: GridConfig, cell: Cell, more: Sequence[str] = ()) -> RunConfig | ClassConfig:
    """A cell's resolved settings. Raises ConfigError for a setting that no run accepts."""
    load = load_config if grid.task == "segmentation" else load_class_config
    return load(*source_of(grid, cell, more))


def settings_of(grid: GridConfig, cell: Cell, more: Sequence[str]) -> bytes:
    """The same as YAML. Raises ConfigError as :func:`config_of`."""
    return dump_config(config_of(grid, cell, more)).encode()


def run_cells(grid: GridConfig, todo: Sequence[Cell], devices: Sequence[str], say: Say = print) -> None:
    """Train what is not finished, one process a device at a time.

    Raises:
        ConfigError: a device is none, or a finished cell was run with other settings.
        TrainingError: interrupted; cells that wait are not begun, and what is finished stays.
    """
    for device in devices:
        if device.partition(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"--devices: expected cpu, cuda or cuda:NUMBER, got {device!r}")
    waiting = [cell for cell in todo if not cell.finished]
    for cell in todo:
        if cell.finished:
            _check_unchanged(grid, cell)
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)

    def work(cell: Cell) -> None:
        device = free.get()
        try:
            say(f"training {cell.title} on {device}")
            _run(grid, cell, device, say)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(len(devices))
    try:
        list(pool.map(work, waiting))
    except KeyboardInterrupt:
        raise TrainingError("interrupted; the same command goes on with the cells that are not finished") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _check_unchanged(grid: GridConfig, cell: Cell) -> None:
    """A finished cell counts only for the settings it was run with. Raises ConfigError that says what to do."""
    saved = cell.folder / "config.yaml"
    load = load_config if grid.task == "segmentation" else load_class_config
    former = load(saved)
    if former != config_of(grid, cell, [f"device={former.device}"]):
        raise ConfigError(f"{cell.folder} was run with other settings than {cell.title} has now: choose another --out, or remove "
                          "that folder to run it again")


def _run(grid: GridConfig, cell: Cell, device: str, say: Say) -> None:
    settings = cell.folder.with_suffix(cell.folder.suffix + ".yaml")
    write_bytes(settings, settings_of(grid, cell, [f"device={device.partition(':')[0]}"]))
    command = "train" if grid.task == "segmentation" else "classify"
    _call([sys.executable, "-m", "gps_seg.cli", command, str(settings), "--resume", "--out", str(cell.folder)],
          cell.failed, device, f"training {cell.title}", say)


def score_cell(
    cell: Cell, data: str | None, target: Path, blocks: Sequence[str], device: str, say: Say = print, *, digest: str = ""
) -> bool:
    """Score a finished cell on a data set, once; whether the scores are there afterwards.

    Args:
        digest: of the data set's files; scores of other files are made anew.
    """
    if not cell.finished:
        return False
    if target.is_file() and target.stat().st_mtime >= (cell.folder / "result.json").stat().st_mtime:
        if read_json(target, "a report").get("settings", {}).get("files_sha256") == digest:
            return True
        target.unlink()
    command = [sys.executable, "-m", "gps_seg.cli", "evaluate", str(cell.folder), "--json", str(target), "--blocks",
               ",".join(blocks), "--device", device.partition(":")[0], *(["--data", data] if data else [])]
    where = data or "its test list"
    say(f"scoring {cell.title} on {Path(where).name}")
    return _call(command, target.with_suffix(".failed.txt"), device, f"scoring {cell.title}", say)


def _call(command: Sequence[str], failed: Path, device: str, what: str, say: Say) -> bool:
    """Run a command of ours; its output goes to a file only if it fails."""
    environment = dict(os.environ)
    if ":" in device:
        environment["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    failed.unlink(missing_ok=True)
    if done.returncode and "interrupted at step" in done.stderr:
        raise KeyboardInterrupt
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        write_bytes(failed, (done.stdout + done.stderr).encode())
        say(f"failed: {what}: {last} (all of it in {failed})")
    return done.returncode == 0


def provenance(folders: Iterable[Path]) -> dict[str, Any]:
    """Revisions, hardware, precisions and package versions that finished runs name in their results, each once."""
    runs = [read_json(folder / "result.json", "a result")["run"] for folder in folders if (folder / "result.json").is_file()]
    found: dict[str, list[Any]] = {name: [] for name in ("revision", "hardware", "precision", "versions")}
    for run in runs:
        for name, values in found.items():
            if run.get(name) and run[name] not in values:
                values.append(run[name])
    return found


def failures(folders: Mapping[str, Path]) -> dict[str, str]:
    """Last line of each failed cell's output, by title."""
    found = {}
    for title, path in folders.items():
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            found[title] = lines[-1] if lines else "no output"
    return found
