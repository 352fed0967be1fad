"""``gps-seg score``: folders of masks or probability maps in, scores out. Needs no torch.

Files are matched by stem. Predictions are read as ``data.maps`` says, and a pixel is foreground above the threshold. If any
file of a folder is a probability map, all are: a map whose brightest pixel has value 1 of 255 is faint, not a mask of
classes. Sizes must agree, unless predictions may be resized to the target's size; targets never are.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from gps_seg.data.images import images_by_stem, list_images, read_mask
from gps_seg.data.maps import MAP_SUFFIXES, empty_prediction, read_prediction
from gps_seg.errors import DataError
from gps_seg.metrics.measures import DEFAULT_BLOCKS, THRESHOLD, BlockScore, score_blocks
from gps_seg.metrics.report import report
from gps_seg.metrics.surface import TOLERANCE
from gps_seg.metrics.tables import headline, publish, table, write_csv

__all__ = ["headline", "hold_maps", "mask_folder", "publish", "read_groups", "report", "score_folders", "table", "write_csv"]


def score_folders(
    predicted: Path, target: Path, *, allow_missing: bool = False, resize_predicted: bool = False,
    blocks: Collection[str] = DEFAULT_BLOCKS, threshold: float = THRESHOLD, tolerance: float = TOLERANCE,
) -> list[BlockScore]:
    """Score every target mask against the prediction of the same file stem, in the order of stems.

    Args:
        predicted, target: folders; a ``masks`` folder inside ``target`` is used if target has no images.
        allow_missing: a target without prediction counts as an empty prediction instead of an error.
        resize_predicted: predictions of another size are resized to the target's (masks nearest, maps bilinear).
        blocks: what to measure, see ``blocks``.
        threshold: probability above which a pixel is foreground.
        tolerance: of NSD, in pixels.

    Raises:
        DataError: names the files that are missing, surplus, doubled, unreadable or of another size.
    """
    if mask_folder(target).resolve() == predicted.resolve():
        raise DataError(f"{predicted}: expected predictions, this is the folder of the true masks themselves")
    targets, predictions = images_by_stem(mask_folder(target)), images_by_stem(_existing(predicted), MAP_SUFFIXES)
    missing, surplus = sorted(set(targets) - set(predictions)), sorted(set(predictions) - set(targets))
    if surplus:
        raise DataError(f"{predicted}: {len(surplus)} predictions without a target mask in {target}: {_first(surplus)}")
    if missing and not allow_missing:
        raise DataError(f"{predicted}: {len(missing)} predictions are missing: {_first(missing)}; "
                        "--allow-missing counts them as empty")

    def score(stem: str, *, full_scale: bool = False) -> BlockScore:
        truth = read_mask(targets[stem])
        path = predictions.get(stem)
        found = read_prediction(path, full_scale=full_scale) if path else empty_prediction(truth.shape)
        if resize_predicted and found.probability.shape != truth.shape:
            found = found.resized(truth.shape)
        try:
            return score_blocks(stem, found, truth, blocks, threshold=threshold, tolerance=tolerance)
        except DataError as error:
            raise DataError(f"{error}, or add --resize-pred") from None

    scores = [score(stem) for stem in sorted(targets)]
    if not hold_maps(scores):
        return scores
    return [score(found.id, full_scale=True) if found.unsure else found for found in scores]


def hold_maps(scores: Iterable[BlockScore]) -> bool:
    """Whether any prediction is a probability map beyond doubt, so that all must be read as such."""
    return any(score.is_map and not score.unsure for score in scores)


def read_groups(path: Path, ids: Sequence[str]) -> list[str]:
    """The group of each image, from a CSV file with a row ``stem,group`` for each; other stems are passed over.

    Raises:
        DataError: unreadable, a row without two cells, a stem in two groups, or images without a group.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in cells] for cells in csv.reader(file) if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the groups in {path}: {getattr(error, 'strerror', None) or 'not a CSV file'}") from None
    groups: dict[str, str] = {}
    for cells in rows:
        if len(cells) != 2 or not all(cells):
            raise DataError(f"{path}: expected rows of stem,group, got {','.join(cells)!r}")
        if groups.setdefault(cells[0], cells[1]) != cells[1]:
            raise DataError(f"{path}: {cells[0]} is in two groups, {groups[cells[0]]} and {cells[1]}")
    if absent := [id_ for id_ in ids if id_ not in groups]:
        raise DataError(f"{path}: {len(absent)} images have no group: {_first(absent)}")
    return [groups[id_] for id_ in ids]


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"expected a folder of masks at {folder}, found none")
    return folder


def mask_folder(folder: Path) -> Path:
    """The folder itself, or its ``masks`` folder if it holds no images. Raises DataError if it is not there."""
    if not list_images(_existing(folder)) and (folder / "masks").is_dir():
        return folder / "masks"
    return folder


def _first(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
