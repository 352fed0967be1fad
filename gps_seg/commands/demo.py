"""``make demo``: the whole road on a small budget, on real images if they can be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gps_seg.commands.train import train
from gps_seg.config import load_config
from gps_seg.data.download import download_kvasir
from gps_seg.errors import DataError
from gps_seg.metrics.tables import headline
from gps_seg.runs.folder import CONFIG_FILE
from gps_seg.tasks.segmentation.sets import locate


def run_demo(config: Path, out: Path) -> dict[str, Any]:
    """Train, evaluate and draw; says in one line which images it uses and why."""
    data = choose_data(Path("data"))
    print(f"demo: {data[1]}", flush=True)
    settings = load_config(config, [f"data.name={data[0]}"])
    document = train(settings, out, resume=(out / CONFIG_FILE).exists())
    print(f"pictures: {out / 'overlays' / 'cases.png'}, {out / 'training.png'}")
    print(headline(document))
    return document


def choose_data(folder: Path) -> tuple[str, str]:
    """(data name, one line that says why): Kvasir-SEG if found or downloadable, else phantoms."""
    if root := locate("kvasir-seg"):
        return "kvasir-seg", f"Kvasir-SEG, found at {root}"
    try:
        return "kvasir-seg", f"Kvasir-SEG, downloaded to {download_kvasir(folder)} (research and education only)"
    except DataError as error:
        return "phantom", f"phantoms (procedural images), because Kvasir-SEG is neither here nor downloadable: {error}"
