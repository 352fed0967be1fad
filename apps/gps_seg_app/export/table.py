"""Tables to take away: CSV after ``#`` lines that say what must be known of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from gps_seg_app.inference.model_card import DISCLAIMER


def csv_text(notes: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The disclaimer and the notes that are not empty, a line each, then the column names and the rows."""
    buffer = io.StringIO()
    buffer.write("".join(f"# {line}\n" for line in (DISCLAIMER, *notes) if line))
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
