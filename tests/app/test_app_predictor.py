"""The model behind the page: the same numbers as ``gps-seg predict``, prompts in the picture's pixels, one user at a time."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gps_seg.commands.predict import predict_files
from gps_seg.commands.predict_kinds import Wanted
from gps_seg.data.images import read_mask, write_image
from gps_seg.errors import CheckpointError
from gps_seg.files import sha256
from gps_seg.metrics.temperature import rescale
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.calibration import CALIBRATION_FILE, Calibration
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.native import to_native
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.inference.predictor import Predictor
from gps_seg_app.limits import AppError

PIXELS = [phantom(index, size=(72, 100))[0] for index in range(4)]


@pytest.fixture(scope="module")
def runs(trained: Callable[..., Path]) -> dict[str, Path]:
    return {
        "one": trained("seed=1"), "two": trained("seed=2", "method=bitfit"), "vit": trained(model="tiny"),
        "adapter": trained("method=adapter"), "lora": trained("method=lora", "seed=3"), "ssf": trained("method=ssf", "seed=4"),
    }


def maps(run: Path, folder: Path) -> list[np.ndarray]:
    """Masks of the command ``gps-seg predict``, in fp32."""
    paths = []
    for index, pixels in enumerate(PIXELS):
        paths.append(folder / f"{index}.png")
        write_image(paths[-1], pixels)
    loaded = load_run(run, device="cpu", precision="fp32")
    list(predict_files(loaded, paths, folder / "out", Wanted(overlays=False)))
    return [read_mask(folder / "out" / path.name) for path in paths]


@pytest.mark.parametrize("name", ["one", "two", "vit", "adapter", "lora", "ssf"])
def test_the_mask_is_the_one_of_the_command_line(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    predictor = Predictor({name: runs[name]}, device="cpu", precision="fp32")
    for pixels, mask in zip(PIXELS, maps(runs[name], tmp_path), strict=True):
        probability, timing = predictor.predict(pixels)
        assert probability.shape == pixels.shape[:2] and probability.dtype == np.float32
        assert np.mean((probability > predictor.threshold) != mask) < 1e-3
        assert min(timing.pre_ms, timing.model_ms, timing.post_ms) > 0


def test_deltas_take_turns_on_one_base(runs: dict[str, Path]) -> None:
    both = Predictor({"one": runs["one"], "two": runs["two"]}, device="cpu", precision="fp32")
    assert both.names == ("one", "two") and both.folder("two") == runs["two"] and not both.calibrated
    alone = {name: Predictor({name: runs[name]}, device="cpu", precision="fp32").predict(PIXELS[0])[0] for name in both.names}
    for name in ("two", "one", "two", "one"):
        assert np.array_equal(both.predict(PIXELS[0], name)[0], alone[name])
    assert not np.array_equal(alone["one"], alone["two"])
    assert np.array_equal(both.predict(PIXELS[0])[0], alone["one"])


def test_runs_that_add_modules_take_turns_too_once_merged(runs: dict[str, Path]) -> None:
    names = ("lora", "one", "ssf")
    together = Predictor({name: runs[name] for name in names}, device="cpu", precision="fp32")
    alone = {name: Predictor({name: runs[name]}, device="cpu", precision="fp32").predict(PIXELS[0])[0] for name in names}
    for name in ("ssf", "one", "lora", "one", "ssf"):
        assert np.array_equal(together.predict(PIXELS[0], name)[0], alone[name])
    assert np.abs(alone["lora"] - alone["ssf"]).max() > 1e-3


def test_runs_that_do_not_go_together_are_refused_in_a_sentence(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AppError, match="at least one run folder"):
        Predictor({})
    with pytest.raises(AppError, match="one base and input size, but one has tiny_lite and vit has tiny"):
        Predictor({"one": runs["one"], "vit": runs["vit"]})
    with pytest.raises(AppError, match="adapter adds cannot be merged into its weights: open that run alone"):
        Predictor({"one": runs["one"], "adapter": runs["adapter"]})
    with pytest.raises(AppError, match="Expected one of the loaded models"):
        Predictor({"one": runs["one"]}).embed(PIXELS[0], "three")
    with pytest.raises(CheckpointError):
        Predictor({"one": tmp_path})


def test_a_picture_is_encoded_once_and_the_store_is_bounded(runs: dict[str, Path]) -> None:
    predictor = Predictor({"one": runs["one"]}, device="cpu", cache=2)
    first = predictor.embed(PIXELS[0])
    assert first.shape == PIXELS[0].shape[:2]
    assert predictor.embed(PIXELS[0].copy()) is first  # by content
    predictor.embed(PIXELS[1])
    predictor.embed(PIXELS[0])
    predictor.embed(PIXELS[2])  # the least recently used goes
    assert predictor.embed(PIXELS[0]) is first and len(predictor._kept) == 2
    predictor.predict(PIXELS[3], keep=False)  # a frame of a clip
    assert predictor.embed(PIXELS[0]) is first and PIXELS[3] is not PIXELS[0] and len(predictor._kept) == 2


@pytest.mark.parametrize("name", ["one", "vit", "adapter"])
def test_a_click_is_obeyed_where_it_falls_and_fades_with_distance(name: str, runs: dict[str, Path]) -> None:
    predictor = Predictor({name: runs[name]}, device="cpu", precision="fp32")
    embedding = predictor.embed(PIXELS[0])
    plain = predictor.probability(embedding)
    for x, y in ((5, 5), (30, 20), (95, 66)):
        for label in (0, 1):
            clicked = predictor.probability(embedding, points=[(x, y, label)])
            assert (clicked[y, x] > 0.8) if label else (clicked[y, x] < 0.2)
            assert ((clicked >= plain - 1e-6) if label else (clicked <= plain + 1e-6)).all()
    clicked = predictor.probability(embedding, points=[(5, 5, 1), (5, 60, 0)])
    assert clicked[5, 5] > 0.8 and clicked[60, 5] < 0.2
    assert np.array_equal(predictor.probability(embedding), plain)
    assert np.abs(clicked - plain)[:, 95:].max() < 0.1


@pytest.mark.parametrize("method", ["gps", "adapter"])
def test_a_run_that_was_tuned_with_prompts_answers_them_itself_as_the_command_line_does(
    method: str, trained: Callable[..., Path]
) -> None:
    """Each click is a round with the logits of the one before, on one embedding; a box's answer stands inside the box."""
    run = trained(f"method={method}", "train.box_probability=0.5", "train.click_probability=0.5")
    predictor, loaded = Predictor({"it": run}, device="cpu", precision="fp32"), load_run(run, device="cpu", precision="fp32")
    embedding, model = predictor.embed(PIXELS[0]), loaded.model
    side = model.spec.input_size / 100  # the picture is 72 x 100
    clicks = [(20.0, 30.0, 1), (70.0, 50.0, 0), (21.0, 8.0, 1)]
    with torch.no_grad():
        answer, masks = None, None
        for count in (1, 2, 3):
            places = torch.tensor([[(x * side - 0.5, y * side - 0.5) for x, y, _ in clicks[:count]]])
            labels = torch.tensor([[label for *_, label in clicks[:count]]])
            answer = masks = model.decode(embedding.value, points=(places, labels), masks=masks).logits
        boxed = model.decode(embedding.value, boxes=torch.tensor([[20.0, 10.0, 60.0, 50.0]]) * side).logits
    for points in (clicks, clicks[:2], clicks):  # undone and done again
        found = predictor.probability(embedding, points=points)
    np.testing.assert_allclose(found, to_native(answer, embedding.geometry), atol=1e-4)
    plain, inside = predictor.probability(embedding), predictor.probability(embedding, box=(20, 10, 60, 50))
    np.testing.assert_allclose(inside[14:46, 24:56], to_native(boxed, embedding.geometry)[14:46, 24:56], atol=1e-4)
    assert np.array_equal(inside[60:], plain[60:]) and np.array_equal(inside[:, 70:], plain[:, 70:])
    both = predictor.probability(embedding, points=clicks[:1], box=(20, 10, 60, 50))
    assert not np.array_equal(both, inside) and not np.array_equal(both, predictor.probability(embedding, points=clicks[:1]))


