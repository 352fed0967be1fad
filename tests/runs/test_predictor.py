"""The predictor for Python: what the command line says, from files, arrays and Pillow's images, and with prompts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gps_seg import Prediction, Predictor
from gps_seg.commands.predict import predict_files
from gps_seg.commands.predict_kinds import Wanted
from gps_seg.data.images import read_mask, write_image
from gps_seg.errors import CheckpointError, ConfigError, DataError
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.prompts import Click
from gps_seg_app.inference.predictor import Predictor as AppPredictor

PIXELS = [phantom(index, size=(72, 100))[0] for index in range(5)]
HEARD = ("train.box_probability=0.3", "train.click_probability=0.3", "train.quality=true")


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained(*HEARD)


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.from_pretrained(run, device="cpu", precision="fp32", threshold=0.4)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(len(PIXELS))]
    for path, pixels in zip(paths, PIXELS, strict=True):
        write_image(path, pixels)
    return paths


def test_masks_are_the_command_lines_to_the_bit_however_a_picture_is_given(
    predictor: Predictor, run: Path, files: list[Path], tmp_path: Path
) -> None:
    list(predict_files(load_run(run, device="cpu", precision="fp32"), files, tmp_path / "out",
                       Wanted(threshold=0.4, overlays=False)))
    wanted = [read_mask(tmp_path / "out" / path.name) for path in files]
    for given in (files, [str(path) for path in files], PIXELS, [Image.fromarray(pixels) for pixels in PIXELS]):
        found = predictor.predict(given)
        assert all(np.array_equal(one.mask, mask) for one, mask in zip(found, wanted, strict=True))
    one = predictor.predict(files[0])
    assert isinstance(one, Prediction) and one.mask.shape == PIXELS[0].shape[:2] and one.probability.dtype == np.float32
    assert one.quality is not None and 0 <= one.quality <= 1 and one.answer == ("polyp" if one.mask.any() else "none")


def test_prompts_are_answered_as_the_app_answers_them(predictor: Predictor, run: Path) -> None:
    app = AppPredictor({"a": run}, device="cpu", precision="fp32")
    embedding = app.embed(PIXELS[0])
    predictor.set_image(PIXELS[0])
    clicks = [(30.0, 20.0, 1), (60.0, 50.0, 0)]
    ours = predictor.predict(points=clicks).probability
    theirs = app.probability(embedding, points=[(x + 0.5, y + 0.5, label) for x, y, label in clicks])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    first = predictor.predict(points=[Click(30, 20, 0)]).probability
    np.testing.assert_allclose(first, app.probability(embedding, points=[(30.5, 20.5, 0)]), atol=1e-5)
    boxes = [(10.0, 10.0, 60.0, 50.0), (20.0, 30.0, 90.0, 70.0)]
    both = predictor.predict(boxes=boxes)
    assert len(both) == 2 and not np.allclose(both[0].probability, both[1].probability, atol=1e-6)
    np.testing.assert_allclose(both[1].probability, predictor.predict(boxes=boxes[1:])[0].probability, atol=1e-5)
    assert predictor.predict(boxes=[]) == []


def test_regions_hold_the_mask_the_largest_first() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[5:10, 10:20], mask[20:40, 30:60] = True, True
    probability = np.where(mask, np.float32(0.75), np.float32(0.1))
    large, small = Prediction(probability, mask, None).regions
    assert (large.box, large.area, large.centroid) == ((30, 20, 60, 40), 600, (44.5, 29.5))
    assert (small.box, small.area, small.probability) == ((10, 5, 20, 10), 50, pytest.approx(0.75))
    assert Prediction(probability, mask & False, None).regions == ()


def test_threads_have_a_picture_each(predictor: Predictor) -> None:
    box, found, together = (10.0, 10.0, 60.0, 50.0), {}, threading.Barrier(3)

    def ask(index: int) -> None:
        predictor.set_image(PIXELS[index])
        together.wait()
        found[index] = predictor.predict(boxes=[box])[0].probability

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(3):
        predictor.set_image(PIXELS[index])
        assert np.array_equal(found[index], predictor.predict(boxes=[box])[0].probability)


def test_what_cannot_be_answered_is_one_line(run: Path, tmp_path: Path) -> None:
    fresh = Predictor(load_run(run, device="cpu"))
    for call, error, words in (
        (lambda: fresh.predict(boxes=[(1, 1, 5, 5)]), ConfigError, "picture of set_image: call it first"),
        (lambda: fresh.predict(), ConfigError, "expected one of pictures, boxes and points"),
        (lambda: fresh.predict(np.zeros((5, 5), np.uint8)), DataError, r"uint8 \(H, W, 3\), got uint8 \(5, 5\)"),
        (lambda: fresh.predict(tmp_path / "none.png"), DataError, "none.png"),
        (lambda: Predictor.from_pretrained(tmp_path), CheckpointError, "adapter_config.json"),
        (lambda: Predictor.from_pretrained(run, threshold=float("nan")), ConfigError, "a threshold from 0 to 1"),
    ):
        with pytest.raises(error, match=words) as raised:
            call()  # type: ignore[operator]
        assert "\n" not in str(raised.value)
    fresh.set_image(PIXELS[0])
    for prompts, words in (({"boxes": [(5, 5, 5, 9)]}, "with an area"), ({"points": [(100, 5, 1)]}, "clicks in the picture"),
                           ({"points": []}, "one point or more"), ({"points": [(5, 5, 1), (5, 5, 0)]}, "as polyp and as not"),
                           ({"boxes": [(1, 2, 3)]}, "4 numbers each"), ({"boxes": (1, 1, 9, 9)}, "4 numbers each"),
                           ({"boxes": [("a", 1, 9, 9)]}, "4 numbers each"), ({"points": [(5, 5)]}, "3 numbers each")):
        with pytest.raises(ConfigError, match=words):
            fresh.predict(**prompts)  # type: ignore[call-overload]
    (one,), (two,) = fresh.predict(boxes=[(1, 1, 20, 20)]), fresh.predict(boxes=np.array([[1.0, 1, 20, 20]]))  # type: ignore[call-overload]
    assert (one.probability == two.probability).all()
