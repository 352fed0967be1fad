"""Every classification table as a tiny one: its own methods and settings on digits, one step, a small model of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gps_seg.commands.compare.cells import Cell, final_cells, tuning_cells
from gps_seg.commands.compare.settings import Comparison, load_comparison
from gps_seg.commands.train import train
from support.settings import silent

FOLDER = Path(__file__).parents[2] / "configs" / "tables"
TABLES = [path.stem for path in sorted(FOLDER.glob("*.yaml")) if yaml.safe_load(path.read_text()).get("task") == "classification"]
SMALL = {"vit_base_patch16_224": "vit_tiny_patch16_224", "swin_base_patch4_window7_224": "swin_tiny_patch4_window7_224",
         "convnext_base": "convnext_tiny"}
TRAINED: set[tuple[object, ...]] = set()  # model, method and settings that another table has run: once is enough


def tiny(name: str, folder: Path) -> Comparison:
    """The table with its methods, rates and grids, on digits."""
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    base: dict[str, Any] = yaml.safe_load((FOLDER / values["base"].replace("{data}", values["data"][-1])).read_text())
    settings = values["settings"]
    base["model"] = {"name": SMALL[settings.pop("model.name", "vit_base_patch16_224")], "input_size": 32}
    base["data"] = {**base["data"], "name": "digits", "few_shot": 2, "inner_images": 10, "test_images": 10}
    base["train"] = {**base.get("train", {}), "max_steps": 1, "batch_size": 10}
    base["selection"] = {**base["selection"], "batch_size": 10}
    for key in ("model.checkpoint", "data.robustness"):
        settings.pop(key, None)
    by_data = {method: {key: {"digits": min(each.values())} for key, each in own.items()}
               for method, own in values.pop("by_data", {}).items()}
    for own in values["methods"].values():
        own |= {"selection.auto_steps": 1} if own.get("selection.k") == "auto" else {}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    for key in ("columns", "groups"):
        values.pop(key, None)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**values, "base": "base.yaml", "data": ["digits"], "by_data": by_data, "seeds": [0]}))
    return load_comparison(path)


def cells(comparison: Comparison, folder: Path) -> list[Cell]:
    """A cell of each method whose kind and settings no table before had."""
    found = []
    for method, own in comparison.page.methods.items():
        (cell, *_) = (tuning_cells(comparison, folder, method, "digits")
                      or final_cells(comparison, folder, method, "digits", comparison.points(method)[0]))
        kind = (cell.config.model.name, cell.config.method, *sorted(own), cell.phase)
        if kind not in TRAINED:
            TRAINED.add(kind)
            found.append(cell)
    return found


@pytest.mark.parametrize("name", TABLES)
def test_a_tiny_version_of_every_table_runs(name: str, tmp_path: Path) -> None:
    for cell in cells(tiny(name, tmp_path), tmp_path):
        config = cell.config.model_copy(update={"device": "cpu"})
        document = train(config, tmp_path / cell.folder.name, say=silent)
        assert document["n"] > 0 and document["run"]["steps"] == 1, cell.title
