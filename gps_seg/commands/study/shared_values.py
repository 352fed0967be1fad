"""``gps-seg study shared-values``: what one set of values for several tasks costs in accuracy, and saves in bytes.

Three kinds of runs at the same steps and batches: each task by itself with its own selection; all together with common values
and own rests; all together with the common values alone. Each kind chooses its rate by the last step's accuracy on the
validation parts at the first seed, an own run for its task, runs together by the mean over the tasks, which have one rate. Then
every seed trains on training and validation part, and the test part is read once. Selections are made once, on the training
parts. What is finished is not run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from gps_seg.commands.compare.edges import INSIDE, UNTUNED, place_of
from gps_seg.commands.share import REPORT_FILE, own_k, share_tasks, task_configs
from gps_seg.commands.share_values import SELECTIONS, Sharing, from_files, share_values
from gps_seg.commands.train import train
from gps_seg.errors import ConfigError
from gps_seg.files import read_json, write_json, write_text
from gps_seg.metrics.paired import compare_values, shown_p
from gps_seg.metrics.tables import markdown_table
from gps_seg.runs.folder import DELTA_FILE, RESULT_FILE
from gps_seg.runs.setup import Say
from gps_seg.tasks.classification.comparison import values

OWN, RESTS, ALONE = "own", "shared with rests", "shared, common alone"
PHASES = {"tune": ("data.protocol=tune", "train.keep=last"), "final": ("data.protocol=final",)}
Results = dict[str, dict[str, Any]]  # by task


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        config, overrides, tasks, least: as for :func:`gps_seg.commands.share.share_tasks`.
        rates: ``train.lr`` to choose from.
    """

    config: Path
    overrides: Sequence[str]
    tasks: Sequence[str]
    rates: Sequence[float]
    seeds: Sequence[int]
    least: float | None = None


@dataclass(frozen=True)
class Trial:
    """One rate, seed and phase of a kind of run."""

    rate: float
    seed: int
    phase: str

    def settings(self, question: Question) -> list[str]:
        """The question's settings with the trial's own."""
        return [*question.overrides, f"train.lr={self.rate!r}", f"seed={self.seed}", *PHASES[self.phase]]

    def folder(self, out: Path, kind: str) -> Path:
        """Where its runs are."""
        return out / "runs" / f"{kind.replace(',', '').replace(' ', '_')}-{self.phase}-seed{self.seed}-lr{self.rate:g}"


def study(question: Question, out: Path, say: Say = print) -> dict[str, Any]:
    """Run what is not finished, write ``shared_values.json`` and ``shared_values.md`` into ``out``, return the document.

    Raises:
        ConfigError: fewer than two rates or no seed, one of them twice, or settings that cannot train together.
        DataError: a data set is not there.
    """
    for name, given, least in (("--rates", question.rates, 2), ("--seeds", question.seeds, 1)):
        if len(set(given)) < max(least, len(given)):
            raise ConfigError(f"{name}: expected at least {least} different numbers, got {', '.join(map(str, given)) or 'none'}")
    names = list(own_k(question.tasks))
    selections, first = out / SELECTIONS, question.seeds[0]
    if not (selections / REPORT_FILE).exists():
        share_tasks(question.config, [*question.overrides, f"seed={first}", *PHASES["tune"]], question.tasks, selections,
                    least=question.least, say=say)
    tuned = {rate: _all(question, out, dict.fromkeys((RESTS, ALONE, *names), Trial(rate, first, "tune")), say)
             for rate in question.rates}
    chosen = {kind: max(question.rates, key=lambda rate: mean(run["accuracy"] for run in tuned[rate][kind].values()))
              for kind in (RESTS, ALONE, *names)}
    final = [_all(question, out, {kind: Trial(rate, seed, "final") for kind, rate in chosen.items()}, say)
             for seed in question.seeds]
    document = {
        "tasks": {task: _one_task(task, [_of_task(runs, task) for runs in final], chosen, question.rates) for task in names},
        "rates": list(question.rates), "seeds": list(question.seeds),
        "validation": {kind: {f"{rate:g}": mean(run["accuracy"] for run in tuned[rate][kind].values()) for rate in question.rates}
                       for kind in chosen},
        "bytes": _bytes(out, names, chosen, first),
        "bytes_with_shared_values": read_json(selections / REPORT_FILE, "a selection's report")["bytes_with_shared_values"],
        "run": final[0][names[0]][names[0]]["run"],
    }
    write_json(out / "shared_values.json", document)
    write_text(out / "shared_values.md", describe(document) + "\n")
    return document


