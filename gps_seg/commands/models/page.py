"""A card as a page: plain text for the terminal, Markdown for card.md. What was not measured is said to be so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gps_seg.metrics.lesions import SIZES
from gps_seg.metrics.tables import markdown_table
from gps_seg.runs.card import Card, Measured, Number

NOT_MEASURED = "not measured"
WITH_POLYP = "negatives.polyps_dice"
KINDS = ("box", "click")  # of prompts, as reports name them
Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading with sentences and a table; with neither it says that nothing was measured."""

    title: str
    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: Rows = ()


def page(card: Card, *, markdown: bool = False) -> str:
    """The whole card."""
    parts = [as_markdown(section) if markdown else _text(section) for section in sections(card)]
    head = [f"# {card.name}", "", card.words.summary] if markdown else [card.name, card.words.summary]
    return "\n".join([*head, *(line for part in parts for line in ("", *part))]) + "\n"


def headline(card: Card) -> str:
    """Dice of every set without a prompt, in one line: of frames with a polyp, where that was measured by itself."""
    found = [f"{one.label}: Dice {_shown(one, 'per_image.dice')}" if WITH_POLYP not in one.numbers else
             f"{one.label}, frames with a polyp: Dice {_shown(one, WITH_POLYP)}" for one in _plain(card)]
    return "; ".join(found) or NOT_MEASURED


def sections(card: Card) -> Iterator[Section]:
    """The card in its order: words, what it is made of, what was measured, limits, how it was made."""
    yield Section("What it is for", card.words.purpose)
    yield Section("What it is not for", card.words.not_for)
    yield Section("What it is", columns=("what", "value"), rows=tuple(_facts(card)))
    yield _scores("Without a prompt, mean over images", _plain(card))
    yield _prompts([one for one in card.measured if one.prompt != "none"])
    yield _sizes(_plain(card))
    yield _block("Frames without a polyp", "negatives", _plain(card), needs="negatives.specificity")
    yield _block("Frames of centers that no training frame is from", "unseen_centers", _plain(card), needs="unseen_centers.n")
    yield _corruptions(_plain(card))
    yield _calibration(card)
    yield Section("Limits", (*card.words.limits, *_warnings(card)))
    yield Section("How it was made", card.words.remarks, ("what", "value"), tuple(_made(card)))


def _plain(card: Card) -> list[Measured]:
    return [one for one in card.measured if one.prompt == "none"]


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    base, training, method = card.base, card.training, card.method
    counts = method.counts
    yield "base", f"{base.name}, weights licence {base.licence}"
    yield "base, fingerprint", base.sha256
    if base.note:
        yield "base, data it saw", base.note
    yield "trained on", f"{training.title}, protocol {training.protocol}"
    yield "terms of that data", training.terms
    for also in training.beside:
        yield "trained on, too", also
    yield "input", f"{training.input_size} px"
    roles = ", ".join(f"{role} {number:,}" for role, number in counts.items()
                      if role not in ("trainable", "parameters") and number)
    yield "method", method.name
    yield "trained values", (f"{counts['trainable']:,} of {counts['parameters']:,} "
                             f"({100 * counts['trainable'] / counts['parameters']:.2f} %): {roles}")
    yield "size", f"{method.folder_bytes:,} bytes, of which the delta {method.delta_bytes:,}"
    yield "rounding", (f"16 bits: each value by at most {method.relative:.2g} of itself, by {method.absolute:.2g} at most; "
                       f"{method.small:,} small ones keep fewer digits")
    yield "threshold", f"{card.threshold:g}"
    yield "presence", ("always shows its mask" if not card.presence else
                       f"answers \"no polyp\" below a quality of {card.presence:.3f}, by its own account of its mask")


def _scores(title: str, found: Sequence[Measured]) -> Section:
    names = {"per_image.dice": "Dice", "per_image.iou": "IoU", "per_image.nsd": "NSD", "per_image.hd95": "HD95 (px)",
             "dataset.dice": "Dice, pooled", "polyps.detection_rate": "polyps found"}
    return Section(title, columns=("data", "images", *names.values()),
                   rows=tuple((one.label, str(one.images), *(_shown(one, name) for name in names)) for one in found))


def _prompts(found: Sequence[Measured]) -> Section:
    """With prompts simulated from the truth; what clicks buy has names of its own."""
    rows: list[tuple[str, ...]] = []
    for one in found:
        clicks = [name for name in one.numbers if name.startswith("clicks.")]
        rows += [(one.label, one.prompt, "Dice", _shown(one, "per_image.dice")),
                 *((one.label, one.prompt, _words(name), _shown(one, name)) for name in clicks)]
    if found:
        rows += [("-", kind, "-", NOT_MEASURED) for kind in KINDS if not any(kind in one.prompt for one in found)]
    return Section("With prompts, simulated from the true masks", columns=("data", "prompt", "what", "value"), rows=tuple(rows))


