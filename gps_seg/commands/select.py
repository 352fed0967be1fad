"""``gps-seg select``: the selection pass alone, of either task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gps_seg.config import RunConfig
from gps_seg.core.selection import counts
from gps_seg.core.table import table
from gps_seg.errors import ConfigError
from gps_seg.methods.parts import head_of
from gps_seg.methods.selection_file import save_selection
from gps_seg.runs.select import describe_counts, make_selection
from gps_seg.runs.setup import Say, prepare
from gps_seg.settings import parse_overrides, read_yaml, set_dotted
from gps_seg.tasks.classification.catalog import ADAPTERS, RANGE


def task_of(path: Path, overrides: Sequence[str] = ()) -> str:
    """The task that settings are of: what they name, else classification where only that knows their data set.

    Raises:
        ConfigError: the file is missing or not YAML.
    """
    values = read_yaml(path)
    for key, value in parse_overrides(overrides).items():
        set_dotted(values, key, value)
    data = values.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    whole = name.partition(RANGE)[0] if isinstance(name, str) else ""
    of_labels = whole in ADAPTERS and whole != "folder"  # a folder may hold masks or a folder a class
    return str(values.get("task", "classification" if of_labels else "segmentation"))


def select_once(config: RunConfig, out: Path, say: Say = print) -> str:
    """Write the selection that a run would train; returns it block by block.

    Raises:
        ConfigError: ``out`` is there already, or no .safetensors file.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out: expected a .safetensors file, got {out.name!r}")
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another --out")
    setup = prepare(config, say)
    chosen = make_selection(setup, say)
    save_selection(out, chosen)
    return f"{table(chosen, setup.model)}\n{describe_counts(config.method, counts(chosen, setup.model, head_of(setup.model)))}"
