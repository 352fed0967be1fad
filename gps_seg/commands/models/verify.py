"""``gps-seg models verify``: whether a ready model is whole, its base the right one, and what its card says true here.

Intervals are not compared, nor is what the set itself decides. A number agrees if it is no farther from the card's than other
hardware explains: bf16 against fp32 moved the mean Dice of 120 images by 0.0004 and a single image by 0.023 at most
(results/app/accuracy_128px.json). Means may differ by 0.005; rates of things counted by two of them, or 0.005 if that is more;
pixels, clicks and other numbers above 1 by 2 %; counts by two, or 2 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gps_seg.commands.evaluate import files_digest
from gps_seg.commands.models.evaluation import evaluate_again, split_of
from gps_seg.errors import CheckpointError, ConfigError, DataError
from gps_seg.runs.card import Card, Measured, Number, read_card
from gps_seg.runs.load import Run, load_run
from gps_seg.runs.ready import check_whole, ready_folder
from gps_seg.runs.setup import Say
from gps_seg.tasks.segmentation.known import KNOWN
from gps_seg.tasks.segmentation.sets import known_name, label

MEAN, COUNTED, PART = 0.005, 2, 0.02
RATES = ("polyps", "negatives", "unseen_centers")  # blocks whose numbers are parts of things counted


@dataclass(frozen=True)
class Verdict:
    """How one report of a card fared: ``differ`` is None where it was not measured again; ``text`` says why, or how."""

    text: str
    differ: int | None = None


def verify(name: str, data: Sequence[str] = (), *, device: str = "auto", corruptions: bool = False, say: Say = print) -> bool:
    """Check a ready model; returns whether every number that could be measured again agrees.

    Args:
        data: names and folders of sets to measure on; default: those of the card that are found here.
        corruptions: also what was measured under corruptions.

    Raises:
        CheckpointError: no such model, a file of it was changed, or the base is another one.
        ConfigError: a set that the card says nothing of.
    """
    folder = ready_folder(name)
    check_whole(folder)
    card = read_card(folder)
    say(f"{card.name}: {len(card.files)} files are as packed")
    wanted = _wanted(card, data)
    run = load_run(folder, device=device)
    made_on = run.attached.selection.base
    if made_on != card.base.sha256:
        raise CheckpointError(f"{card.name}: its card names the base {card.base.sha256[:16]}..., its delta was made on "
                              f"{made_on[:16]}...: the card was edited; install it again")
    say(f"{card.name}: the base is {card.base.name} with the fingerprint of the card, {card.base.sha256[:16]}...")
    verdicts = []
    for found in card.measured:
        if not data or found.data in wanted:
            verdicts.append(check(run, found, wanted.get(found.data, found.data), corruptions=corruptions))
            say(f"{found.label}, prompt {found.prompt}: {verdicts[-1].text}")
    again = [verdict for verdict in verdicts if verdict.differ is not None]
    wrong = sum(bool(verdict.differ) for verdict in again)
    say(f"{card.name}: {len(again)} of {len(card.measured)} reports measured again, {wrong} of them differ" if card.measured
        else f"{card.name}: its card holds no report")
    return not wrong


def _wanted(card: Card, data: Sequence[str]) -> dict[str, str]:
    """Name on the card -> what to measure on."""
    known = {found.data for found in card.measured}
    named = {next((name for name in (one, known_name(one), label(one)) if name in known), None): one for one in data}
    if None in named:
        raise ConfigError(f"--data {named[None]}: the card of {card.name} has no report on it; it has reports on "
                          f"{', '.join(sorted(known)) or 'none'}")
    return {name: one for name, one in named.items() if name is not None}


def check(run: Run, found: Measured, data: str, *, corruptions: bool) -> Verdict:
    """Measure one report of the card again, if its images are here."""
    try:
        items = run.task.items(data, split_of(found), run.classes)
    except DataError as error:
        where = f"; get it from {KNOWN[found.data].source}" if found.data in KNOWN else f" ({error})"
        return Verdict(f"not found here, not measured{where}")
    if files_digest(run.task, items) != found.files_sha256:
        return Verdict(f"here are other files than the card's ({len(items)} images, the card's {found.images}), not measured")
    again = evaluate_again(run, found, data, corruptions=corruptions)
    return compare(found, again)


def compare(said: Measured, again: Measured) -> Verdict:
    """The numbers of the card against those measured now."""
    left_out = {name for name in said.numbers if name.startswith("corruptions.") and again.corrupted is None}
    names = [name for name in said.numbers if name not in left_out]
    here = {name: again.numbers.get(name) for name in names}
    wrong = [name for name in names if not agrees(name, said.numbers[name], here[name], counted(name, said))]
    note = "; corruptions not measured again, --corruptions does" if left_out else ""
    if not wrong:
        off = max((abs(said.numbers[name].value - number.value), name) for name, number in here.items() if number)
        return Verdict(f"{len(names)} numbers agree, the largest difference is {off[0]:.2g} ({off[1]}){note}", 0)
    shown = "; ".join(_difference(name, said.numbers[name], here[name], counted(name, said)) for name in wrong[:5])
    more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Verdict(f"{len(wrong)} of {len(names)} numbers differ: {shown}{more}; measured with {again.made.precision} on "
                   f"{again.made.hardware}, the card's with {said.made.precision} on {said.made.hardware}{note}", len(wrong))


def counted(name: str, said: Measured) -> int:
    """How many frames a rate is a part of: those without a polyp, those with one, or all."""
    block, _, own = name.partition(".")
    without = said.numbers.get(f"{block}.frames")
    own_total = said.numbers.get(f"{block}.n")
    total = said.images if own_total is None else int(own_total.value)
    if without is None or not 0 < int(without.value) < total:
        return total
    return total - int(without.value) if own.startswith("polyps_") else int(without.value)


def agrees(name: str, said: Number, here: Number | None, images: int) -> bool:
    """Whether a number is as near to the card's as other hardware explains."""
    return here is not None and abs(here.value - said.value) <= allowed(name, said, images)


def allowed(name: str, said: Number, images: int) -> float:
    """How far a number may be from the card's, see this module."""
    if isinstance(said.value, int):
        return max(COUNTED, PART * abs(said.value))
    if abs(said.value) > 1:
        return PART * abs(said.value)
    return max(MEAN, COUNTED / images) if name.partition(".")[0] in RATES else MEAN


def _difference(name: str, said: Number, here: Number | None, images: int) -> str:
    if here is None:
        return f"{name} {said.value:g} on the card, none here"
    return (f"{name} {said.value:g} on the card, {here.value:g} here ({abs(here.value - said.value):.2g} off, "
            f"{allowed(name, said, images):.2g} allowed)")
