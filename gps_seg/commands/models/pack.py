"""``gps-seg models pack``: from a finished run to a ready model of a megabyte or two, with a card whose numbers are its own."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gps_seg.commands.models.evaluation import command_of
from gps_seg.commands.models.measured import measured, read_reports, surroundings_of
from gps_seg.commands.models.page import page
from gps_seg.errors import ConfigError
from gps_seg.files import read_json, sha256, write_bytes, write_json, write_text
from gps_seg.methods.parts import head_of
from gps_seg.runs.calibration import CALIBRATION_FILE, describe, read_calibration
from gps_seg.runs.card import (
    CARD_FILE,
    PAGE_FILE,
    Base,
    Card,
    Made,
    Measured,
    Method,
    Training,
    Words,
    dump_card,
)
from gps_seg.runs.common_part import COMMON_KEY
from gps_seg.runs.compact import Rounding, rounding
from gps_seg.runs.delta import save_delta
from gps_seg.runs.folder import CONFIG_FILE, DELTA_FILE, RESULT_FILE, read_config, write_config
from gps_seg.runs.load import QUALITY, Run, load_run, presence_of
from gps_seg.runs.portable import portable, portable_config
from gps_seg.runs.ready import READY_FILES, is_ready, model_files, own, packaged, run_folder
from gps_seg.runs.setup import Say
from gps_seg.settings import check_settings, read_yaml
from gps_seg.tasks.segmentation.pretraining import base_note
from gps_seg.tasks.segmentation.sets import known_name, label, terms_of, title_of
from gps_seg.tasks.segmentation.task import Segmentation

MOST_BYTES = 1_500_000  # of a ready model's folder
WRITTEN_ANEW = ("peft_type", "format", "base_sha256", "inference_mode", "dense", "meta",
                 COMMON_KEY)  # of adapter_config.json, by save_delta
LEFT_OUT = ("images", "corruptions")  # of a report that becomes result.json


@dataclass(frozen=True)
class Order:
    """What to make.

    Attributes:
        name: of the model, by which it is used.
        words: YAML file of :class:`gps_seg.runs.card.Words`.
        reports: ``NAME=FILE``, reports of gps-seg evaluate on this model as packed.
        out: folder to put the model's folder in; default: the user's own ready models.
        most_bytes: of all files together.
        base: the base's weight file, where it is not found by itself.
    """

    name: str
    words: Path
    reports: Sequence[str] = ()
    out: Path | None = None
    most_bytes: int = MOST_BYTES
    base: Path | None = None


def pack(folder: Path, order: Order, say: Say = print) -> Path:
    """Make a ready model of a finished run; returns its folder. Packing again the same model renews its card.

    Reports must be of the model as packed, to the bit: pack without them, evaluate the packed model, pack again with them.

    Raises:
        ConfigError: the run is no finished run of segmentation, a report is of another model, the folder would be too large, or
            holds another model.
        CheckpointError: the run cannot be loaded, or a value is too large for 16 bits.
    """
    folder = run_folder(folder, say)
    target = _target(folder, order)
    words = check_settings(Words, read_yaml(order.words), str(order.words))
    run = load_run(folder, device="cpu", base=order.base)
    if not isinstance(run.task, Segmentation):
        raise ConfigError(f"models pack: expected a run of segmentation, the one in {folder} is of {run.config.task}")
    with TemporaryDirectory() as place:
        made = Path(place)
        cost = write_model(run, made, say)
        found = _measured(order, target, made)
        card = make_card(run, made, Words.model_validate(words), cost, order.name, found)
        write_text(made / CARD_FILE, dump_card(card))
        write_text(made / PAGE_FILE, page(card, markdown=True))
        size = _check_size(made, order.most_bytes)
        _put(made, target)
    say(f"{target}: {size:,} bytes, of which the delta {card.method.delta_bytes:,}; {len(found)} reports on its card")
    return target


def _target(folder: Path, order: Order) -> Path:
    """Where the model goes. Raises ConfigError for a name that is none, or a run that cannot be packed."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", order.name):
        raise ConfigError(f"--name: expected letters, digits, - and _, such as polyp, got {order.name!r}")
    if is_ready(folder):
        raise ConfigError(f"models pack: {folder} is packed already: pack the run that it was made of")
    if absent := [name for name in (CONFIG_FILE, RESULT_FILE) if not (folder / name).is_file()]:
        raise ConfigError(f"models pack: expected a finished run in {folder}, found no {' and no '.join(absent)}")
    place = order.out or own()
    if order.out is None and (packaged() / order.name).is_dir():
        raise ConfigError(f"--name: {order.name} comes with the package: choose another name, or say with --out where to put it")
    return place / order.name


def write_model(run: Run, target: Path, say: Say) -> Rounding:
    """The files that an answer depends on: settings and description without paths of this machine, compact delta, calibration."""
    write_config(target, portable_config(read_config(run.folder)))
    state = run.attached.state()
    cost = rounding(state)
    say(f"rounded to 16 bits: {cost.values:,} values, each by at most {cost.relative:.2g} of itself "
        f"({cost.small:,} are below 6.1e-05 and keep fewer digits), by {cost.absolute:.2g} at most")
    description = {key: value for key, value in portable(run.description).items() if key not in WRITTEN_ANEW}
    save_delta(target, run.attached, description, state, compact=True)
    if read_calibration(run.folder) is not None:
        document = read_json(run.folder / CALIBRATION_FILE, "a calibration")
        write_json(target / CALIBRATION_FILE, portable(document) | {"delta_sha256": sha256(target / DELTA_FILE)})
    else:
        say("the run is not calibrated, or is of other weights than its calibration: gps-seg calibrate RUN, then pack again")
    return cost


