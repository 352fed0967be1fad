"""README.md of a run folder: a model card as the Hugging Face Hub reads it. What is not known is not said.

Source of the metadata: huggingface/hub-docs, modelcard.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gps_seg.commands.hub.facts import Facts, read_facts
from gps_seg.commands.models.page import Section, as_markdown, page
from gps_seg.files import write_text
from gps_seg.runs.card import read_card
from gps_seg.runs.folder import README_FILE
from gps_seg.runs.ready import is_ready
from gps_seg.tasks.segmentation.known import KNOWN
from gps_seg.tasks.segmentation.pretraining import base_note

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

WARNING = "Research use only. Not a medical device; not for diagnosis or treatment."
PIPELINES = {"segmentation": "image-segmentation", "classification": "image-classification"}
NAMED = "RUN is a folder with these files, or the name of this repository on the Hub, USER/NAME."
USE = {"segmentation": ("gps-seg predict RUN PICTURES --out masks", "from gps_seg import Predictor", "",
                        'found = Predictor.from_pretrained("RUN").predict("picture.jpg")',
                        "found.mask, found.probability, found.regions"),
       "classification": ("gps-seg predict RUN PICTURES --out answers", "from pathlib import Path", "",
                          "from gps_seg import load_run", "",
                          'answers = list(load_run("RUN").predict_files([Path("picture.jpg")]))')}


def write_readme(folder: Path) -> None:
    """Write README.md of a finished run. Raises as :func:`readme`."""
    write_text(folder / README_FILE, readme(folder))


def readme(folder: Path) -> str:
    """The card of a run folder or of a ready model, from its files.

    Raises:
        CheckpointError: the folder holds no delta, or a damaged file.
    """
    from huggingface_hub import ModelCard  # imported here: it brings the Hub's client along

    facts = read_facts(folder)
    parts = [as_markdown(section) for section in _sections(facts)]
    if is_ready(folder):
        use, _, terms, _ = parts[1:5]
        text = "\n".join([page(read_card(folder), markdown=True), WARNING, "", *use, "", *terms])
    else:
        text = "\n".join([f"# {_name(facts)}", "", WARNING, *(line for part in parts for line in ("", *part))])
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{text}\n"))


def metadata(facts: Facts) -> ModelCardData:
    """What the Hub's search and its licence field read."""
    from huggingface_hub import ModelCardData

    polyps = ["polyp-segmentation"] if facts.task == "segmentation" and facts.data in {*KNOWN, "phantom"} else []
    sam = ["segment-anything"] if facts.task == "segmentation" else []
    return ModelCardData(
        base_model=facts.hub_base, library_name="gps-seg", pipeline_tag=PIPELINES[facts.task],
        datasets=[facts.data] if facts.data in KNOWN else None, **_licence(facts),
        tags=["gps-seg", *sam, *polyps, "parameter-efficient-fine-tuning", str(facts.description.get("method", "gps")),
              "research-use-only"],
        model_name=_name(facts), eval_results=_results(facts) or None,
    )


def _licence(facts: Facts) -> dict[str, Any]:
    """The base's licence where the data binds nobody, else that of both together, which has no name of its own."""
    if facts.is_free or not facts.terms:
        return {"license": facts.licence.lower() if facts.is_free else "unknown"}
    return {"license": "other", "license_name": "terms-of-base-and-data", "license_link": README_FILE}


def _results(facts: Facts) -> list[EvalResult]:
    """The run's own test scores; what chose the step is no test and stands in the text alone."""
    from huggingface_hub import EvalResult

    if facts.part != "test":
        return []
    return [EvalResult(task_type=PIPELINES[facts.task], dataset_type=str(facts.data), dataset_name=facts.title,
                       dataset_split="test", metric_type=score.metric, metric_name=score.title,
                       metric_value=round(score.value, 6)) for score in facts.scores]


def _name(facts: Facts) -> str:
    return f"{facts.base} tuned by {facts.description.get('method', 'gps')} on {facts.title}"


def _sections(facts: Facts) -> Iterator[Section]:
    yield Section("What it is", columns=("what", "value"), rows=tuple(_rows(facts)))
    lead, *python = USE[facts.task]
    yield Section("How to use it", (f"The files hold what was trained; the package gps-seg puts it on the base. {NAMED}",
                                    f"On the command line: `{lead}`", "In Python:\n\n```python\n" + "\n".join(python) + "\n```"))
    yield _measured(facts)
    said = [f"{title}: {terms}." for title, terms in facts.terms.items()] or ["On what it was trained was not noted."]
    bound = () if facts.is_free else ("Terms of the data may bind what was trained on it: ask its owners before any other use.",)
    yield Section("Terms", (*said, f"Weights of the base: licence {facts.licence}.", *bound))
    yield Section("Limits", tuple(_limits(facts)))


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    told, run = facts.description, facts.result.get("run") or {}
    yield "task", facts.task
    yield "base", facts.base + (f", {facts.hub_base} on the Hub" if facts.hub_base else "")
    yield "base, fingerprint", str(told["base_sha256"])
    if facts.task == "segmentation" and (note := base_note(facts.base)):
        yield "base, data it saw", note
    yield "trained on", facts.title + (f", protocol {facts.config.data.protocol}" if facts.config else "")
    yield "method", str(told.get("method", "gps"))
    yield "trained values", _counted(facts, run.get("trainable") or {})
    model = told.get("model") or {}
    yield from ((name, f"{value}") for name, value in (
        ("input, px", model.get("input_size")), ("resize", model.get("resize")), ("threshold", told.get("threshold")),
        ("classes", ", ".join(map(str, told.get("classes") or ()))), ("seed", told.get("seed")), ("steps", run.get("steps")),
        ("gps-seg", told.get("gps_seg_version")),
    ) if value not in (None, ""))


def _counted(facts: Facts, counts: dict[str, int]) -> str:
    if not {"trainable", "parameters"} <= set(counts):
        return f"{facts.values:,}"
    roles = ", ".join(f"{role} {number:,}" for role, number in counts.items()
                      if role not in ("trainable", "parameters") and number)
    share = 100 * counts["trainable"] / counts["parameters"]
    return f"{counts['trainable']:,} of {counts['parameters']:,} ({share:.2f} %): {roles}"


def _measured(facts: Facts) -> Section:
    if not facts.scores:
        return Section("Scores")
    part = "the test part, read once" if facts.part == "test" else f"the {facts.part} part, which chose the step: no test"
    rows = tuple((score.title, f"{score.value:.4f}", " to ".join(f"{end:.4f}" for end in score.interval or ()) or "-")
                 for score in facts.scores)
    said = f"On {facts.result['n']} images of {facts.title}, {part}; as training left it, without a later calibration."
    return Section("Scores", (said,), ("score", "value", "95 % interval"), rows)


def _limits(facts: Facts) -> Iterator[str]:
    yield WARNING
    if size := (facts.description.get("model") or {}).get("input_size"):
        yield f"It sees pictures at {size} px; what is smaller than a few of these pixels is lost."
    yield "Scores hold for pictures as those it was scored on: other devices, centers and populations can be far worse."
    settings = facts.result.get("settings") or {}
    yield from sorted({f"{text}." for key, text in settings.items() if key.endswith("warning") and text})
