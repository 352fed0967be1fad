"""Predicting many pictures: killed and gone on, by several processes, with a manifest that says what became of each."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from gps_seg.commands.manifest import MANIFEST, entries
from gps_seg.commands.predict import find_images, predict_files
from gps_seg.commands.predict_kinds import PRESENCE_FILE, Wanted
from gps_seg.commands.progress import SECONDS, Progress
from gps_seg.data.images import read_mask, write_image
from gps_seg.errors import DataError
from gps_seg.files import sha256
from gps_seg.runs.device import Processes
from gps_seg.runs.folder import DELTA_FILE
from gps_seg.runs.load import Run, load_run
from gps_seg.tasks.segmentation.phantom import phantom
from support.commands import gps_seg

COUNT, ALONE = 7, Processes()


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("train.quality=true", "evaluate.threshold=0.4")


@pytest.fixture(scope="module")
def loaded(run: Path) -> Run:
    return load_run(run, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(COUNT):
        write_image(folder / f"{index}.png", phantom(index, size=(48, 64))[0])
    return folder


def asked(loaded: Run, pictures: Path, out: Path, *, processes: Processes = ALONE, **wanted: Any) -> Iterator[Any]:
    return predict_files(loaded, find_images([pictures]), out, Wanted(coco=out / "coco.json", **wanted), processes)


def written(out: Path) -> dict[str, Any]:
    """Every file of a prediction; of the manifest's lines all but the seconds."""
    found: dict[str, Any] = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found[MANIFEST] = [{**json.loads(line), "seconds": 0} for line in (out / MANIFEST).read_text().splitlines()]
    return found


