"""What the command line says about runs, models, data and this machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import nn

from gps_seg.config import RunConfig
from gps_seg.core.attach import attach
from gps_seg.core.selection import Selection, counts
from gps_seg.core.table import table
from gps_seg.data.places import cache_folder, search_folder
from gps_seg.errors import DataError
from gps_seg.files import read_json
from gps_seg.methods.added import add_modules
from gps_seg.methods.parts import head_of
from gps_seg.methods.selection_file import load_selection
from gps_seg.models.sam_zoo import MODELS
from gps_seg.models.weights import HOSTED, PUBLISHED
from gps_seg.runs.card import read_card
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.device import compute_dtype, resolve_device, resolve_precision
from gps_seg.runs.folder import CONFIG_FILE, RESULT_FILE, SELECTION_FILE, read_config
from gps_seg.runs.load import run_config
from gps_seg.runs.ready import is_ready, ready_models, run_folder
from gps_seg.runs.select import describe_counts
from gps_seg.runs.task_model import make_task
from gps_seg.tasks.classification.catalog import ADAPTERS
from gps_seg.tasks.classification.catalog import locate as find_adapter
from gps_seg.tasks.segmentation.known import GROUPS, KNOWN
from gps_seg.tasks.segmentation.sets import locate, set_pairs

RANDOM = "random weights, for tests"


def describe_machine() -> str:
    """Device, precision, models with their weights, and data sets."""
    device = resolve_device("auto")
    lines = [f"torch {torch.__version__}, device {device.type}, {torch.get_num_threads()} threads, "
             f"precision auto = {resolve_precision('auto', device)}", f"cache {cache_folder()}", "", "models"]
    for name, entry in MODELS.items():
        lines.append(f"  {name:<21} {entry.spec.native_size:>5} px  {_describe_weights(name)}")
    ready = ", ".join(ready_models()) or "none"
    return "\n".join([*lines, "", f"ready models (gps-seg models list): {ready}", "", "data", describe_data()])


def _describe_weights(name: str) -> str:
    if name in HOSTED:
        return f"{HOSTED[name].licence}, {HOSTED[name].repository} on the Hugging Face Hub"
    published = PUBLISHED.get(name)
    return f"{published.size / 1e6:,.0f} MB, {published.licence}, {published.url}" if published else RANDOM


def describe_data() -> str:
    """The data sets that can be trained and scored by name, their published numbers, and where they were found with how many."""
    groups = [f"  {name:<16}stands for {', '.join(sets)}; to be scored" for name, sets in GROUPS.items()]
    return "\n".join([
        *(_describe_polyps(name) for name in KNOWN), *groups,
        "  phantom         procedural scenes with exact masks, always there",
        "  FOLDER          any folder with images/ and masks/, or laid out as one of these sets; to train: data.name=folder",
        "  task=classification", *(_describe_classes(name) for name in ADAPTERS),
        f"  searched {search_folder()}; terms, layouts and where to get them: data/README.md",
    ])


def _describe_polyps(name: str) -> str:
    known = KNOWN[name]
    try:
        found = locate(name)
        note = f"; {known.note}" if known.note else ""
        where = f"{found}, {len(set_pairs(name))} images{note}" if found else f"not found; {known.source}"
    except DataError as error:
        where = str(error)
    return f"  {name:<16}{known.images:>5} images: {where}"


def _describe_classes(name: str) -> str:
    adapter = ADAPTERS[name]
    classes = f"{adapter.classes:>5} classes" if adapter.classes else f"{'any':>5} classes"
    if not adapter.folders:
        return f"  {name:<26}{classes}: {adapter.where}"
    try:
        return f"  {name:<26}{classes}: {find_adapter(name, adapter, None)}"
    except DataError:
        return f"  {name:<26}{classes}: not found"


def describe_run(folder: str | Path) -> str:
    """Method, base, selection by block, and scores if the run has ended; of a run folder, or a ready model by its name."""
    folder = run_folder(folder)
    description = read_delta_config(folder)
    lines = [f"{folder}: {description.get('method')} on {description.get('base_model_name_or_path')}, "
             f"input {description['model'].get('input_size', '-')} px, trained on {description.get('data')}",
             f"base sha256 {description['base_sha256']}", f"weights licence {description.get('weights_licence')}"]
    if is_ready(folder):
        lines.append(f"ready model: {read_card(folder).words.summary}; gps-seg models card {folder.name}")
    if (folder / CONFIG_FILE).exists() and (is_ready(folder) or (folder / SELECTION_FILE).exists()):
        config = run_config(folder, description)
        model = make_task(config).model(tuple(description.get("classes") or ()))
        chosen = _selection(folder, model)
        lines += [table(chosen, model), describe_counts(config.method, counts(chosen, model, head_of(model)))]
        lines += _describe_backends(model, chosen, config)
    if (folder / RESULT_FILE).exists():
        result = read_json(folder / RESULT_FILE, "a result")
        known = "per_image" in result or "accuracy" in result
        lines.append(make_task(read_config(folder)).headline(result) if known else "the test part was not scored")
    return "\n".join(lines)


def _selection(folder: Path, model: nn.Module) -> Selection:
    """What trained, with the modules it names added to the model; a ready model's delta says it too."""
    if not (folder / SELECTION_FILE).exists():
        attached = load_delta(folder, model, add_modules)
        attached.unmerge()
        return attached.selection
    chosen = load_selection(folder / SELECTION_FILE, model)
    add_modules(model, chosen.meta)
    return chosen


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
