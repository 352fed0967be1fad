"""From a RunConfig to results: select, train, evaluate. The only place that sees the whole configuration."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gps_seg.commands.score import report, table, write_csv
from gps_seg.config import RunConfig, check_settings, dump_config, read_settings
from gps_seg.core.attach import Attached, attach
from gps_seg.core.kernels import why_not
from gps_seg.core.scores import data_free_scores, gradient_scores
from gps_seg.core.selection import Selection, counts
from gps_seg.data.transforms import augmentation
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.methods.added import insert_modules
from gps_seg.metrics.masks import ImageScore, aggregate
from gps_seg.metrics.measures import DEFAULT_BLOCKS
from gps_seg.metrics.plots.pictures import training_curve
from gps_seg.models.sam import SamModel
from gps_seg.models.weights import PUBLISHED
from gps_seg.runs import delta as checkpoint
from gps_seg.runs.choose_k import Trial, choose_k, is_open, k_facts
from gps_seg.runs.fit import (
    FitResult,
    autocast,
    compute_dtype,
    fit,
    make_accelerator,
    resolve_device,
    resolve_precision,
    training_mode,
)
from gps_seg.runs.load import draw_cases, load_model, make_loader, score_pairs
from gps_seg.runs.log import RunLog, read_log
from gps_seg.runs.provenance import base_note, data_warnings, peak_memory, surroundings
from gps_seg.tasks.segmentation.audit import check_pairs
from gps_seg.tasks.segmentation.dataset import EpochBatches, PolypDataset, collate
from gps_seg.tasks.segmentation.pairs import Pair, Splits, load_splits
from gps_seg.tasks.segmentation.task import Segmentation

Say = Callable[[str], None]
SELECTION_FILE, CONFIG_FILE, RESULT_FILE = "selection.safetensors", "config.yaml", "result.json"


@dataclass(frozen=True)
class Bench:
    """Everything a recipe works with: the loaded model, the checked data, the place and precision of arithmetic."""

    config: RunConfig
    model: SamModel
    splits: Splits
    task: Segmentation
    device: torch.device
    precision: str


def prepare(config: RunConfig, say: Say = print) -> Bench:
    """Load and check model and data; the data's warnings are said, its errors raised."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.train.precision, device)
    if config.train.backend == "triton" and (reason := why_not(device)):
        raise ConfigError(f"train.backend=triton: {reason}")
    splits = load_splits(config.data)
    if config.data.protocol == "released":
        say("warning: data.protocol=released selects and trains on the test images; its scores say nothing about new images")
    else:
        for finding in check_pairs(splits, near_duplicates=config.data.near_duplicates):
            say(f"warning: {finding.file}: {finding.text}")
    model = load_model(config.model, device)
    model.checkpoint_blocks = config.train.checkpoint_blocks
    task = Segmentation(
        loss_name=config.train.loss, box_probability=config.train.box_probability, seed=config.seed,
        prompt=config.evaluate.prompt, threshold=config.evaluate.threshold,
    )
    return Bench(config, model, splits, task, device, precision)


def make_selection(bench: Bench, say: Say = print) -> Selection:
    """Run the configured method's selection; for gps one pass over the training part, which sees nothing else."""
    config = bench.config.selection

    def scores(names: Sequence[str]) -> dict[str, Tensor]:
        if config.score in ("magnitude", "random"):
            return data_free_scores(bench.model, names, score=config.score, seed=bench.config.seed)
        loader = _selection_loader(bench)
        say(f"selection pass: {min(len(bench.splits.train), config.max_images or 10**9)} training images")
        training_mode(bench.model)
        bar = tqdm(loader, desc="select", unit="batch", disable=not sys.stderr.isatty())
        return gradient_scores(bench.model, names, bar, _selection_loss(bench), score=config.score)

    if bench.config.method == "gps" and is_open(config):
        if bench.config.data.protocol == "released":
            raise ConfigError("selection.k=auto: data.protocol=released validates on the test images; give a number")
        trial = Trial(bench.model, bench.task, _training_loader(bench, 0, 1), _validation(bench), bench.config.train,
                      bench.device, bench.precision)
        return choose_k(config, scores, trial, RunLog(Path(), lambda _values, _step: None, say=say, enabled=False))
    return METHODS[bench.config.method](bench.model, config, scores)


def _selection_loss(bench: Bench) -> Callable[[Any, Any], Tensor]:
    def loss(model: Any, batch: Any) -> Tensor:
        with autocast(bench.device, bench.precision):
            return bench.task.selection_loss(model, batch.to(bench.device))

    return loss


