"""``gps-seg train``: select, attach, fit, report once; leaves a run folder. One road for every task and method."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from gps_seg.commands.evaluate import measure
from gps_seg.commands.hub.card import write_readme
from gps_seg.config import RunConfig
from gps_seg.core.attach import Attached, attach
from gps_seg.core.selection import Selection, counts
from gps_seg.files import read_json, write_json
from gps_seg.methods.parts import head_of
from gps_seg.methods.selection_file import save_selection
from gps_seg.metrics.plots.pictures import training_curve
from gps_seg.models.weights import licence_of
from gps_seg.runs.base import base_file
from gps_seg.runs.choose_k import k_facts
from gps_seg.runs.delta import save_delta
from gps_seg.runs.device import compute_dtype, make_accelerator, resolve_device, resolve_precision
from gps_seg.runs.fit import FitResult, fit
from gps_seg.runs.folder import RESULT_FILE, SELECTION_FILE, STATE_FILE, check_free, write_config
from gps_seg.runs.log import RunLog, read_log
from gps_seg.runs.provenance import peak_memory, surroundings
from gps_seg.runs.select import describe_counts, make_selection, select_or_load
from gps_seg.runs.setup import Say, Setup, prepare
from gps_seg.runs.start import read_start, start_facts


def train(config: RunConfig, out: Path, *, resume: bool = False, say: Say = print) -> dict[str, Any]:
    """Run the whole road and return the document in ``result.json``.

    Raises:
        ConfigError: ``out`` holds another run, or resuming would change settings.
        DataError, CheckpointError: data or weights are not there, or not what they should be.
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
        return read_json(out / RESULT_FILE, "a result")
    setup = prepare(config, say)
    loader = setup.training_loader(accelerator.process_index, accelerator.num_processes)
    start = None if resume and (out / STATE_FILE).exists() else read_start(setup)  # the state holds all that came of it
    selection, seconds = select_or_load(out / SELECTION_FILE, setup.model,
                                        lambda: start.choose(setup.model) if start else make_selection(setup, say))
    accelerator.wait_for_everyone()
    if main:  # only now, so that a mistake in the settings leaves no folder behind
        write_config(out, config)
        if not (out / SELECTION_FILE).exists():
            save_selection(out / SELECTION_FILE, selection)
    sizes = counts(selection, setup.model, head_of(setup.model))
    say(describe_counts(config.method, sizes))
    attached = bind(setup, selection, say)
    if start:
        start.load(attached)
    facts = description(setup)
    log = RunLog(out, lambda values, step: save_delta(out, attached, {**facts, "best_step": step}, values), say=say,
                 enabled=main, shows_progress=sys.stderr.isatty())
    fitted = fit(setup.model, attached, setup.task, loader, setup.validation(), config=config.train, accelerator=accelerator,
                 log=log, resume=resume)
    if not main:
        return {}
    save_delta(out, attached, {**facts, "best_step": fitted.best_step})
    times = {"selection_s": seconds, "total_s": time.perf_counter() - began}
    return finish(setup, out, run_facts(setup, fitted, sizes) | times | k_facts(selection) | start_facts(setup), say)


def bind(setup: Setup, selection: Selection, say: Say) -> Attached:
    """Attach the selection as the training settings ask."""
    train, dtype = setup.config.train, compute_dtype(setup.precision)
    attached = attach(setup.model, selection, backend="auto" if train.backend == "measure" else train.backend)
    if train.backend == "measure":
        chosen = Counter(attached.measure_backends(dtype).values())
        say("back-ends, measured: " + ", ".join(f"{name} in {number} layers" for name, number in sorted(chosen.items())))
    if train.frozen_storage == "compute":
        attached.store_frozen(dtype)
    return attached


def description(setup: Setup) -> dict[str, Any]:
    """What adapter_config.json says beyond indices: enough to rebuild the model and to judge it."""
    config = setup.config
    return {
        "base_model_name_or_path": str(config.model.checkpoint or config.model.name), "task": config.task,
        **setup.task.facts(setup.model), "base_file": base_file(config.model), "classes": list(setup.classes),
        "method": config.method, "selection": config.selection.model_dump(mode="json"), "data": config.data.name,
        "seed": config.seed, "weights_licence": licence_of(config.model.name),
        "gps_seg_version": metadata.version("gps-seg"),
    }


def run_facts(setup: Setup, fitted: FitResult, sizes: Mapping[str, int]) -> dict[str, Any]:
    """How the run went and where, for ``result.json``."""
    config = setup.config
    return {
        "method": config.method, "seed": config.seed, "steps": fitted.steps, "best_step": fitted.best_step,
        f"best_inner_{setup.task.score_name}": fitted.best_score, "stopped": fitted.stopped, "trainable": dict(sizes),
        "step_s": fitted.seconds, "peak_memory_bytes": peak_memory(setup.device), **surroundings(setup.device, setup.precision),
    }


def finish(setup: Setup, out: Path, facts: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Read the reported part, for the first and only time, and write result.json and what the task draws."""
    document = {**_report(setup, out, say), "run": dict(facts)}
    if rows := read_log(out):
        training_curve(rows, out / "training.png")
    write_json(out / RESULT_FILE, document)
    write_readme(out)
    (out / STATE_FILE).unlink(missing_ok=True)  # a finished run is not resumed
    if len(document) > 1:
        say(setup.task.table(document))
    return document


def _report(setup: Setup, out: Path, say: Say) -> dict[str, Any]:
    """The scores of the reported part; none where everything was trained on."""
    split, items = setup.reported()
    if not items:
        say(f"{setup.config.data.name} has no test part and all of it was trained on: score the run with gps-seg evaluate --data")
        return {}
    say(f"evaluating on {len(items)} {'test' if split == 'test' else 'inner validation'} images")
    size = setup.config.evaluate.batch_size
    scores, document = measure(setup, items, None, split, config=setup.config, batch_size=size)
    return document | dict(setup.task.finish(items, scores, lambda chosen: setup.predict(chosen, size), out))


def _silent(text: str) -> None:
    """Processes beside the main one say nothing."""
