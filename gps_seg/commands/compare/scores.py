"""What each final cell says of a data set's images: its own reading of the test part, or ``gps-seg evaluate``, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gps_seg.commands.compare.cells import FAILED, Cell, Say, call, failures
from gps_seg.commands.compare.settings import Comparison
from gps_seg.commands.evaluate import files_digest
from gps_seg.config import RunConfig
from gps_seg.files import read_json
from gps_seg.runs.folder import RESULT_FILE
from gps_seg.runs.task_model import make_task

Document = dict[str, Any]
Final = Mapping[str, Sequence[Cell]]  # by method, a cell a seed


def score_all(
    comparison: Comparison, name: str, final: Final, out: Path, device: str, say: Say = print
) -> tuple[dict[str, list[Document]], dict[str, str]]:
    """Documents of a data set by method, one a seed, without those that failed; and why those failed, by title."""
    files = {cell: _score_file(comparison, cell, name, out) for cells in final.values() for cell in cells
             if cell.finished and not _has_read(comparison, cell, name)}
    digest = _digest(next(iter(files)).config, comparison.sets[name]) if files else ""
    documents: dict[str, list[Document]] = {}
    for method, cells in final.items():
        for cell in cells:
            if cell not in files and cell.finished:
                documents.setdefault(method, []).append(cell.result())
            elif cell in files and _score(comparison, cell, name, files[cell], device, say, digest=digest):
                documents.setdefault(method, []).append(read_json(files[cell], "a report"))
    return documents, failures({f"scoring {cell.title} on {name}": file.with_suffix(FAILED) for cell, file in files.items()})


def _has_read(comparison: Comparison, cell: Cell, name: str) -> bool:
    """Whether the cell's own result is that of the data set: a final run reads its test part once, and it is not read again."""
    own = comparison.sets[name] in (None, cell.config.data.name)
    return own and cell.config.data.protocol == "final" and not comparison.page.blocks


def _digest(config: RunConfig, source: str | None) -> str:
    """Of the files that scores are of: the same name may come to hold other images."""
    task = make_task(config)
    return files_digest(task, task.items(source, "test", task.splits().class_names))


def _score_file(comparison: Comparison, cell: Cell, name: str, out: Path) -> Path:
    folder = "-".join([name.replace(" ", "_"), *sorted(comparison.page.blocks)])
    return out / "scores" / folder / f"{cell.folder.name}.json"


def _score(comparison: Comparison, cell: Cell, name: str, file: Path, device: str, say: Say, *, digest: str) -> bool:
    """Evaluate a finished cell; whether the scores are there afterwards. Scores of other files are made anew."""
    if file.is_file() and file.stat().st_mtime >= (cell.folder / RESULT_FILE).stat().st_mtime:
        if read_json(file, "a report").get("settings", {}).get("files_sha256") == digest:
            return True
        file.unlink()
    source, blocks = comparison.sets[name], comparison.page.blocks
    say(f"scoring {cell.title} on {name}")
    return call(["evaluate", str(cell.folder), "--json", str(file), "--device", device.partition(":")[0],
                 *(["--blocks", ",".join(blocks)] if blocks else []), *(["--data", source] if source else [])],
                file.with_suffix(FAILED), device, f"scoring {cell.title}", say)
