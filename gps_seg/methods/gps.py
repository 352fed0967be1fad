"""GPS: for every neuron of the encoder, the k connections with the largest accumulated gradient; biases; the head.

Source: Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024, arXiv 2312.10136.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from gps_seg.config import GPSConfig, PassOptions, Score
from gps_seg.core.overlap import ENCODER, union
from gps_seg.core.roles import Assignment, Policy, Role, Treatment, assign, matches
from gps_seg.core.scores import Scores
from gps_seg.core.selection import Selection, fingerprint, select
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.methods.parts import before_last_blocks, encoder_of, head_of, official_rules, unread_by
from gps_seg.methods.selection_file import load_selection


def gps(model: nn.Module, options: GPSConfig, scores: Scores, seed: int) -> Selection:
    """Select under the options' preset, k, score and level, or take the connections of ``options.files``.

    Raises:
        CheckpointError: a file of other encoder weights.
        ConfigError: a pattern matches no parameter, the released code has no rules for the model, nothing is left to train, or
            k is still to be chosen.
    """
    _check_patterns(model, options)
    plan = assign(model, policy_of(model, options))
    if not any(assignment.treatment != "freeze" for assignment in plan.values()):
        raise ConfigError("selection: every parameter is frozen; nothing would train")
    encoder = {ENCODER: fingerprint(model, head_of(model))}
    if options.files:
        return _from_files(model, options, plan, encoder)
    if options.k == "auto":
        raise ConfigError("selection.k=auto: expected a number here; only gps-seg train and classify choose one by trials")
    names = [name for name, assignment in plan.items() if assignment.treatment == "select"]
    meta = {"method": "gps", "k": str(options.k), "score": options.score, "level": options.level, "preset": options.preset}
    if options.head == "select":
        meta |= {"head_k": str(options.head_k or options.k), "head_score": options.head_score or options.score}
    return select(model, plan, scores(names) if names else {}, k=options.k, head_k=options.head_k, level=options.level,
                  meta=meta | encoder)


def score_kinds(model: nn.Module, options: PassOptions, names: Sequence[str]) -> dict[str, Score]:
    """The score that decides about each weight."""
    own = options.head_score if isinstance(options, GPSConfig) else None
    return {name: own if own and matches(name, head_of(model)) else options.score for name in names}


def _from_files(model: nn.Module, options: GPSConfig, plan: Mapping[str, Assignment], encoder: Mapping[str, str]) -> Selection:
    """All connections of the files together; what trains as a whole is the plan's, since heads differ between tasks."""
    parts = [load_selection(path) for path in options.files]
    for path, part in zip(options.files, parts, strict=True):
        if part.meta.get(ENCODER) != encoder[ENCODER]:
            raise CheckpointError(f"selection.files: {path} is of other encoder weights than the loaded model's: set model.name, "
                                  "model.checkpoint and seed as they were when it was made, or select again")
    dense = {name: assignment.role for name, assignment in plan.items() if assignment.treatment == "train"}
    meta = {"method": "gps", "files": ", ".join(map(str, options.files)), **encoder}
    return Selection(union(parts).sparse, dense, fingerprint(model), meta)


def policy_of(model: nn.Module, options: GPSConfig) -> Policy:
    """The options as the core understands them; the model says which parameters are encoder and head.

    Raises:
        ConfigError: the model has no such blocks, or no released rules.
    """
    roles: dict[Role, Treatment] = {
        "weight": options.weight, "bias": options.bias, "norm": options.norm, "scale": options.scale,
        "embedding": options.embedding,
    }
    last = before_last_blocks(model, options.last_blocks) if options.last_blocks else ()
    overrides: list[tuple[str, Treatment]] = [*((name, "freeze") for name in last), *options.overrides]
    if options.head == "select":
        overrides += [(pattern, "freeze") for pattern in unread_by(model)]
    if options.preset == "official":
        overrides += [*_decided_by_options(model, options), *official_rules(model)]
    return Policy(roles, options.include or encoder_of(model), options.exclude, overrides, head_of(model), options.head)


def _decided_by_options(model: nn.Module, options: GPSConfig) -> Iterator[tuple[str, Treatment]]:
    """What the released rules have no say in although their patterns fit it: the head, and what the options leave out."""
    head = head_of(model)
    yield from ((pattern, options.head) for pattern in head)
    yield from ((pattern, "freeze") for pattern in options.exclude)
    if options.include:
        yield from ((name, "freeze") for name, _ in model.named_parameters() if not matches(name, options.include))


def _check_patterns(model: nn.Module, options: GPSConfig) -> None:
    """A pattern that hits nothing is a typing error."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in (*options.include, *options.exclude, *(pattern for pattern, _ in options.overrides)):
        if not any(matches(name, [pattern]) for name in names):
            raise ConfigError(f"selection: the pattern {pattern!r} matches no parameter; names look like {names[0]!r}")
    for pattern in (*options.include, *options.exclude):
        if all(matches(name, head_of(model)) for name in names if matches(name, [pattern])):
            raise ConfigError(f"selection: {pattern!r} names parts of the head alone, of which selection.head decides; use "
                              f"selection.overrides, such as [[{pattern!r}, freeze]]")
