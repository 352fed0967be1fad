"""From a run folder back to a model: load, evaluate, predict. Needs no masks to predict and no training state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from gps_seg.config import DataConfig, EvaluateConfig, ModelConfig, parse_config
from gps_seg.core.attach import Attached
from gps_seg.data.images import list_images, read_image, read_mask, write_image, write_mask
from gps_seg.data.maps import Prediction
from gps_seg.errors import CheckpointError, ConfigError, DataError
from gps_seg.methods.added import insert_modules
from gps_seg.metrics.masks import ImageScore
from gps_seg.metrics.measures import score_blocks
from gps_seg.metrics.plots.pictures import Case, case_sheet, overlay
from gps_seg.models.sam import SamModel, load_sam
from gps_seg.runs.delta import load_delta, read_delta_config
from gps_seg.runs.fit import predictions, resolve_device, resolve_precision
from gps_seg.tasks.segmentation.dataset import Change, PolypDataset, UnlabelledImages, collate
from gps_seg.tasks.segmentation.pairs import Pair, load_splits
from gps_seg.tasks.segmentation.sets import SPLIT, set_pairs
from gps_seg.tasks.segmentation.task import Segmentation


@dataclass(frozen=True)
class Run:
    """A tuned model, ready to predict.

    Attributes:
        model: the base with the delta attached, in eval mode, on ``device``.
        description: adapter_config.json.
    """

    folder: Path
    model: SamModel
    attached: Attached
    description: dict[str, Any]
    device: torch.device
    precision: str

    @property
    def threshold(self) -> float:
        """The operating point the run was made with."""
        return float(self.description["threshold"])


def load_model(config: ModelConfig, device: torch.device) -> SamModel:
    """The pretrained base of a configuration, on a device."""
    model = load_sam(config.name, checkpoint=config.checkpoint, input_size=config.input_size, resize=config.resize,
                     attention=config.attention)
    return model.to(device)


def load_run(folder: Path, *, device: str = "auto", precision: str = "auto") -> Run:
    """Rebuild the base model a run names, check that it is the same to the bit, and attach the delta.

    Raises:
        CheckpointError: the folder holds no delta, a damaged one, or the base differs.
    """
    if not folder.is_dir():
        raise CheckpointError(f"expected a run folder at {folder}, found none; gps-seg train CONFIG --out DIR makes one")
    description = read_delta_config(folder)
    config = parse_config({"model": description.get("model", {})}, source=str(folder)).model
    place = resolve_device(device)
    model = load_model(config, torch.device("cpu"))
    attached = load_delta(folder, model, insert_modules)
    model.to(place).eval()
    return Run(folder, model, attached, description, place, resolve_precision(precision, place))


def find_pairs(data: str | None, split: str, config: DataConfig) -> list[Pair]:
    """The images to evaluate on.

    Args:
        data: a known name or a folder (all of its pairs), or None for the run's own data set.
        split: "test", "inner" or "train" of kvasir-seg, of phantoms and of the run's own data set.
    """
    if split not in ("train", "inner", "test"):
        raise ConfigError(f"--split: expected train, inner or test, got {split!r}")
    if data is not None and (Path(data).is_dir() or data not in SPLIT):
        return set_pairs(data)
    chosen = config if data in (None, config.name) else config.model_copy(update={"name": data, "root": None})
    splits = load_splits(chosen)
    return list(getattr(splits, split))


def make_loader(
    model: SamModel, pairs: Sequence[Pair], *, batch_size: int, workers: int = 0, change: Change | None = None,
) -> DataLoader[Any]:
    """Unshuffled, unaugmented batches of labelled images for a model; ``change`` as for :class:`PolypDataset`."""
    spec = model.spec
    dataset = PolypDataset(pairs, input_size=spec.input_size, resize=spec.resize, mean=spec.mean, std=spec.std,
                           cache=False, change=change)
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate, num_workers=workers)


def score_pairs(
    model: SamModel, task: Segmentation, pairs: Sequence[Pair], *, device: torch.device, precision: str,
    config: EvaluateConfig, progress: Callable[[], object] | None = None,
    loader: DataLoader[Any] | None = None, blocks: Collection[str] = (),
) -> list[ImageScore]:
    """Score every image at its native size, in the order of the pairs; one batch in memory at a time.

    With ``blocks`` (see ``gps_seg.metrics.measures``) the scores are BlockScores, measured on the probabilities.
    """
    by_id = {pair.id: pair for pair in pairs}
    loader = loader if loader is not None else make_loader(model, pairs, batch_size=config.batch_size)
    scores: list[ImageScore] = []
    for id_, probability in predictions(model, task.predict, loader, device, precision):
        if blocks:
            target = read_mask(by_id[id_].mask)
            scores.append(score_blocks(id_, Prediction(probability), target, blocks, threshold=task.threshold))
        else:
            scores.append(task.score(by_id, id_, probability))
        if progress:
            progress()
    return scores


def draw_cases(
    model: SamModel, task: Segmentation, pairs: Sequence[Pair], scores: Sequence[ImageScore], *,
    device: torch.device, precision: str, count: int, folder: Path,
) -> None:
    """Write overlays of the best, median and worst images, and ``cases.png`` with all of them."""
    by_id = {pair.id: pair for pair in pairs}
    ranked = sorted(scores, key=lambda score: (-score.dice, score.id))
    middle = max(0, len(ranked) // 2 - count // 2)
    groups = {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[::-1][:count]}
    cases = []
    for label, group in groups.items():
        chosen = [by_id[score.id] for score in group]
        loader = make_loader(model, chosen, batch_size=1)
        found = dict(predictions(model, task.predict, loader, device, precision))
        for score, pair in zip(group, chosen, strict=True):
            image, target = read_image(pair.image), read_mask(pair.mask)
            predicted = found[pair.id] > task.threshold
            cases.append(Case(pair.id, image, predicted, target, score.dice, label))
            write_image(folder / f"{label}_{pair.id}.png", overlay(image, predicted, target))
    if cases:
        case_sheet(cases, folder / "cases.png")


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


def predict_files(
    run: Run, images: Sequence[Path], out: Path, *, threshold: float | None = None, batch_size: int = 4,
    overlays: bool = True, overwrite: bool = False,
) -> Iterator[tuple[Path, float | None, str]]:
    """Write ``out/STEM.png`` (0/255, native size) and ``out/overlays/STEM.png`` for every image.

    Yields:
        (image, polyp fraction of the area or None, error text or ""), as they are done; an unreadable image does not
        stop the others.

    Raises:
        DataError: a mask is there already and ``overwrite`` is False; nothing was written then.
    """
    limit = run.threshold if threshold is None else threshold
    present = [path.stem for path in images if (out / f"{path.stem}.png").exists()]
    if present and not overwrite:
        raise DataError(f"{out} already holds {len(present)} of these masks ({present[0]}.png, ...); "
                        "choose another --out or add --overwrite")
    readable = []
    for path in images:
        try:
            read_image(path)
            readable.append(path)
        except DataError as error:
            yield path, None, str(error)
    spec, task = run.model.spec, Segmentation(threshold=limit)
    dataset = UnlabelledImages(readable, input_size=spec.input_size, resize=spec.resize, mean=spec.mean, std=spec.std)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, collate_fn=collate)
    by_id = {path.stem: path for path in readable}
    for id_, probability in predictions(run.model, task.predict, loader, run.device, run.precision):
        mask: NDArray[np.bool_] = probability > limit
        write_mask(out / f"{id_}.png", mask)
        if overlays:
            write_image(out / "overlays" / f"{id_}.png", overlay(read_image(by_id[id_]), mask))
        yield by_id[id_], float(mask.mean()), ""
