"""``gps-seg overlap``: selections against each other, as text and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gps_seg.core.overlap import overlap, per_block, share
from gps_seg.errors import ConfigError
from gps_seg.methods.selection_file import load_selection
from gps_seg.metrics.plots.selections import blocks_plot, overlap_plot


def named_paths(arguments: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH`` arguments. Raises ConfigError for another form, or a name given twice."""
    paths: dict[str, Path] = {}
    for text in arguments:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"expected NAME=FILE, such as gps=runs/gps/selection.safetensors, got {text!r}")
        if name in paths:
            raise ConfigError(f"expected different names, got {name!r} twice")
        paths[name] = Path(path)
    return paths


def report_overlap(arguments: Sequence[str], *, least: float = 0.5, plots: Path | None = None) -> str:
    """The overlap of the selections in ``NAME=FILE`` arguments, and the sizes of a shared one.

    Raises:
        ConfigError: fewer than two, or not of this form.
        CheckpointError: unreadable, or of different base weights.
    """
    paths = named_paths(arguments)
    if len(paths) < 2:
        raise ConfigError(f"expected at least two selections with different names, got {', '.join(paths) or 'none'}")
    selections = {name: load_selection(path) for name, path in paths.items()}
    matrix, shared = overlap(selections).numpy(), share(selections, least)
    counts = {name: per_block(selection) for name, selection in selections.items()}
    if plots:
        blocks_plot(counts, plots / "blocks.png")
        overlap_plot(list(selections), matrix, plots / "overlap.png")
    wide = max(8, *(len(name) for name in selections))
    lines = [f"{'shared with':<{wide}} " + " ".join(f"{name:>{wide}}" for name in selections)]
    lines += [f"{name:<{wide}} " + " ".join(f"{value:>{wide}.3f}" for value in row)
              for name, row in zip(selections, matrix, strict=True)]
    sizes, apart = shared.sizes(), sum(sum(found.values()) for found in counts.values())
    stored = sizes["common"] + sizes["rest"]
    if not apart:
        raise ConfigError("expected selections of single connections, as gps makes; these choose whole parameters only")
    return "\n".join([*lines, f"{len(selections)} selections hold {apart:,} connections; one shared by at least {least:.0%} of "
                      f"them holds {sizes['common']:,}, the rests {sizes['rest']:,}: {100 * (1 - stored / apart):.0f} % saved"])
