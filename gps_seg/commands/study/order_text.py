"""What ``gps-seg study gradient-order`` found, as tables and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gps_seg.metrics.tables import markdown_table

CLAIM = "gradient"  # the score that the paper speaks of
CHANCE = "random"
# What a rank correlation is called. Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988: small from 0.1,
# medium from 0.3, large from 0.5; that two orders are the same is said from 0.9 on.
WORDS = ((0.9, "holds"), (0.5, "holds roughly"), (0.3, "holds moderately"), (0.1, "holds weakly"))


def describe(document: Mapping[str, Any]) -> str:
    """A table of the scores for each run, and of the layers and a verdict for the mean over runs."""
    runs, k = document["runs"], document["setting"]["k"]
    lines = [line for name, run in runs.items() for line in (*_run(name, run), "", *_scores(run["scores"], k), "")]
    if len(runs) > 1:
        lines += [f"Mean over {len(runs)} runs:", "", *_scores(document["mean"], k), ""]
    return "\n".join([*lines, "Layer by layer, the score " + CLAIM + ":", "", *_layers(document["mean"][CLAIM]["layers"], k), "",
                      *verdict(document["mean"], k)])


def _run(name: str, run: Mapping[str, Any]) -> list[str]:
    total = run["scores"][CLAIM]["total"]
    decay = f", weight decay {run['weight_decay']:g}" if run["weight_decay"] else ""
    return [f"{name}: {run['data']}, {run['model']}, seed {run['seed']}, {run['optimizer']} at {run['lr']:g}{decay}, values of "
            f"step {run['best_step']}; scores from {run['images']} images; {total['scalars']:,} connections of "
            f"{total['neurons']:,} neurons, {100 * run['unchanged']:.2g} % of which did not change"]


def _columns(k: int) -> list[str]:
    return ["rank correlation", "in a neuron", "best in both", "a draw", f"neuron's best {k} in both", "a draw in a neuron"]


def _numbers(found: Mapping[str, Any]) -> list[str]:
    parts = [f"{100 * found[key]:.2f} %" for key in ("top", "top_chance", "neuron_top", "neuron_top_chance")]
    return [_rho(found["correlation"]), _rho(found["correlation_in_neuron"]), *parts]


def _scores(scores: Mapping[str, Any], k: int) -> list[str]:
    rows = [[name, *_numbers(found["total"])] for name, found in scores.items()]
    return markdown_table(["score", *_columns(k)], rows, left=("score",))


def _layers(layers: Mapping[str, Any], k: int) -> list[str]:
    rows = [[name, f"{found['neurons']:,}", *_numbers(found)] for name, found in layers.items()]
    return markdown_table(["layer", "neurons", *_columns(k)], rows, left=("layer",))


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def word_of(correlation: float | None) -> str:
    """What to say of a claim that two orders are the same."""
    if correlation is None:
        return "cannot be told, all are ties"
    return next((word for least, word in WORDS if correlation >= least), "does not hold")


def verdict(scores: Mapping[str, Any], k: int) -> list[str]:
    """Whether the claim holds, and which score predicts the change best."""
    total = scores[CLAIM]["total"]
    among = {name: found["total"] for name, found in scores.items() if name != CHANCE}
    times = total["neuron_top"] / total["neuron_top_chance"]
    return [
        "The claim that the order of accumulated gradients is the order of change under full fine-tuning: over all weights it "
        f"{word_of(total['correlation'])} (rank correlation {_rho(total['correlation'])}), within a neuron, where GPS chooses, "
        f"it {word_of(total['correlation_in_neuron'])} ({_rho(total['correlation_in_neuron'])}).",
        f"Of a neuron's best {k} by score {100 * total['neuron_top']:.1f} % are among its {k} most changed; a draw gives "
        f"{100 * total['neuron_top_chance']:.1f} %, so {times:.1f} times of it.",
        "Which score predicts the change best: " + "; ".join(
            f"{what}, {_best(among, key)}" for what, key in (("over all weights", "correlation"),
                                                            ("within a neuron", "correlation_in_neuron"),
                                                            (f"for the best {k} of a neuron", "neuron_top"))) + ".",
    ]


def _best(found: Mapping[str, Any], key: str) -> str:
    known = {name: one[key] for name, one in found.items() if one[key] is not None}
    if not known:
        return "none can be told"
    best = max(known, key=known.__getitem__)
    return f"{best} ({known[best]:.3f})"