def _all(question: Question, out: Path, trials: Mapping[str, Trial], say: Say) -> dict[str, Results]:
    """Results of both kinds together, and under its own name of each task by itself."""
    return {kind: _together(question, out, kind, trial, say) if kind in (RESTS, ALONE) else
            {kind: _by_itself(question, out, kind, trial, say)} for kind, trial in trials.items()}


def _together(question: Question, out: Path, kind: str, trial: Trial, say: Say) -> Results:
    names, folder = list(own_k(question.tasks)), trial.folder(out, kind)
    sharing = Sharing(question.config, trial.settings(question), names, selections=out / SELECTIONS, rests=kind == RESTS)
    share_values(sharing, folder, resume=True, say=say)
    return {task: read_json(folder / task / RESULT_FILE, "a result") for task in names}


def _by_itself(question: Question, out: Path, task: str, trial: Trial, say: Say) -> dict[str, Any]:
    config = task_configs(question.config, trial.settings(question), dict.fromkeys(own_k(question.tasks)))[task]
    files = [out / SELECTIONS / "own" / f"{task}.safetensors"]
    return train(from_files(config, files), trial.folder(out, OWN) / task, resume=True, say=say)


def _of_task(runs: Mapping[str, Results], task: str) -> dict[str, Any]:
    return {OWN: runs[task][task], RESTS: runs[RESTS][task], ALONE: runs[ALONE][task]}


def _one_task(
    task: str, seeds: Sequence[Mapping[str, Any]], chosen: Mapping[str, float], rates: Sequence[float]
) -> dict[str, Any]:
    """A row a kind: rate, accuracy with its interval over seeds and images, the paired test against the own runs."""
    by_id = {kind: [values(one[kind]) for one in seeds] for kind in (OWN, RESTS, ALONE)}
    ids = list(by_id[OWN][0])
    found = compare_values({kind: np.array([[one[id_] for id_ in ids] for one in seeds]) for kind, seeds in by_id.items()}, ids,
                           metric="accuracy")
    tested = {pair["b"]: {"difference": -pair["difference"], "p": pair["p_holm"]} for pair in found["pairs"] if pair["a"] == OWN}
    rate_of = {OWN: chosen[task], RESTS: chosen[RESTS], ALONE: chosen[ALONE]}
    rows = {kind: {"rate": rate, "place": place_of(rates, rate), **found["methods"][kind], **tested.get(kind, {}),
                   "by_seed": [one[kind]["accuracy"] for one in seeds], "trained": seeds[0][kind]["run"]["trainable"]["selected"]}
            for kind, rate in rate_of.items()}
    return {"n": len(ids), "steps": seeds[0][OWN]["run"]["steps"], "rows": rows}


def _bytes(out: Path, names: Sequence[str], chosen: Mapping[str, float], seed: int) -> dict[str, int]:
    """Of all tasks' files of values, heads included, by kind."""
    own = sum((Trial(chosen[task], seed, "final").folder(out, OWN) / task / DELTA_FILE).stat().st_size for task in names)
    both = {kind: read_json(Trial(chosen[kind], seed, "final").folder(out, kind) / RESULT_FILE, "a result")["bytes"]
            for kind in (RESTS, ALONE)}
    return {OWN: own, **both}


def describe(document: Mapping[str, Any]) -> str:
    """The document as Markdown; a winner on the edge of the rates is named."""
    lines: list[str] = []
    for task, found in document["tasks"].items():
        rows = [[kind, f"{row['rate']:g}", f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}",
                 shown_p(row["p"]) if "p" in row else "reference", f"{row['trained']:,}"] for kind, row in found["rows"].items()]
        columns = ("values", "lr", "accuracy", "95 % interval", "p", "connections")
        lines += [f"## {task}, {found['n']} test images, {found['steps']} steps", "",
                  *markdown_table(columns, rows, left=("values", "95 % interval")), ""]
        lines += [f"{kind}: train.lr={row['rate']:g} lies on the {row['place']} of its grid: widen it before comparing.\n"
                  for kind, row in found["rows"].items() if row["place"] not in (INSIDE, UNTUNED)]
    lines += ["## Bytes", "", *markdown_table(("values", "all deltas, MB"), [
        [kind, f"{size / 1e6:.3f}"] for kind, size in document["bytes"].items()], left=("values",)), ""]
    kinds = {"apart": OWN, "common_and_rest": RESTS, "common_alone": ALONE}
    growth = [[number, *(f"{stored[kind] / 1e6:.3f}" for kind in kinds)]
              for number, stored in document["bytes_with_shared_values"].items()]
    return "\n".join([*lines, "Without heads, MB, of the first tasks:", "",
                      *markdown_table(("tasks", *kinds.values()), growth)])
