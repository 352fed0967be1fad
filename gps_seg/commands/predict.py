"""``gps-seg predict``: masks, or classes, of images that have no labels, be they three or a hundred thousand.

Memory does not grow with what the images hold: it goes to the manifest line by line (:mod:`gps_seg.commands.manifest`), and
tables are made from that at the end. An answer is computed together with the same others, whichever process does it and after
however many kills: so several processes, or a prediction that was killed and went on, give the same masks as one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gps_seg.commands.manifest import FORMAT, MANIFEST, Line, Writer, check_header, entries, gather, manifest_files
from gps_seg.commands.predict_kinds import Kind, Wanted, kind_of
from gps_seg.data.images import list_images
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import sha256
from gps_seg.runs.device import Processes, pictures_at_once
from gps_seg.runs.exported import Exported, is_exported, load_exported
from gps_seg.runs.folder import CONFIG_FILE, DELTA_CONFIG, DELTA_FILE
from gps_seg.runs.load import Run, load_run, with_presence

EVERYTHING, ALONE = Wanted(), Processes()


@dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        text: what was found; empty for an image that could not be read, and for one that was done before.
        problem: why it could not; empty otherwise.
        earlier: it is in the manifest of what was killed, and was left as it is.
    """

    path: Path
    text: str = ""
    problem: str = ""
    earlier: bool = False


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """Files and the images of folders, in order. Raises DataError for missing inputs and for two files with one stem."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            images = list_images(path / "images" if (path / "images").is_dir() else path)
            if not images:
                raise DataError(f"{path}: expected images, found none")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"expected an image or a folder at {path}, found none")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise DataError(f"{path} and {stems[path.stem]} would both become {path.stem}.png; predict them into two folders")
        stems[path.stem] = path
    return found


def open_model(
    folder: Path, engine: str = "torch", *, device: str = "auto", base: Path | None = None, presence: float | None = None,
    precision: str | None = None,
) -> Run | Exported:
    """A run in torch, or an export in the runtime that ``engine`` names.

    Raises:
        ConfigError: the engine is not the folder's, or it reads no ``base`` and has no other ``precision``.
        CheckpointError: as of :func:`gps_seg.runs.load.load_run` and :func:`gps_seg.runs.exported.load_exported`.
    """
    if engine == "torch":
        if is_exported(folder):
            raise ConfigError(f"{folder} holds an export, which torch does not read: add --engine onnx or --engine openvino")
        return with_presence(load_run(folder, device=device, precision=precision, base=base), presence)
    if base is not None:
        raise ConfigError(f"--base: an export holds its base; leave it out with --engine {engine}")
    if precision is not None:
        raise ConfigError(f"--precision: an export computes in fp32; leave it out with --engine {engine}")
    if not is_exported(folder):
        raise ConfigError(f"--engine {engine}: expected a folder that gps-seg export RUN --onnx DIR made, got {folder}")
    return load_exported(folder, engine, device=device, presence=presence)


def predict_files(
    run: Run | Exported, images: Sequence[Path], out: Path, wanted: Wanted = EVERYTHING, processes: Processes = ALONE
) -> Iterator[Answer]:
    """Write what the run's task predicts of every image, and say it as it is done; an unreadable image does not stop the others.

    Masks become ``out/STEM.png`` (0/255, native size) and ``out/overlays/STEM.png``; classes become ``out/predictions.csv``. A
    run whose quality head was trained leaves ``out/presence.csv`` beside its masks: file, presence (the quality, 0..1), answer
    (polyp or none) and area (0..1); where the quality is below ``evaluate.presence`` of its task, the mask is empty.

    Args:
        processes: that share the images; this one does, and yields, every ``count``-th batch.

    Raises:
        DataError: a prediction is there already and is neither to be replaced nor to go on, or another one is to go on; nothing
            was written then.
        ConfigError: what classifiers do not have, or ``overwrite`` and ``resume`` together.
    """
    kind = kind_of(run, out, wanted)
    header = {"format": FORMAT, **_model(run), "precision": run.precision, **kind.settings()}
    if processes.is_main:
        _begin(out, images, header, kind.files(images), wanted)
    processes.wait()
    done = {line["image"]: line.get("bytes", 0) for line in entries(out)} if wanted.resume else {}
    place = out / (MANIFEST if processes.count == 1 else f"manifest.{processes.rank}.jsonl")
    with Writer(place, header) as manifest:
        size = pictures_at_once(run.device)
        for start in range(processes.rank * size, len(images), processes.count * size):
            yield from _batch(kind, images[start : start + size], done, manifest)
    processes.wait()
    if processes.is_main:
        names = {path.name: None for path in images}
        gather(out, header, list(names))
        kind.finish(lambda: (line for line in entries(out) if line["image"] in names and "error" not in line))


def problems(out: Path, images: Sequence[Path]) -> list[str]:
    """Why images could not be read, of a prediction that is done."""
    names = {path.name for path in images}
    return [line["error"] for line in entries(out) if "error" in line and line["image"] in names]


def _batch(kind: Kind, batch: Sequence[Path], done: Mapping[str, int], manifest: Writer) -> Iterator[Answer]:
    """Answer a batch, all of it, and write what is missing."""
    earlier = {path for path in batch if path.name in done and _is_done(path, done[path.name], kind)}
    if len(earlier) < len(batch):
        began, read = time.perf_counter(), {}
        for path in batch:
            try:
                read[path] = kind.read(path)
            except DataError as error:
                manifest.write({"image": path.name, "error": str(error)})
                yield Answer(path, problem=str(error))
        answers = list(kind.answers(list(read.values()))) if read else []
        share = (time.perf_counter() - began) / len(batch)
        for (path, content), answer in zip(read.items(), answers, strict=True):
            if path not in earlier:
                began = time.perf_counter()
                text, line = kind.write(path, content, answer)
                seconds = round(share + time.perf_counter() - began, 4)
                file = {"bytes": path.stat().st_size, "sha256": sha256(path)}
                manifest.write({"image": path.name, **line, "seconds": seconds, **file})
                yield Answer(path, text)
    yield from (Answer(path, earlier=True) for path in batch if path in earlier)


def _is_done(path: Path, size: int, kind: Kind) -> bool:
    """Whether it was read when it had as many bytes as now (0: it could not be), and what was written of it is there."""
    return bool(size) and path.is_file() and path.stat().st_size == size and kind.is_there(path)


def _begin(out: Path, images: Sequence[Path], header: Line, files: Sequence[str], wanted: Wanted) -> None:
    """Refuse what would mix two predictions; make ready what goes on or is replaced."""
    manifests = manifest_files(out)
    if wanted.overwrite:
        for path in manifests:
            path.unlink()
    elif wanted.resume and manifests:
        check_header(out, header)
        gather(out, header, [path.name for path in images])
    elif present := [name for name in files if (out / name).exists()] or [path.name for path in manifests]:
        go_on = ", --resume to go on" if manifests else ""
        raise DataError(f"{out} already holds {len(present)} of these predictions ({present[0]}, ...); "
                        f"choose another --out or add --overwrite{go_on}")


def _model(run: Run | Exported) -> Line:
    """What tells a model from another: the runtime, and the sha256 of its files."""
    if isinstance(run, Exported):
        return {"engine": run.engine, "model": run.about.files}
    files = (run.folder / name for name in (DELTA_FILE, DELTA_CONFIG, CONFIG_FILE))
    return {"engine": "torch", "model": {path.name: sha256(path) for path in files if path.is_file()}}