@pytest.mark.parametrize("method", ["gps", "adapter"])
def test_a_run_that_knows_an_empty_frame_shows_nothing_there_until_somebody_says_otherwise(
    method: str, trained: Callable[..., Path]
) -> None:
    quality = (f"method={method}", "train.quality=true", "data.negatives=phantom", "data.negative_phantoms=10")
    always, never = (Predictor({"it": trained(*quality, f"evaluate.presence={presence}")}, device="cpu", precision="fp32")
                     for presence in (0, 1))
    plain = always.predict(PIXELS[0])[0]
    assert plain.any() and np.array_equal(always.probability(always.embed(PIXELS[0])), plain)
    embedding = never.embed(PIXELS[0])
    assert not never.predict(PIXELS[0])[0].any() and not never.probability(embedding).any()
    assert never.probability(embedding, points=[(20, 30, 1)])[30, 20] > 0.8
    assert never.disagreement(PIXELS[0]).max() > 0


@pytest.mark.parametrize("name", ["one", "vit", "adapter"])
def test_a_box_is_answered_inside_it_and_nowhere_else(name: str, runs: dict[str, Path]) -> None:
    predictor = Predictor({name: runs[name]}, device="cpu", precision="fp32")
    embedding = predictor.embed(PIXELS[0])
    plain, boxed = predictor.probability(embedding), predictor.probability(embedding, box=(20, 10, 60, 50))
    assert boxed.shape == plain.shape and not np.array_equal(boxed[10:50, 20:60], plain[10:50, 20:60])
    assert np.array_equal(boxed[60:], plain[60:]) and np.array_equal(boxed[:, 70:], plain[:, 70:])
    assert np.array_equal(predictor.predict(PIXELS[0])[0], plain)  # the delta is back
    for box in ((-50, -50, 500, 500), (60, 50, 20, 10), (3, 3, 3, 3)):
        assert np.isfinite(predictor.probability(embedding, box=box)).all()