@pytest.fixture(scope="module")
def whole(loaded: Run, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert all(answer.text for answer in asked(loaded, pictures, out))
    return out


def test_the_manifest_says_what_became_of_every_image(whole: Path, pictures: Path, run: Path) -> None:
    header, *lines = (json.loads(line) for line in (whole / MANIFEST).read_text().splitlines())
    assert header["threshold"] == 0.4 and header["model"][DELTA_FILE] == sha256(run / DELTA_FILE)
    assert [line["image"] for line in lines] == [f"{index}.png" for index in range(COUNT)]
    for line in lines:
        mask = read_mask(whole / line["mask"])
        assert tuple(line["size"]) == mask.shape == (48, 64) and line["area"] == mask.mean()
        assert line["answer"] == ("polyp" if mask.any() else "none") and (line["probability"] > 0.4) == mask.any()
        assert line["sha256"] == sha256(pictures / line["image"]) and line["seconds"] > 0 and 0 <= line["quality"] <= 1
        assert 0 <= sum(region["area"] for region in line["regions"]) <= mask.sum()
    document = (whole / "coco.json").read_text()
    assert document == json.dumps(json.loads(document), indent=2) + "\n"
    assert len((whole / PRESENCE_FILE).read_text().splitlines()) == COUNT + 1


@pytest.mark.parametrize("done", [0, 1, 4])
def test_what_was_killed_goes_on_to_what_an_unbroken_prediction_gives(
    done: int, loaded: Run, pictures: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    list(islice(asked(loaded, pictures, out), done))
    if done:
        with (out / MANIFEST).open("a") as file:
            file.write('{"image": "4.png", "ma')  # the line that a kill has cut off
        (out / "0.png").unlink()  # and a mask that somebody removed
    again = list(asked(loaded, pictures, out, resume=True))
    assert sum(answer.earlier for answer in again) == max(0, done - 1) and len(again) == COUNT
    assert written(out) == written(whole)
    assert all(answer.earlier for answer in asked(loaded, pictures, out, resume=True)) and written(out) == written(whole)


def test_several_processes_share_the_images_and_another_number_of_them_goes_on(
    loaded: Run, pictures: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for rank, done in ((1, 2), (2, 1)):  # process 0 had not begun when all were killed
        first = asked(loaded, pictures, out, processes=Processes(rank, 3))
        assert [answer.path.name for answer in islice(first, done)] == [f"{rank + 3 * step}.png" for step in range(done)]
    assert {path.name for path in out.glob("*.jsonl")} == {"manifest.1.jsonl", "manifest.2.jsonl"}
    again = asked(loaded, pictures, out, resume=True)
    assert [answer.path.stem for answer in again if not answer.earlier] == ["0", "3", "5", "6"]
    assert written(out) == written(whole)


def test_an_unreadable_image_is_in_the_manifest_and_is_tried_again(
    run: Path, pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(pictures, tmp_path / "in")
    (folder / "3.png").write_bytes(b"no picture")
    command = ("predict", run, folder, "--out", tmp_path / "out", "--device", "cpu", "--coco", tmp_path / "out" / "coco.json")
    assert gps_seg(monkeypatch, *command) == 2
    said = capsys.readouterr()
    assert "6 of 7 images predicted" in said.out and "1 of 7 inputs could not be read" in said.err
    assert [line["image"] for line in entries(tmp_path / "out") if "3.png" in line.get("error", "")] == ["3.png"]
    assert gps_seg(monkeypatch, *command, "--resume") == 2 and "1 of 7 inputs could not be read" in capsys.readouterr().err
    shutil.copy(pictures / "3.png", folder / "3.png")
    assert gps_seg(monkeypatch, *command, "--resume") == 0
    assert "7 of 7 images predicted" in capsys.readouterr().out and written(tmp_path / "out") == written(whole)


def test_another_model_or_other_settings_do_not_go_on(
    run: Path, loaded: Run, trained: Callable[..., Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    list(islice(predict_files(loaded, find_images([pictures]), out), 2))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = ("predict", run, pictures, "--out", out, "--device", "cpu")
    for changed, words in (
        (("--threshold", "0.5"), "was begun with another threshold 0.4, now 0.5"),
        (("--presence", "0.5"), "presence None, now 0.5"),
        (("--precision", "bf16"), "precision fp32, now bf16"), (("--no-overlays",), "overlays True, now False"),
        (("--coco", tmp_path / "c.json"), "coco False, now True"),
        (("--overwrite",), "--resume goes on with what is there, --overwrite replaces it: leave one out"),
    ):
        assert gps_seg(monkeypatch, *command, "--resume", *changed) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    other = trained("train.quality=true", "evaluate.threshold=0.4", "seed=7")
    assert gps_seg(monkeypatch, "predict", other, *command[2:], "--resume") == 2
    assert "was begun with another model: go on with the same" in capsys.readouterr().err
    task: Any = loaded.task
    flipped = replace(loaded, task=replace(task, evaluate=task.evaluate.model_copy(update={"flips": True})))
    with pytest.raises(DataError, match="flips False, now True"):
        list(predict_files(flipped, find_images([pictures]), out, Wanted(resume=True)))
    assert gps_seg(monkeypatch, *command) == 2 and "add --overwrite, --resume to go on" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / MANIFEST).write_text("[]\n")
    assert gps_seg(monkeypatch, *command, "--resume") == 2 and "the file was edited or damaged" in capsys.readouterr().err
    assert gps_seg(monkeypatch, *command, "--overwrite") == 0 and len(list(entries(out))) == COUNT


@pytest.mark.parametrize("launcher", [
    ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--dynamo_backend", "no",
     "--mixed_precision", "no", "--main_process_port", "0"),
    ("torch.distributed.run", "--standalone", "--nproc-per-node=2"),
])
def test_two_real_processes_write_what_one_does(
    launcher: tuple[str, ...], run: Path, pictures: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", *launcher, "-m", "gps_seg.cli", "predict", run, pictures, "--out", out, "--device", "cpu",
               "--coco", out / "coco.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("7 of 7 images predicted") == 1 and done.stdout.count("0.png: ") == 1
    assert written(out) == written(whole)


def test_a_log_gets_a_line_with_rate_and_time_left_now_and_then() -> None:
    ticks, log = itertools.count(), io.StringIO()
    progress = Progress(5000, "predict", file=log, clock=lambda: next(ticks) / 2)
    for _ in range(400):
        progress.step(earlier=True)
    for _ in range(600):
        progress.step()
    progress.close()
    lines = log.getvalue().splitlines()
    assert 1 < len(lines) <= 0.5 * (1000 + len(lines) * 4) / SECONDS + 1
    assert lines[-1].startswith("predict: ") and "of 5000 images" in lines[-1] and lines[-1].endswith(" left")
    assert " a second, " in lines[-1]
    quiet = io.StringIO()
    Progress(5, "predict", shown=False, file=quiet, clock=lambda: next(ticks) * 100).step()
    assert not quiet.getvalue()
