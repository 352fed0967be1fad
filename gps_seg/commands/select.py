"""``gps-seg select``: the selection pass alone."""

from __future__ import annotations

from pathlib import Path

from gps_seg.config import RunConfig
from gps_seg.core.selection import counts
from gps_seg.core.table import table
from gps_seg.errors import ConfigError
from gps_seg.methods.parts import head_of
from gps_seg.methods.selection_file import save_selection
from gps_seg.runs.select import describe_counts, make_selection
from gps_seg.runs.setup import Say, prepare


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