def test_the_base_answers_the_box(runs: dict[str, Path]) -> None:
    predictor = Predictor({"one": runs["one"]}, device="cpu", precision="fp32")
    embedding = predictor.embed(PIXELS[0])
    base = build_sam("tiny_lite").eval()
    corners = torch.tensor([[20.0, 10.0, 60.0, 50.0]]) * base.spec.input_size / 100
    with torch.no_grad():
        expected = base(embedding.image, boxes=corners).logits
    found, _ = predictor._decode(embedding, (), (20, 10, 60, 50))
    inside = np.s_[..., 8:30, 14:36]
    assert torch.allclose(found[inside], expected[inside], atol=1e-4)


def test_disagreement_is_a_standard_deviation_and_vanishes_where_nothing_changes(runs: dict[str, Path]) -> None:
    predictor = Predictor({"one": runs["one"]}, device="cpu", precision="fp32")
    found = predictor.disagreement(PIXELS[0])
    assert found.shape == PIXELS[0].shape[:2] and found.dtype == np.float32
    assert found.min() >= 0 and 0 < found.max() <= 0.5
    assert len(predictor._kept) == 1  # the turned pictures are not kept


def test_a_calibration_moves_probability_and_threshold_together(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["one"], run)
    description = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps(description | {"threshold": 0.3}))
    plain = Predictor({"one": run}, device="cpu", precision="fp32")
    values = Calibration(2.0, "phantom", "inner", 3, 100, 0.4, 0.3, 0.1, 0.05, sha256(run / "adapter_model.safetensors"))
    (run / CALIBRATION_FILE).write_text(json.dumps({"format": 1, **vars(values)}))
    calibrated = Predictor({"one": run}, device="cpu", precision="fp32")
    assert calibrated.calibrated and not plain.calibrated and calibrated.calibration("one") == values
    before, after = plain.predict(PIXELS[0])[0], calibrated.predict(PIXELS[0])[0]
    assert np.allclose(after, rescale(before, 2.0), atol=1e-5) and not np.allclose(after, before, atol=1e-3)
    assert plain.threshold == 0.3 and calibrated.threshold == pytest.approx(rescale(0.3, 2.0))
    assert np.mean((before > plain.threshold) != (after > calibrated.threshold)) < 1e-3
    (run / CALIBRATION_FILE).write_text(json.dumps(vars(values) | {"threshold": 0.8, "dice": 0.9, "best_dice": 0.9, "found": 1}))
    assert Predictor({"one": run}, device="cpu", precision="fp32").threshold == 0.8
    assert Predictor({"one": run}, device="cpu", precision="fp32", threshold=0.6).threshold == 0.6


def test_many_threads_get_their_own_answers(runs: dict[str, Path]) -> None:
    predictor = Predictor({"one": runs["one"], "two": runs["two"]}, device="cpu", precision="fp32", cache=3)
    predictor.warm_up()
    jobs = [(index, name) for index in range(4) for name in predictor.names] * 2
    expected = {job: predictor.predict(PIXELS[job[0]], job[1])[0] for job in jobs}
    wrong: list[tuple[int, str]] = []

    def ask(job: tuple[int, str]) -> None:
        if not np.allclose(predictor.predict(PIXELS[job[0]], job[1])[0], expected[job], atol=1e-6):
            wrong.append(job)

    threads = [threading.Thread(target=ask, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bf16_says_so_and_stays_close(runs: dict[str, Path]) -> None:
    exact, rough = (Predictor({"one": runs["one"]}, device="cpu", precision=kind) for kind in ("fp32", "bf16"))
    assert rough.device == "cpu (bf16)"
    assert np.abs(exact.predict(PIXELS[1])[0] - rough.predict(PIXELS[1])[0]).mean() < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (700, 33)])
def test_any_shape_is_answered_in_its_own_shape(shape: tuple[int, int], runs: dict[str, Path]) -> None:
    predictor = Predictor({"one": runs["one"]}, device="cpu")
    pixels = np.full((*shape, 3), 120, np.uint8)
    assert predictor.predict(pixels)[0].shape == predictor.disagreement(pixels).shape == shape


def test_a_given_threshold_stands_for_every_run(runs: dict[str, Path]) -> None:
    predictor = Predictor({"one": runs["one"]}, device="cpu", threshold=0.7)
    assert predictor.threshold == 0.7 == predictor.threshold_of(predictor.names[-1])
