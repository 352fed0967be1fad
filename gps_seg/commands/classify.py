"""``gps-seg classify``: the classification benchmarks through the same selection core and training loop.

``data.protocol=tune`` trains on the train part and keeps the best step on the validation part; ``final`` trains on both, takes
the last step, and reads the test part once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from gps_seg.class_config import ClassConfig
from gps_seg.commands.class_bench import Bench, accuracy, engine_settings, load_splits, predict_items, prepare
from gps_seg.commands.class_robustness import find_robustness, score_robustness
from gps_seg.commands.train import CONFIG_FILE, RESULT_FILE, SELECTION_FILE, check_free, describe_counts, select_or_load
from gps_seg.config import dump_config
from gps_seg.core.attach import Attached, attach
from gps_seg.core.scores import data_free_scores, gradient_scores
from gps_seg.core.selection import Selection, counts
from gps_seg.errors import DataError
from gps_seg.methods import METHODS
from gps_seg.metrics.statistics import mean_interval
from gps_seg.runs import delta as checkpoint
from gps_seg.runs.choose_k import TRIALS, Trial, choose_k, is_open, k_facts
from gps_seg.runs.fit import FitResult, fit, make_accelerator, training_mode
from gps_seg.runs.log import RunLog
from gps_seg.runs.provenance import peak_memory, surroundings
from gps_seg.tasks.classification.items import Item
from gps_seg.tasks.classification.task import Labelled, seeded

Say = Callable[[str], None]


def make_selection(bench: Bench, say: Say = print) -> Selection:
    """The configured method's selection; it sees the training part alone, and the validation part to choose k."""
    config = bench.config.selection
    if bench.config.method != "gps" or not is_open(config):
        return METHODS[bench.config.method](bench.model, config, lambda names: selection_scores(bench, names, say))
    tuned = _best_k(bench, say)
    if bench.config.data.protocol == "tune":
        return tuned
    chosen = config.model_copy(update={"k": int(tuned.meta["k"])})  # now on the training and the validation part
    selection = METHODS["gps"](bench.model, chosen, lambda names: selection_scores(bench, names, say))
    return replace(selection, meta={**selection.meta, TRIALS: tuned.meta[TRIALS]})


def _best_k(bench: Bench, say: Say) -> Selection:
    """Trials on the parts that tuning may see, whatever the run's protocol."""
    data = bench.config.data.model_copy(update={"protocol": "tune"})
    tuning = replace(bench, splits=load_splits(bench.config.model_copy(update={"data": data})))
    loader = tuning.training_loader(tuning.splits.train, bench.config.train.batch_size)
    trial = Trial(bench.model, bench.task, loader, lambda _model: accuracy(tuning, tuning.splits.val),
                  engine_settings(bench.config), bench.device, bench.precision)
    log = RunLog(Path(), lambda _values, _step: None, say=say, enabled=False)
    return choose_k(bench.config.selection, lambda names: selection_scores(tuning, names, say), trial, log)


def selection_scores(bench: Bench, names: Sequence[str], say: Say = print) -> dict[str, Tensor]:
    """Scores of the named weights: one pass of two views over the training part, in fp32, or none for data-free scores."""
    config = bench.config.selection
    if config.score in ("magnitude", "random"):
        return data_free_scores(bench.model, names, score=config.score, seed=bench.config.train.seed)
    items = bench.splits.train[: config.max_images]
    say(f"selection pass: {len(items)} training images, two views each, {bench.config.selection_loss.name}")
    loader = bench.training_loader(items, config.batch_size, two_views=True)

    def loss(model: Any, batch: Labelled) -> Tensor:
        return bench.task.selection_loss(model, batch.to(bench.device))

    training_mode(bench.model)
    with seeded(bench.config.train.seed, bench.device):
        return gradient_scores(bench.model, names, tqdm(loader, desc="select", disable=not sys.stderr.isatty()), loss,
                               score=config.score)


