"""What the command line says about runs, models, data and this machine."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from gps_seg.attach import attach
from gps_seg.checkpoint import load_selection, read_delta_config, read_json
from gps_seg.config import DataConfig, RunConfig, load_config
from gps_seg.data.audit import audit
from gps_seg.data.polyps import Splits, find_root, load_splits, pair_folder
from gps_seg.engine import compute_dtype, resolve_device, resolve_precision
from gps_seg.errors import DataError, GpsSegError
from gps_seg.inference import load_model
from gps_seg.methods.inserts import insert_modules
from gps_seg.models.sam import MODELS
from gps_seg.models.weights import PUBLISHED, cache_folder
from gps_seg.recipes import CONFIG_FILE, RESULT_FILE, SELECTION_FILE, describe_counts
from gps_seg.scoring import headline
from gps_seg.selection import Selection, counts, table

RANDOM = "random weights, for tests"


def describe_machine() -> str:
    """Device, precision, models with their weights, and data sets."""
    device = resolve_device("auto")
    lines = [f"torch {torch.__version__}, device {device.type}, {torch.get_num_threads()} threads, "
             f"precision auto = {resolve_precision('auto', device)}", f"cache {cache_folder()}", "", "models"]
    for name, entry in MODELS.items():
        published = PUBLISHED.get(name)
        weights = f"{published.size / 1e6:,.0f} MB, {published.licence}, {published.url}" if published else RANDOM
        lines.append(f"  {name:<12} {entry.spec.native_size:>5} px  {weights}")
    return "\n".join([*lines, "", "data", describe_data()])


def describe_data() -> str:
    """Known data sets and where they were found."""
    try:
        found = find_root("kvasir-seg")
    except DataError as error:
        found, problem = None, str(error)
    else:
        problem = "not found; gps-seg data download kvasir-seg, or set GPS_SEG_DATA"
    searched = os.environ.get("GPS_SEG_DATA") or "data"
    return "\n".join([
        f"  kvasir-seg   1000 polyp images, official lists 880/120: {found or problem} (searched {searched})",
        "  phantom      procedural scenes with exact masks, always there",
        "  FOLDER       any folder with images/ and masks/",
    ])


def describe_run(folder: Path) -> str:
    """Method, base, selection by block, and scores if the run has ended."""
    description = read_delta_config(folder)
    lines = [f"{folder}: {description.get('method')} on {description.get('base_model_name_or_path')}, "
             f"input {description['model']['input_size']} px, trained on {description.get('data')}",
             f"base sha256 {description['base_sha256']}", f"weights licence {description.get('weights_licence')}"]
    if (folder / SELECTION_FILE).exists() and (folder / CONFIG_FILE).exists():
        model = load_model(load_config(folder / CONFIG_FILE).model, torch.device("cpu"))
        chosen = load_selection(folder / SELECTION_FILE, model)
        insert_modules(model, chosen.meta)
        lines += [table(chosen, model), describe_counts(str(description.get("method")), counts(chosen, model))]
        lines += _describe_backends(model, chosen, load_config(folder / CONFIG_FILE))
    if (folder / RESULT_FILE).exists():
        result = read_json(folder / RESULT_FILE, "a result")
        lines.append(headline(result) if "per_image" in result else "the test list was not read (evaluate.test=false)")
    return "\n".join(lines)


def _describe_backends(model: nn.Module, chosen: Selection, config: RunConfig) -> list[str]:
    """One line: how many layers compute their selected gradients with which back-end on this machine."""
    if not chosen.sparse:
        return []
    device = resolve_device(config.device)
    precision = resolve_precision(config.train.precision, device)
    backend, dtype = config.train.backend, compute_dtype(precision)
    attached = attach(model.to(device), chosen, backend="auto" if backend == "measure" else backend)
    used = Counter((attached.measure_backends(dtype) if backend == "measure" else attached.backends(dtype)).values())
    shown = ", ".join(f"{name} in {number} layers" for name, number in sorted(used.items()))
    return [f"selected gradients on {device.type} in {precision}, train.backend={config.train.backend}: {shown}"]


def check_data(data: str) -> str:
    """Audit a data set. Raises DataError, after listing every finding, if any is an error."""
    if Path(data).is_dir() and data not in ("kvasir-seg", "phantom"):
        splits = Splits(tuple(pair_folder(Path(data))), (), ())
    elif data in ("kvasir-seg", "phantom"):
        splits = load_splits(DataConfig(name=data))
    else:
        raise DataError(f"expected kvasir-seg, phantom or a folder with images/ and masks/, got {data!r}")
    findings = audit(splits)
    lines = [f"{finding.level}: {finding.file}: {finding.text}" for finding in findings]
    errors = sum(finding.level == "error" for finding in findings)
    images = len(splits.train) + len(splits.inner) + len(splits.test)
    summary = f"{images} images: {errors} errors, {len(findings) - errors} warnings"
    if errors:
        print("\n".join(lines))
        raise GpsSegError(summary)
    return "\n".join([*lines, summary])
