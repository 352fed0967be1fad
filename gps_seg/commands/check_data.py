"""``gps-seg data check``: what is wrong within each data set, and which pictures are in two places. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gps_seg.errors import GpsSegError
from gps_seg.files import write_json
from gps_seg.tasks.segmentation.audit import Finding
from gps_seg.tasks.segmentation.collisions import Collisions, LookedAt, Matrix, collide, look_at_sets


def check_data(data: Sequence[str], *, json: Path | None = None) -> str:
    """Check any number of sets, and all against all.

    Args:
        data: known names or folders.
        json: file for sets, matrices and findings.

    Returns:
        Every finding, the matrix if there are several sets, and a summary as the last line.

    Raises:
        ConfigError: a set is given twice.
        DataError: a set is not there, or its images and masks do not match.
        GpsSegError: after printing all that and writing the file, if any finding is an error.
    """
    sets = look_at_sets(data)
    found = collide(sets)
    findings = [finding for one in sets for finding in one.findings] + list(found.findings)
    errors = sum(finding.level == "error" for finding in findings)
    images = sum(len(one.looks) for one in sets)
    across = f" in {len(sets)} sets" if len(sets) > 1 else ""
    summary = f"{images} images{across}: {errors} errors, {len(findings) - errors} warnings"
    if json:
        write_json(json, _document(sets, found, findings))
    lines = [f"{finding.level}: {finding.file}: {finding.text}" for finding in findings]
    if len(sets) > 1:
        lines += matrix(found)
    if errors:
        print("\n".join(lines))
        raise GpsSegError(summary)
    return "\n".join([*lines, summary])


def matrix(found: Collisions) -> list[str]:
    """Sets x sets, in each cell pairs of identical and of nearly identical pictures; the diagonal is within a set."""
    names = list(found.identical)
    width = max(12, *(len(name) for name in names)) + 2
    rows = [f"  {one:<{width}}" + "".join(f"{f'{found.identical[one][other]} + {found.near[one][other]}':>{width}}"
                                          for other in names) for one in names]
    return ["pairs of pictures, identical + nearly identical; within a set on the diagonal:",
            f"  {'':<{width}}" + "".join(f"{name:>{width}}" for name in names), *rows]


def _document(sets: Sequence[LookedAt], found: Collisions, findings: Sequence[Finding]) -> Mapping[str, Any]:
    matrices: dict[str, Matrix] = {"identical": found.identical, "near": found.near}
    return {
        "sets": {one.name: _parts(one) for one in sets}, "matrix": matrices,
        "errors": sum(finding.level == "error" for finding in findings),
        "warnings": sum(finding.level == "warning" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _parts(one: LookedAt) -> dict[str, int]:
    parts = [look.split for look in one.looks]
    return {"images": len(parts), **{part: parts.count(part) for part in sorted(set(parts)) if part != "all"}}