def train_classifier(config: ClassConfig, out: Path, *, resume: bool = False, say: Say = print) -> dict[str, Any]:
    """Select, fine-tune, score; leaves a run folder. Returns the document in ``result.json``.

    Raises:
        ConfigError: ``out`` holds another run, or resuming would change settings.
        DataError: an image is unreadable, or the data set is not what it should be.
    """
    check_free(config, out, resume=resume)
    if resume and (out / RESULT_FILE).exists():
        say(f"{out} is finished; nothing to do")
        return checkpoint.read_json(out / RESULT_FILE, "a result")
    began = time.perf_counter()
    bench = prepare(config)
    if config.data.robustness:
        find_robustness(config.data)  # before hours of training, or of tuning for it
    checkpoint.write_bytes(out / CONFIG_FILE, dump_config(config).encode())
    selection, selection_s = select_or_load(out / SELECTION_FILE, bench.model, lambda: make_selection(bench, say))
    sizes = counts(selection, bench.model)
    say(describe_counts(config.method, sizes))
    attached = attach(bench.model, selection)
    fitted = _fit(bench, attached, _log(out, say), resume=resume)
    description = {"method": config.method, "data": config.data.name, "base_model_name_or_path": config.model.name,
                   "model": {}, "threshold": 0.5, "classes": list(bench.splits.class_names)}
    checkpoint.save_delta(out, attached, description)
    tested = bench.splits.test if config.data.protocol == "final" else bench.splits.val
    document = report(tested, predict_items(bench, tested), bench.splits.class_names)
    document["part"] = "test" if config.data.protocol == "final" else "validation"
    document["run"] = {
        "method": config.method, "seed": config.train.seed, "steps": fitted.steps, "best_step": fitted.best_step,
        "trainable": dict(sizes), "step_s": fitted.seconds, "selection_s": selection_s,
        "total_s": time.perf_counter() - began, **k_facts(selection), "peak_memory_bytes": peak_memory(bench.device),
        **surroundings(bench.device, bench.precision),
    }
    if config.data.robustness and config.data.protocol == "final":
        document["robustness"] = score_robustness(bench, say)
    document["settings"] = config.model_dump(mode="json")
    checkpoint.write_json(out / RESULT_FILE, document)
    say(headline(document))
    return document


def _log(out: Path, say: Say) -> RunLog:
    return RunLog(out, lambda _values, _step: None, say=say, shows_progress=sys.stderr.isatty())


def _fit(bench: Bench, attached: Attached, log: RunLog, *, resume: bool) -> FitResult:
    def validate(_model: nn.Module) -> float:
        return accuracy(bench, bench.splits.val)

    loader = bench.training_loader(bench.splits.train, bench.config.train.batch_size)
    return fit(bench.model, attached, bench.task, loader, validate if bench.splits.val else None,
               config=engine_settings(bench.config), accelerator=make_accelerator(bench.device, bench.precision), log=log,
               resume=resume)


def report(items: Sequence[Item], predicted: Sequence[int], class_names: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its bootstrap interval, the mean over classes, and one row an image.

    Raises:
        DataError: no image.
    """
    if not items:
        raise DataError("expected images to score, got none")
    labels, found = np.array([item.label for item in items]), np.array(predicted)
    right = labels == found
    by_class = {name: float(right[labels == index].mean()) for index, name in enumerate(class_names) if (labels == index).any()}
    return {"n": len(items), "accuracy": float(right.mean()), "interval": list(mean_interval(right)),
            "class_mean_accuracy": float(np.mean(list(by_class.values()))), "by_class": by_class,
            "images": [{"id": item.id, "label": item.label, "predicted": int(one)}
                       for item, one in zip(items, predicted, strict=True)]}


def headline(document: Mapping[str, Any]) -> str:
    """One line."""
    low, high = document["interval"]
    return (f"accuracy {document['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), mean over classes "
            f"{document['class_mean_accuracy']:.4f} ({document['part']}, {document['n']} images)")