def _sizes(found: Sequence[Measured]) -> Section:
    rows = [(one.label, name.replace("_", " "), _shown(one, f"by_size.{name}.images"), _shown(one, f"by_size.{name}.dice"),
             _shown(one, f"polyps.by_size.{name}.detection_rate"))
            for one in found for name, _ in SIZES if f"by_size.{name}.dice" in one.numbers]
    return Section("By the part of the image that polyps cover", columns=("data", "part", "images", "Dice", "polyps found"),
                   rows=tuple(rows))


def _block(title: str, block: str, found: Sequence[Measured], needs: str) -> Section:
    rows = [(one.label, _words(name), _shown(one, name)) for one in found if needs in one.numbers
            for name in one.numbers if name.startswith(f"{block}.")]
    return Section(title, columns=("data", "what", "value"), rows=tuple(rows))


def _corruptions(found: Sequence[Measured]) -> Section:
    rows = []
    for one in found:
        if one.corrupted is None:
            continue
        rows += [(one.label, "images", f"{one.corrupted} of {one.images}"),
                 (one.label, "Dice lost, mean of all", _shown(one, "corruptions.relative_mce"))]
        drops = [name for name in one.numbers if name.startswith("corruptions.by_corruption.") and name.endswith(".drop")]
        rows += [(one.label, f"Dice lost, {name.split('.')[2].replace('_', ' ')}", _shown(one, name))
                 for name in sorted(drops, key=lambda name: -one.numbers[name].value)]
    return Section("Under corruptions, severities 1 to 5", columns=("data", "what", "value"), rows=tuple(rows))


def _calibration(card: Card) -> Section:
    rows = tuple((one.label, _shown(one, "calibration.ece"), _shown(one, "calibration.brier")) for one in card.measured
                 if "calibration.ece" in one.numbers)
    said = f"{card.calibration}." if card.calibration else "Not calibrated."
    return Section("Calibration", (said,) if rows else (said, f"ECE and Brier of the pictures above: {NOT_MEASURED}."),
                   ("data", "ECE as predicted", "Brier as predicted"), rows)


def _warnings(card: Card) -> tuple[str, ...]:
    """What a reader of the scores must know of their images."""
    said = {f"{text}." for one in card.measured for text in one.warnings}
    seen = {f"{one.trained_on} of the {one.images} images of {one.label} trained it." for one in card.measured if one.trained_on}
    return tuple(sorted(said | seen))


def _made(card: Card) -> Iterator[tuple[str, str]]:
    made = card.made
    for command in made.commands:
        yield "command", command
    yield "run", f"seed {made.seed}, {made.steps:,} steps in all, {made.seconds / 60:.0f} minutes for the last run"
    yield "hardware", f"{made.where.hardware}, {made.where.precision}"
    yield "revision", made.where.revision or "unknown"
    yield "versions", ", ".join(f"{name} {version}" for name, version in made.where.versions.items())
    yield "packed", made.packed
    for one in card.measured:
        yield f"measured, {one.label}, prompt {one.prompt}", (f"{one.made.hardware}, {one.made.precision}, revision "
                                                              f"{one.made.revision or 'unknown'}")


def _shown(one: Measured, name: str) -> str:
    number = one.numbers.get(name)
    return "-" if number is None else show(name, number)


def show(name: str, number: Number) -> str:
    """A number with its interval, if it has one."""
    if isinstance(number.value, int):
        return f"{number.value:,}"
    digits = 1 if name.endswith("hd95") or abs(number.value) >= 10 else 3
    given = [one for one in (number.value, number.low, number.high) if one is not None]
    value, *ends = (f"{round(one, digits) + 0.0:.{digits}f}" for one in given)  # + 0: no -0.000
    return f"{value} ({' to '.join(ends)})" if ends else value


def _words(name: str) -> str:
    return name.partition(".")[2].replace("_", " ")


def _text(section: Section) -> list[str]:
    lines = [section.title, *(f"  - {sentence}" for sentence in section.sentences)]
    if section.rows:
        widths = [max(len(row[at]) for row in (section.columns, *section.rows)) for at in range(len(section.columns))]
        lines += ["  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
                  for row in (section.columns, *section.rows)]
    return lines if len(lines) > 1 else [section.title, f"  {NOT_MEASURED}"]


def as_markdown(section: Section) -> list[str]:
    """Its lines."""
    lines = [f"## {section.title}", "", *(f"- {sentence}" for sentence in section.sentences)]
    if section.rows:
        lines += [*([""] if section.sentences else []), *markdown_table(section.columns, section.rows, left=section.columns)]
    return lines if len(lines) > 2 else [*lines, f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."]
