"""The evaluation that a part of a card came from: as a command, and done again."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

from gps_seg.commands.evaluate import Wanted, evaluate_run
from gps_seg.commands.models.measured import measured
from gps_seg.metrics.measures import DEFAULT_BLOCKS
from gps_seg.runs.card import Measured
from gps_seg.runs.load import Run

PROMPTS = {"box": "box", "click": "clicks"}  # a word of what a report says -> what --prompt takes


def prompt_of(found: Measured) -> str:
    """What ``--prompt`` takes: none, box or clicks."""
    return next((prompt for word, prompt in PROMPTS.items() if word in found.prompt), "none")


def command_of(name: str, found: Measured, threshold: float, presence: float | None) -> str:
    """The command that measured it, of a model with this ``threshold`` and ``presence`` of its own."""
    words = [f"gps-seg evaluate {name} --data {found.data}"]
    if found.split not in ("all", "test"):
        words.append(f"--split {found.split}")
    if prompt_of(found) != "none":
        words.append(f"--prompt {prompt_of(found)}")
    if found.threshold != threshold:
        words.append(f"--threshold {found.threshold:g}")
    if found.presence not in (None, presence):
        words.append(f"--presence {found.presence:g}")
    if found.flips:
        words.append("--flips")
    if found.blocks != DEFAULT_BLOCKS:
        words.append(f"--blocks {','.join(found.blocks)}")
    if found.corrupted is not None:
        words.append("--corruptions" + (f" --max-images {found.corrupted}" if found.corrupted < found.images else ""))
    return " ".join(words)


def evaluate_again(run: Run, found: Measured, data: str, *, corruptions: bool) -> Measured:
    """Measure the same on the same images, here and now; its own table is not printed.

    Args:
        data: name or folder of the set.
        corruptions: also what was measured under corruptions, 55 more passes.
    """
    under = corruptions and found.corrupted is not None
    wanted = Wanted(blocks=found.blocks, corruptions=under, max_images=found.corrupted if under else None)
    with redirect_stdout(io.StringIO()):
        document: dict[str, Any] = evaluate_run(run.folder, data=data, split=split_of(found), threshold=found.threshold,
                                                prompt=prompt_of(found), presence=found.presence, flips=found.flips,
                                                wanted=wanted, loaded=run)
    return measured(document)


def split_of(found: Measured) -> str:
    """What ``--split`` takes."""
    return "test" if found.split == "all" else found.split
