"""A selection as text, block by block."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from gps_seg.core.selection import Selection, block_of


def table(selection: Selection, model: nn.Module) -> str:
    """The selection as text: one line a block, columns selected / bias / other / head / block size / percent."""
    columns = ("selected", "bias", "other", "head", "size")
    blocks: dict[str, dict[str, int]] = {}
    detailed = {name.partition(".")[0] for name in selection.sparse}  # a part without selected entries is one line
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        row = blocks.setdefault(block_of(name) if part in detailed else part, dict.fromkeys(columns, 0))
        row["size"] += parameter.numel()
        row["selected"] += len(selection.sparse.get(name, ()))
        if name in selection.dense:
            role = selection.dense[name]
            row[role if role in ("bias", "head") else "other"] += parameter.numel()
    width = max(len(block) for block in blocks)
    lines = [f"{'block':<{width}} {'selected':>10} {'bias':>8} {'other':>10} {'head':>10} {'size':>12} {'trained':>9}"]
    total = dict.fromkeys(columns, 0)
    for block, row in blocks.items():
        lines.append(_table_line(block, row, width))
        total = {key: total[key] + row[key] for key in total}
    return "\n".join([*lines, _table_line("total", total, width)])


def _table_line(block: str, row: Mapping[str, int], width: int) -> str:
    trained = row["selected"] + row["bias"] + row["other"] + row["head"]
    return (
        f"{block:<{width}} {row['selected']:>10,} {row['bias']:>8,} {row['other']:>10,} {row['head']:>10,} "
        f"{row['size']:>12,} {100 * trained / row['size']:>8.3f}%"
    )
