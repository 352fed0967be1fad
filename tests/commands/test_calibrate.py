"""Temperature scaling, and the command that fits it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from gps_seg.cli import main
from gps_seg.commands.calibrate import calibrate, sample
from gps_seg.errors import CheckpointError, ConfigError, DataError
from gps_seg.metrics.operating_point import OperatingPoint
from gps_seg.metrics.temperature import fit_temperature, negative_log_likelihood, rescale
from gps_seg.runs.calibration import CALIBRATION_FILE, read_calibration


@pytest.fixture
def run(tmp_path: Path, trained: Callable[..., Path]) -> Path:
    return shutil.copytree(trained("train.max_steps=6"), tmp_path / "run")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_made_up_pixels_is_found(temperature: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 200_000)
    targets = random.random(200_000) < expit(logits)
    assert fit_temperature(expit(logits * temperature), targets) == pytest.approx(temperature, rel=0.03)


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_the_fitted_temperature_is_the_best_there_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities, targets = random.random(400).astype(np.float32), random.random(400) < 0.3
    found = fit_temperature(probabilities, targets)
    best = negative_log_likelihood(rescale(probabilities, found), targets)
    for other in (1.0, found * 1.05, found / 1.05):
        assert best <= negative_log_likelihood(rescale(probabilities, min(20, max(0.05, other))), targets) + 1e-6


def test_rescaling_keeps_order_type_and_one_half() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)
    for temperature in (0.3, 4.0):
        scaled = rescale(values, temperature)
        assert scaled.dtype == np.float32 and (np.diff(scaled) >= 0).all() and scaled[50] == pytest.approx(0.5, abs=1e-6)
        assert rescale(rescale(0.2, temperature), 1 / temperature) == pytest.approx(0.2)
    assert rescale(0.9, 2.0) < 0.9 and rescale(np.array([0.0, 1.0]), 2.0).min() >= 0


def test_one_class_alone_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="both classes"):
        fit_temperature(np.full(5, 0.5), np.zeros(5, np.bool_))
    with pytest.raises(DataError, match="as many targets"):
        fit_temperature(np.full(5, 0.5), np.zeros(4, np.bool_))


def test_the_pixels_are_those_around_the_lesion_and_no_more_than_20_000() -> None:
    target = np.zeros((400, 500), np.bool_)
    target[100:300, 100:350] = True
    probability = np.where(target, 0.9, 0.2).astype(np.float32)
    values, truth = sample(probability, target, 0.5)
    assert 15_000 < len(values) <= 20_000 and 0.6 < truth.mean() < 0.95
    assert len(sample(np.zeros_like(probability), np.zeros_like(target), 0.5)[0]) == 0


def test_the_command_writes_the_file_and_prints_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gps-seg", "calibrate", str(run), "--device", "cpu"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    document = json.loads((run / CALIBRATION_FILE).read_text())
    found = read_calibration(run)
    assert found is not None and document["format"] == 1 and document["temperature"] == found.temperature
    assert found.data == "phantom" and found.split == "inner" and found.images > 0
    assert found.nll_after <= found.nll_before
    printed = capsys.readouterr().out
    assert printed.startswith(f"temperature {found.temperature:.3f}, fitted on {found.images} images (phantom, inner)")
    assert f"threshold {found.threshold:.3g}, the highest that is as good as the best on the images" in printed
    assert found.threshold and 0 < found.threshold < 1 and found.dice is not None and found.best_dice is not None
    assert found.best_dice - 0.01 <= found.dice <= found.best_dice
    assert str(run.parent) not in (run / CALIBRATION_FILE).read_text()


def test_a_threshold_stays_on_its_slider_and_is_read_back(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gps_seg.commands.calibrate.fit_temperature", lambda *_: 1.0)
    for chosen, kept in ((1 - 1e-9, 0.99), (1e-9, 0.01)):
        point = OperatingPoint(chosen, 0.9, 0.9, 1.0)
        monkeypatch.setattr("gps_seg.commands.calibrate.operating_point", lambda images, point=point: (list(images), point)[1])
        assert calibrate(run, device="cpu").threshold == kept
        found = read_calibration(run)
        assert found is not None and found.threshold == kept


def test_the_test_part_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="worthless"):
        calibrate(run, split="test")


def test_a_calibration_of_other_weights_does_not_count_and_a_damaged_one_is_named(run: Path) -> None:
    assert read_calibration(run) is None
    calibrate(run, device="cpu")
    document = json.loads((run / CALIBRATION_FILE).read_text())
    (run / CALIBRATION_FILE).write_text(json.dumps(document | {"delta_sha256": "0" * 64}))
    assert read_calibration(run) is None
    wrong = ({"temperature": -1}, {"temperature": "2"}, {"threshold": 1.5}, {"threshold": "0.5"}, {"dice": None})
    for damaged in ({"format": 1}, *(document | one for one in wrong), []):
        (run / CALIBRATION_FILE).write_text(json.dumps(damaged)[: None if damaged else 1])
        with pytest.raises(CheckpointError, match=r"calibration\.json: expected a calibration"):
            read_calibration(run)
