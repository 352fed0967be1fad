"""One picture, one run: the page, ``gps-seg predict``, ``Predictor`` and what ``evaluate`` scores give one mask, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gps_seg import Predictor
from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.predict import predict_files
from gps_seg.commands.predict_kinds import Wanted
from gps_seg.data.images import read_mask, write_image, write_mask
from gps_seg.metrics.masks import score_image
from gps_seg.runs.load import Run, load_run
from gps_seg.tasks.segmentation.native import Clicked
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.prompts import next_click
from gps_seg_app.inference.predictor import Predictor as AppPredictor

HEARD = ("train.box_probability=0.3", "train.click_probability=0.3", "train.quality=true")
SIZE = (48, 64)  # the model's own, so that a place in the picture and one in its input are the same number
NUMBERS = (1, 3, 4)
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same")
    for number in NUMBERS:
        image, mask = phantom(number, size=SIZE)
        assert mask.any()
        write_image(folder / "images" / f"{number}.png", image)
        write_mask(folder / "masks" / f"{number}.png", mask)
    return folder


def pairs(root: Path) -> list[Pair]:
    return [Pair(str(number), root / "images" / f"{number}.png", root / "masks" / f"{number}.png") for number in NUMBERS]


def operating_point(run: Run, root: Path) -> float:
    """A threshold that cuts the first picture in two."""
    return round(float(np.median(Predictor(run).predict(pairs(root)[0].image).probability)), 3)


def evaluated(run: Run, root: Path, cut: float, **settings: Any) -> list[Mask]:
    """What ``gps-seg evaluate`` scores, in its batches of 8."""
    task: Any = run.task
    task = replace(task, evaluate=task.evaluate.model_copy(update=settings))
    found = [answer for _, answer in replace(run, task=task).run_through(run.loader(pairs(root), 8), task.examine)]
    maps = [one.after(1) if isinstance(one, Clicked) else one.shown(None) for one in found]
    return [probability > cut for probability in maps]


@pytest.mark.parametrize("more", [(), ("evaluate.flips=true",), ("method=adapter",)], ids=["plain", "flips", "adapter"])
def test_without_a_prompt(more: tuple[str, ...], trained: Callable[..., Path], root: Path, tmp_path: Path) -> None:
    folder = trained(*HEARD, *more)
    run = load_run(folder, device="cpu")
    cut = operating_point(run, root)
    app, predictor = AppPredictor({"it": folder}, device="cpu", threshold=cut), Predictor(run, threshold=cut)
    images = [pair.image for pair in pairs(root)]
    list(predict_files(run, images, tmp_path / "out", Wanted(threshold=cut, overlays=False)))
    document = evaluate_run(folder, data=str(root), device="cpu", threshold=cut)
    found = [read_mask(tmp_path / "out" / path.name) for path in images]
    assert found[0].any() and not found[0].all()
    for pair, mask, scored, row in zip(pairs(root), found, evaluated(run, root, cut), document["images"], strict=True):
        pixels, _ = read(pair)
        assert np.array_equal(app.predict(pixels)[0] > app.threshold, mask)
        assert np.array_equal(predictor.predict(pixels).mask, mask) and np.array_equal(scored, mask)
        assert row["dice"] == score_image(pair.id, mask, read_mask(pair.mask)).dice
        assert np.array_equal(app.predict(pixels)[0], predictor.predict(pixels).probability)


@pytest.mark.parametrize("kind", ["box", "clicks"])
def test_with_a_prompt(kind: str, trained: Callable[..., Path], root: Path) -> None:
    folder = trained(*HEARD)
    run = load_run(folder, device="cpu")
    cut = operating_point(run, root)
    app, predictor = AppPredictor({"it": folder}, device="cpu", threshold=cut), Predictor(run, threshold=cut)
    for pair, scored in zip(pairs(root), evaluated(run, root, cut, prompt=kind), strict=True):
        pixels, truth = read(pair)
        predictor.set_image(pixels)
        embedding, inside = app.embed(pixels), np.s_[:, :]
        if kind == "box":
            rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
            box = float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])
            [ours], theirs = predictor.predict(boxes=[box]), app.probability(embedding, box=box)
            inside = np.s_[rows[0] : rows[-1], columns[0] : columns[-1]]  # outside it the page leaves the answer as it was
        else:
            click = next_click(truth & False, truth)
            assert click is not None
            ours = predictor.predict(points=[click])
            theirs = app.probability(embedding, points=[(click.x + 0.5, click.y + 0.5, 1)])  # the page counts from the corner
        assert np.array_equal(ours.mask, scored)
        assert np.array_equal((theirs > app.threshold)[inside], ours.mask[inside])


def read(pair: Pair) -> tuple[NDArray[np.uint8], Mask]:
    return phantom(int(pair.id), size=SIZE)[0], read_mask(pair.mask)