def _selection_loader(bench: Bench) -> DataLoader[Any]:
    released = bench.config.data.protocol == "released"
    pairs = (bench.splits.test if released else bench.splits.train)[: bench.config.selection.max_images]
    return make_loader(bench.model, pairs, batch_size=bench.config.selection.batch_size, workers=bench.config.data.workers)


def _training_loader(bench: Bench, rank: int, processes: int) -> DataLoader[Any]:
    data, train, spec = bench.config.data, bench.config.train, bench.model.spec
    pieces = train.accumulate * processes
    if train.batch_size % pieces:
        raise ConfigError(f"train.batch_size: {train.batch_size} images cannot be shared by {processes} processes in "
                          f"{train.accumulate} pieces each")
    dataset = PolypDataset(
        bench.splits.train, input_size=spec.input_size, resize=spec.resize, mean=spec.mean, std=spec.std,
        augment=augmentation(data.augment), seed=bench.config.seed, cache=data.cache,
    )
    sampler = EpochBatches(len(dataset), train.batch_size // train.accumulate, bench.config.seed, shuffle=True,
                           share=(rank, processes))
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=data.workers)


def train(config: RunConfig, out: Path, *, resume: bool = False, say: Say = print) -> dict[str, Any]:
    """The main road: select, attach, fit, evaluate once on the test list; leaves a run folder.

    Returns:
        The document in ``result.json``.

    Raises:
        ConfigError: ``out`` holds another run, or resuming would change settings.
    """
    began = time.perf_counter()
    device = resolve_device(config.device)
    accelerator = make_accelerator(device, resolve_precision(config.train.precision, device))
    main = accelerator.is_main_process
    say = say if main else _silent
    if main:
        check_free(config, out, resume=resume)
    accelerator.wait_for_everyone()
    if resume and (out / RESULT_FILE).exists():
        say(f"{out} is finished; nothing to do")
        return checkpoint.read_json(out / RESULT_FILE, "a result")
    bench = prepare(config, say)
    if main:  # only now, so that a mistake in the settings leaves no folder behind
        checkpoint.write_bytes(out / CONFIG_FILE, dump_config(config).encode())
    accelerator.wait_for_everyone()
    selection, seconds = select_or_load(out / SELECTION_FILE, bench.model, lambda: make_selection(bench, say), save=main)
    accelerator.wait_for_everyone()
    sizes = counts(selection, bench.model)
    say(describe_counts(config.method, sizes))
    attached = _attach(bench, selection, say)
    describe = description(bench)
    log = RunLog(out, lambda values, step: checkpoint.save_delta(out, attached, {**describe, "best_step": step}, values),
                 say=say, enabled=main, shows_progress=sys.stderr.isatty())
    loader = _training_loader(bench, accelerator.process_index, accelerator.num_processes)
    fitted = fit(bench.model, attached, bench.task, loader, _validation(bench), config=config.train,
                 accelerator=accelerator, log=log, resume=resume)
    if not main:
        return {}
    checkpoint.save_delta(out, attached, {**describe, "best_step": fitted.best_step})
    facts = {"selection_s": seconds, "total_s": time.perf_counter() - began, **k_facts(selection)}
    return _finish(bench, fitted, out, say=say, facts=facts, sizes=sizes)


def _attach(bench: Bench, selection: Selection, say: Say) -> Attached:
    """Bind the selection as the training settings ask."""
    train, dtype = bench.config.train, compute_dtype(bench.precision)
    attached = attach(bench.model, selection, backend="auto" if train.backend == "measure" else train.backend)
    if train.backend == "measure":
        chosen = Counter(attached.measure_backends(dtype).values())
        say("back-ends, measured: " + ", ".join(f"{name} in {number} layers" for name, number in sorted(chosen.items())))
    if train.frozen_storage == "compute":
        attached.store_frozen(dtype)
    return attached