def _measured(order: Order, target: Path, made: Path) -> tuple[Measured, ...]:
    """What the reports measured; the one on the run's own test part becomes result.json, without its rows."""
    found: dict[tuple[Any, ...], Measured] = {}
    config = read_config(made)
    own = (config.data.name, "test", "none", presence_of(made, config), False)
    for document in read_reports(order.reports):
        one = measured(document)
        if document["run"]["files"] != model_files(made):
            raise ConfigError(f"--report: the one on {one.data} is of another model than this one as packed: pack without "
                              f"reports, then gps-seg evaluate {target} --json FILE, then pack again with --report "
                              f"{one.data}=FILE")
        if one.key in found:
            raise ConfigError(f"--report: two are on {one.label}, prompt {one.prompt}: expected one")
        found[one.key] = one
        if one.key == own:
            write_json(made / RESULT_FILE, {key: value for key, value in document.items() if key not in LEFT_OUT})
    return tuple(found.values())


def make_card(
    run: Run, made: Path, words: Words, cost: Rounding, name: str, found: tuple[Measured, ...]
) -> Card:
    """The card of the files in ``made``."""
    facts = read_json(run.folder / RESULT_FILE, "a result")["run"]
    calibration = read_calibration(made)
    files = {file.name: sha256(file) for file in sorted(made.iterdir())}
    start, presence = facts.get("start", {}), presence_of(made, run.config)
    began = f" (train.start: {start['run']}, {start['steps'] or 'an unknown number of'} steps before)" if start else ""
    commands = [f"gps-seg train config.yaml --out RUN{began}", *_calibrated(run, is_calibrated=calibration is not None),
                f"gps-seg models pack RUN --name {name} --words WORDS.yaml",
                *(command_of(name, one, run.threshold, presence) for one in found)]
    base = str(run.config.model.name)
    return Card(
        format=1, name=name, words=words, threshold=run.threshold, presence=presence, measured=found, files=files,
        base=Base(name=base, sha256=run.attached.selection.base, licence=str(run.description.get("weights_licence", "unknown")),
                  note=base_note(base)),
        training=_training(run, words),
        method=Method(name=run.config.method, counts=run.attached.counts(head_of(run.model)),
                      delta_bytes=(made / DELTA_FILE).stat().st_size, folder_bytes=_size(made),
                      relative=cost.relative, absolute=cost.absolute, small=cost.small),
        calibration=describe(calibration) if calibration else None,
        made=Made(commands=tuple(commands), seed=facts["seed"], steps=facts["steps"] + (start.get("steps") or 0),
                  seconds=facts["total_s"], packed=datetime.date.today().isoformat(), where=surroundings_of(facts)),
    )


def _calibrated(run: Run, *, is_calibrated: bool) -> list[str]:
    """The command that calibrated a run, with what its quality head was trained with if that was done then."""
    if not is_calibrated:
        return []
    note = run.description.get(QUALITY)
    if note is None:
        return ["gps-seg calibrate RUN"]
    settings = " ".join(f"train.{name}={note[name]}" for name in ("max_steps", "lr", "batch_size"))
    beside = ", ".join(map(label, note["data"]["negatives"])) or "no further frames"
    return [f"gps-seg calibrate RUN {settings} --quality (with {beside})"]


def _training(run: Run, words: Words) -> Training:
    data: Any = run.config.data
    known = terms_of(data.name)
    terms = known or words.data_terms
    if terms is None:
        raise ConfigError(f"data_terms: the terms of {data.name} are not known: the file of --words must say them")
    if known and words.data_terms is not None:
        raise ConfigError(f"data_terms: the terms of {data.name} are known ({terms}): leave it out of the file of --words")
    beside = tuple(f"{title_of(known_name(name) or label(name))}, frames without a polyp: "
                   f"{terms_of(known_name(name) or name) or 'terms of its owner'}" for name in data.negatives)
    return Training(data=data.name, title=title_of(data.name), terms=terms, protocol=str(data.protocol), beside=beside,
                    input_size=int(run.description["model"]["input_size"]))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _check_size(made: Path, most: int) -> int:
    size = _size(made)
    if size > most:
        delta = (made / DELTA_FILE).stat().st_size
        raise ConfigError(f"models pack: expected at most {most:,} bytes, got {size:,}, of which the delta {delta:,}: train less "
                          "(selection.head=select instead of train), or allow more with --most-mb")
    return size


def _put(made: Path, target: Path) -> None:
    """Copy the files; a model that is there already must be the same one."""
    if target.exists() and model_files(target) != model_files(made):
        raise ConfigError(f"{target} holds another model: delete that folder, or choose another --name or --out")
    for name in READY_FILES:
        if (made / name).is_file():
            write_bytes(target / name, (made / name).read_bytes())
        else:
            (target / name).unlink(missing_ok=True)
