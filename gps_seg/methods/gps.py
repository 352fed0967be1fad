"""GPS: for every neuron of the encoder, the k connections with the largest accumulated gradient; biases; the head.

Source: Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024, arXiv 2312.10136.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from gps_seg.config import OFFICIAL, GPSConfig
from gps_seg.core.overlap import ENCODER, union
from gps_seg.core.roles import Assignment, Policy, assign, matches
from gps_seg.core.selection import Selection, fingerprint, select
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.methods.selection_file import load_selection


def gps(model: nn.Module, config: GPSConfig, scores: Callable[[Sequence[str]], dict[str, Tensor]]) -> Selection:
    """Select under the config's preset, k, score and level, or take the connections of ``config.files``.

    Raises:
        CheckpointError: a file of other encoder weights.
        ConfigError: a pattern matches no parameter, nothing is left to train, or k is still to be chosen.
    """
    _check_patterns(model, config)
    plan = assign(model, policy_of(model, config))
    if not any(assignment.treatment != "freeze" for assignment in plan.values()):
        raise ConfigError("selection: every parameter is frozen; nothing would train")
    encoder = {ENCODER: fingerprint(model, _patterns(model, "head_patterns", ()))}
    if config.files:
        return _from_files(model, config, plan, encoder)
    if config.k == "auto":
        raise ConfigError("selection.k=auto: expected a number here; only gps-seg train and classify choose one by trials")
    names = [name for name, assignment in plan.items() if assignment.treatment == "select"]
    meta = {"method": "gps", "k": str(config.k), "score": config.score, "level": config.level, "preset": config.preset}
    return select(model, plan, scores(names) if names else {}, k=config.k, level=config.level, meta=meta | encoder)


def _from_files(model: nn.Module, config: GPSConfig, plan: Mapping[str, Assignment], encoder: Mapping[str, str]) -> Selection:
    """All connections of the files together; what trains as a whole is the plan's, since heads differ between tasks."""
    parts = [load_selection(path) for path in config.files]
    for path, part in zip(config.files, parts, strict=True):
        if part.meta.get(ENCODER) != encoder[ENCODER]:
            raise CheckpointError(f"selection.files: {path} is of other encoder weights than the loaded model's: set model.name, "
                                  "model.checkpoint and train.seed as they were when it was made, or select again")
    dense = {name: assignment.role for name, assignment in plan.items() if assignment.treatment == "train"}
    meta = {"method": "gps", "files": ", ".join(map(str, config.files)), **encoder}
    return Selection(union(parts).sparse, dense, fingerprint(model), meta)


def policy_of(model: nn.Module, config: GPSConfig) -> Policy:
    """The settings as the core understands them; the model says which parameters are encoder and head."""
    roles = {role: getattr(config, role) for role in ("weight", "bias", "norm", "scale", "embedding")}
    return Policy(
        roles=roles,
        include=config.include or _patterns(model, "encoder_patterns", ("*",)),
        exclude=config.exclude,
        overrides=(*((name, "freeze") for name in _before_last_blocks(model, config.last_blocks)), *config.overrides),
        head=_patterns(model, "head_patterns", ()),
        head_treatment=config.head,
    )


def _before_last_blocks(model: nn.Module, last_blocks: int | None) -> tuple[str, ...]:
    """Names of everything that comes before the last blocks; autograd then keeps nothing of those layers.

    Raises:
        ConfigError: the model names no blocks, or has fewer.
    """
    if last_blocks is None:
        return ()
    blocks: tuple[str, ...] = tuple(getattr(model, "encoder_blocks", ()))
    if last_blocks > len(blocks):
        raise ConfigError(f"selection.last_blocks: expected 1 to {len(blocks)}, got {last_blocks}")
    names = [name for name, _ in model.named_parameters()]
    start = min(index for index, name in enumerate(names) if name.startswith(blocks[-last_blocks]))
    return tuple(names[:start])


def _patterns(model: nn.Module, attribute: str, default: tuple[str, ...]) -> tuple[str, ...]:
    patterns = getattr(model, attribute, default)
    return tuple(patterns)


def _check_patterns(model: nn.Module, config: GPSConfig) -> None:
    """A pattern that hits nothing is a typing error, except the released rules, which were written for many models."""
    names = [name for name, _ in model.named_parameters()]
    mine = [pattern for pattern, _ in config.overrides if pattern not in {pattern for pattern, _ in OFFICIAL["overrides"]}]
    for pattern in (*config.include, *config.exclude, *mine):
        if not any(matches(name, [pattern]) for name in names):
            raise ConfigError(f"selection: the pattern {pattern!r} matches no parameter; names look like {names[0]!r}")