def _finish(
    bench: Bench, fitted: FitResult, out: Path, *, say: Say, facts: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Read the test list, for the first and only time, and write result.json, scores.csv and pictures."""
    config = bench.config
    if not config.evaluate.test:
        training_curve(read_log(out), out / "training.png")
        document = {"run": _run_facts(bench, fitted, facts, sizes)}
        checkpoint.write_json(out / RESULT_FILE, document)
        say(f"best inner validation Dice {fitted.best_score:.4f} at step {fitted.best_step}; the test list was not scored")
        return document
    test = list(bench.splits.test)
    say(f"evaluating on {len(test)} test images")
    scores = score_pairs(bench.model, bench.task, test, device=bench.device, precision=bench.precision, config=config.evaluate,
                         blocks=DEFAULT_BLOCKS)
    draw_cases(bench.model, bench.task, test, scores, device=bench.device, precision=bench.precision,
               count=config.evaluate.overlays, folder=out / "overlays")
    training_curve(read_log(out), out / "training.png")
    document = report(scores, settings=evaluation_settings(bench, "test"))
    document["run"] = _run_facts(bench, fitted, facts, sizes)
    write_csv(out / "scores.csv", scores)
    checkpoint.write_json(out / RESULT_FILE, document)
    say(table(document))
    return document


def _run_facts(bench: Bench, fitted: FitResult, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    config = bench.config
    return {
        "method": config.method, "seed": config.seed, "steps": fitted.steps, "best_step": fitted.best_step,
        "best_inner_dice": fitted.best_score, "stopped": fitted.stopped, "trainable": dict(sizes),
        "step_s": fitted.seconds, **facts, "peak_memory_bytes": peak_memory(bench.device),
        **surroundings(bench.device, bench.precision),
    }


def _validation(bench: Bench) -> Callable[[Any], float]:
    inner: list[Pair] = list(bench.splits.inner)
    loader = make_loader(bench.model, inner, batch_size=bench.config.evaluate.batch_size)

    def validate(model: Any) -> float:
        found: list[ImageScore] = score_pairs(model, bench.task, inner, device=bench.device, precision=bench.precision,
                                              config=bench.config.evaluate, loader=loader)
        return float(aggregate(found)["per_image"]["dice"])

    return validate


def check_free(config: BaseModel, out: Path, *, resume: bool) -> None:
    """Refuse a run folder that is not this run's: a run never writes over another. Raises ConfigError."""
    saved = out / CONFIG_FILE
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} is not empty: choose another --out, or add --resume to go on with the run in it")
    elif saved.exists():
        former = check_settings(type(config), read_settings(saved), str(saved))
        if changed := _differences(former.model_dump(), config.model_dump()):
            raise ConfigError(f"{saved} differs in {', '.join(changed)}: resume with the same settings, or choose another --out")


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed: list[str] = []
    for key in a:
        if isinstance(a[key], dict):
            changed += _differences(a[key], b[key], f"{prefix}{key}.")
        elif a[key] != b[key]:
            changed.append(prefix + key)
    return changed


def select_or_load(path: Path, model: nn.Module, make: Callable[[], Selection], *, save: bool = True) -> tuple[Selection, float]:
    """A resumed run keeps its selection, since reselecting on moved weights would be another method; and the seconds it took."""
    if path.exists():
        selection = checkpoint.load_selection(path, model)
        insert_modules(model, selection.meta)
        return selection, 0.0
    began = time.perf_counter()
    selection = make()
    if save:
        checkpoint.save_selection(path, selection)
    return selection, time.perf_counter() - began


def description(bench: Bench) -> dict[str, Any]:
    """What adapter_config.json says beyond indices: enough to rebuild the model and to judge it."""
    config, spec = bench.config, bench.model.spec
    published = PUBLISHED.get(config.model.name)
    return {
        "base_model_name_or_path": str(config.model.checkpoint or config.model.name),
        "model": config.model.model_dump(mode="json") | {"input_size": spec.input_size, "resize": spec.resize},
        "normalisation": {"mean": spec.mean, "std": spec.std},
        "method": config.method, "selection": config.selection.model_dump(mode="json"),
        "threshold": config.evaluate.threshold, "data": config.data.name, "seed": config.seed,
        "weights_licence": published.licence if published else "unknown", "gps_seg_version": metadata.version("gps-seg"),
    }


def evaluation_settings(bench: Bench, split: str) -> dict[str, Any]:
    """The protocol, printed beside every number."""
    config = bench.config
    return {
        "data": config.data.name, "split": split, "threshold": config.evaluate.threshold, "prompt": config.evaluate.prompt,
        "input_size": bench.model.spec.input_size, "resize": bench.model.spec.resize, "model": config.model.name,
        "base_note": base_note(config.model.name), "data_protocol": config.data.protocol,
        **data_warnings(config.model.name, config.data.name, 0, whole=False),
    }


def describe_counts(method: str, sizes: Mapping[str, int]) -> str:
    """One line: what trains, by role, and its part of the model."""
    parts = ", ".join(f"{name} {sizes[name]:,}" for name in sizes if name not in ("trainable", "parameters") and sizes[name])
    encoder = sizes["trainable"] - sizes.get("head", 0)
    return (f"{method}: {sizes['trainable']:,} of {sizes['parameters']:,} parameters train "
            f"({100 * sizes['trainable'] / sizes['parameters']:.2f} %); encoder {encoder:,} ({parts})")


def _silent(text: str) -> None:
    """Processes beside the main one say nothing."""
