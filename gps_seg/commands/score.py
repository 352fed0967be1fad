"""``gps-seg score``: folders of masks or probability maps in, scores out. Needs no torch.

Files are matched by stem. Predictions are read as ``data.maps`` says, and a pixel is foreground above the threshold. If any
file of a folder is a probability map, all are: a map whose brightest pixel has value 1 of 255 is faint, not a mask of
classes. Sizes must agree, unless predictions may be resized to the target's size; targets never are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from gps_seg.data.images import images_by_stem, read_mask
from gps_seg.data.maps import MAP_SUFFIXES, empty_prediction, read_prediction
from gps_seg.errors import DataError, first_names
from gps_seg.metrics.folders import existing_folder, mask_folder
from gps_seg.metrics.measures import DEFAULT_BLOCKS, THRESHOLD, BlockScore, score_blocks
from gps_seg.metrics.surface import TOLERANCE


def score_folders(
    predicted: Path, target: Path, *, allow_missing: bool = False, resize_predicted: bool = False,
    blocks: Collection[str] = DEFAULT_BLOCKS, threshold: float = THRESHOLD, tolerance: float = TOLERANCE,
) -> list[BlockScore]:
    """Score every target mask against the prediction of the same file stem, in the order of stems.

    Args:
        predicted, target: folders; a ``masks`` folder inside ``target`` is used if target has no images.
        allow_missing: a target without prediction counts as an empty prediction instead of an error.
        resize_predicted: predictions of another size are resized to the target's (masks nearest, maps bilinear).
        blocks: what to measure, see ``metrics.measures``.
        threshold: probability above which a pixel is foreground.
        tolerance: of NSD, in pixels.

    Raises:
        DataError: names the files that are missing, surplus, doubled, unreadable or of another size.
    """
    if mask_folder(target).resolve() == predicted.resolve():
        raise DataError(f"{predicted}: expected predictions, this is the folder of the true masks themselves")
    targets, predictions = images_by_stem(mask_folder(target)), images_by_stem(existing_folder(predicted), MAP_SUFFIXES)
    missing, surplus = sorted(set(targets) - set(predictions)), sorted(set(predictions) - set(targets))
    if surplus:
        raise DataError(f"{predicted}: {len(surplus)} predictions without a target mask in {target}: {first_names(surplus)}")
    if missing and not allow_missing:
        raise DataError(f"{predicted}: {len(missing)} predictions are missing: {first_names(missing)}; "
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
