"""The selection of a run: one pass over the training part, or trials where k is still open."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn
from tqdm import tqdm

from gps_seg.config import GPSConfig, PassOptions, Score
from gps_seg.core.roles import Role, matches
from gps_seg.core.scores import DATA_FREE, SUM_OF, data_free_scores, scores_of_each, several_gradient_scores
from gps_seg.core.selection import Selection
from gps_seg.data.seeding import seeded
from gps_seg.errors import ConfigError
from gps_seg.methods import METHODS
from gps_seg.methods.added import add_modules
from gps_seg.methods.gps import score_kinds
from gps_seg.methods.parts import apart_in
from gps_seg.methods.selection_file import load_selection
from gps_seg.runs.choose_k import TRIALS, Trial, choose_k, is_open
from gps_seg.runs.device import autocast, resolve_precision, training_mode
from gps_seg.runs.log import RunLog
from gps_seg.runs.setup import Say, Setup
from gps_seg.runs.task_model import make_task

HEAD: Role = "head"


def make_selection(setup: Setup, say: Say = print) -> Selection:
    """Run the configured method's selection; it sees the training part alone, and the inner part to choose k.

    What trains under a loss of its own (``methods.parts``) is added to it, as a whole.
    """
    return with_apart(_chosen(setup, say), setup.model)


def with_apart(selection: Selection, model: nn.Module) -> Selection:
    """A selection with all that a model trains under a loss of its own; the same one where that is nothing."""
    names = [name for name, _ in model.named_parameters() if matches(name, apart_in(model))]
    if not names:
        return selection
    sparse = {name: indices for name, indices in selection.sparse.items() if name not in names}
    return replace(selection, sparse=sparse, dense={**selection.dense, **dict.fromkeys(names, HEAD)})


def _chosen(setup: Setup, say: Say) -> Selection:
    config = setup.config
    if not isinstance(config.selection, GPSConfig) or not is_open(config.selection):
        return _select(setup, config.selection, say)
    if config.data.protocol == "released":
        raise ConfigError("selection.k=auto: data.protocol=released validates on the test images; give a number")
    tuned = _best_k(setup, config.selection, say)
    if config.data.protocol != "final":
        return tuned
    chosen = config.selection.model_copy(update={"k": int(tuned.meta["k"])})  # now on the training and the inner part
    selection = _select(setup, chosen, say)
    return replace(selection, meta={**selection.meta, TRIALS: tuned.meta[TRIALS]})


def _select(setup: Setup, options: Any, say: Say) -> Selection:
    method = METHODS[setup.config.method]
    return method(setup.model, options, lambda names: selection_scores(setup, names, say), setup.config.seed)


def _best_k(setup: Setup, options: GPSConfig, say: Say) -> Selection:
    """Trials on the parts that tuning may see, whatever the run's protocol."""
    config = setup.config.model_copy(update={"data": setup.config.data.model_copy(update={"protocol": "tune"})})
    tuning = setup
    if setup.config.data.protocol == "final":
        task = make_task(config)
        tuning = replace(setup, config=config, task=task, splits=task.splits())
    validate = tuning.validation()
    if validate is None:
        raise ConfigError("selection.k=auto: expected an inner validation part to choose on, the data have none")
    trial = Trial(setup.model, tuning.task, tuning.training_loader(), validate, config.train, setup.device, setup.precision)
    log = RunLog(Path(), lambda _values, _step: None, say=say, enabled=False)
    return choose_k(options, lambda names: selection_scores(tuning, names, say), trial, log, config.seed)


def selection_scores(setup: Setup, names: Sequence[str], say: Say = print) -> dict[str, Tensor]:
    """Scores of the named weights: one pass over the training part, or none for data-free scores."""
    options = setup.config.selection
    if not isinstance(options, PassOptions):
        raise TypeError(f"method {setup.config.method} asks for scores: its page of options must be one of PassOptions")
    kinds = score_kinds(setup.model, options, names)

    def run_pass(scored: Sequence[str]) -> dict[str, Tensor]:
        found = _run_pass(setup, options, {name: (kinds[name],) for name in scored}, say)
        return {name: scores[kinds[name]] for name, scores in found.items()}

    return scores_of_each(setup.model, kinds, run_pass, seed=setup.config.seed)


def every_score(setup: Setup, names: Sequence[str], say: Say = print) -> Iterator[tuple[Score, dict[str, Tensor]]]:
    """Each kind of score with the scores of the named weights; one pass over the training part serves all that need it.

    Raises:
        TypeError: the method of the settings asks for no scores.
    """
    options = setup.config.selection
    if not isinstance(options, PassOptions):
        raise TypeError(f"method {setup.config.method} asks for no scores: its page of options must be one of PassOptions")
    found = _run_pass(setup, options, dict.fromkeys(names, tuple(SUM_OF)), say)
    for kind in get_args(Score):
        free = kind in DATA_FREE
        yield kind, (data_free_scores(setup.model, names, score=kind, seed=setup.config.seed) if free else
                     {name: found[name].pop(kind) for name in names})


def _run_pass(
    setup: Setup, options: PassOptions, kinds: Mapping[str, Sequence[Score]], say: Say
) -> dict[str, dict[Score, Tensor]]:
    released = setup.config.data.protocol == "released"
    items = (setup.splits.test if released else setup.splits.train)[: options.max_images]
    say(f"selection pass: {len(items)} training images")
    loader = setup.task.selection_loader(setup.model, items, options)
    training_mode(setup.model)
    with seeded(setup.config.seed, setup.device):
        shown = tqdm(loader, desc="select", unit="batch", disable=not sys.stderr.isatty())
        return several_gradient_scores(setup.model, kinds, shown, _loss(setup, options))


def _loss(setup: Setup, options: PassOptions) -> Callable[[nn.Module, Any], Tensor]:
    precision = resolve_precision(options.precision, setup.device)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with autocast(setup.device, precision):
            return setup.task.selection_loss(model, batch.to(setup.device), options)

    return loss


def select_or_load(path: Path, model: nn.Module, make: Callable[[], Selection]) -> tuple[Selection, float]:
    """A resumed run keeps its selection, since reselecting on moved weights would be another method; and the seconds it took."""
    if path.exists():
        selection = load_selection(path, model)
        add_modules(model, selection.meta)
        return selection, 0.0
    began = time.perf_counter()
    selection = make()
    return selection, time.perf_counter() - began


def describe_counts(method: str, sizes: Mapping[str, int]) -> str:
    """One line: what trains, by role, and its part of the model."""
    parts = ", ".join(f"{name} {sizes[name]:,}" for name in sizes if name not in ("trainable", "parameters") and sizes[name])
    encoder = sizes["trainable"] - sizes.get("head", 0)
    return (f"{method}: {sizes['trainable']:,} of {sizes['parameters']:,} parameters train "
            f"({100 * sizes['trainable'] / sizes['parameters']:.2f} %); encoder {encoder:,} ({parts})")
