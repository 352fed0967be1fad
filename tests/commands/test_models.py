"""Ready models: packed from a run, used by name, described by a card whose numbers are measured and can be measured again."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_seg import GPSModel, load_sam
from gps_seg.cli import main
from gps_seg.commands.calibrate import calibrate
from gps_seg.commands.evaluate import Wanted, evaluate_run
from gps_seg.commands.models.evaluation import command_of
from gps_seg.commands.models.measured import measured, numbers, read_reports
from gps_seg.commands.models.pack import Order, pack
from gps_seg.commands.models.page import page
from gps_seg.commands.models.verify import agrees, allowed, verify
from gps_seg.data.images import write_mask
from gps_seg.errors import CheckpointError, ConfigError, DataError
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.card import Card, Number, dump_card, read_card
from gps_seg.runs.load import load_run
from gps_seg.runs.portable import portable
from gps_seg.runs.ready import READY_FILES, packaged, run_folder
from gps_seg.tasks.segmentation.phantom import write_phantoms
from support.ready import WORDS, calibrated_run, words_file
from support.settings import silent


def gps_seg(*arguments: object, code: int = 0) -> str:
    """Run a command; stdout, or stderr if it should fail with one line, or both if it ends with 1."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", ["gps-seg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == code, out.getvalue() + error.getvalue()
    if code == 2:
        assert len(error.getvalue().strip().splitlines()) == 1
        return error.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ready")


@pytest.fixture(scope="module")
def run(place: Path, trained: Callable[..., Path]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(place / "cache"))
        return calibrated_run(place, trained)


@pytest.fixture(scope="module")
def mine(place: Path) -> Path:
    """A folder of pictures that no name stands for, two of them without a polyp."""
    root = write_phantoms(place / "mine", 6, size=(96, 80))
    for mask in sorted((root / "masks").iterdir())[:2]:
        write_mask(mask, np.zeros((96, 80), np.bool_))
    return root


@pytest.fixture(scope="module")
def packed(run: Path, mine: Path, place: Path) -> Path:
    """A ready model with two reports, in a place of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(place / "cache"))
        order = Order("drawn", words_file(place), out=place / "packed")
        made = pack(run, order, silent)
        drawn = Wanted(json=place / "phantom.json", corruptions=True, max_images=2)
        evaluate_run(made, data="phantom", device="cpu", wanted=drawn)
        some = Wanted(json=place / "mine.json", blocks=("per_image", "negatives"))
        evaluate_run(made, data=str(mine), device="cpu", wanted=some)
        reports = [f"phantom={place / 'phantom.json'}", f"mine={place / 'mine.json'}"]
        return pack(run, Order("drawn", words_file(place), reports, place / "packed"), silent)


@pytest.fixture
def ready(packed: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model among the user's own, with an empty current directory; the pictures drawn before are still there."""
    shutil.copytree(place / "cache", tmp_path / "cache")
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return shutil.copytree(packed, tmp_path / "cache" / "ready" / "drawn")


def change(folder: Path, **changes: Any) -> Card:
    """A card with other values."""
    card = Card.model_validate(json.loads((folder / "card.json").read_text()) | changes)
    (folder / "card.json").write_text(dump_card(card))
    return card


# Packing


def test_a_ready_model_is_a_small_run_folder_without_paths_of_this_machine(packed: Path, run: Path, place: Path) -> None:
    files = {file.name for file in packed.iterdir()}
    assert files == set(READY_FILES) and sum(file.stat().st_size for file in packed.iterdir()) < 1.5e6
    for file in packed.iterdir():
        assert str(place).encode() not in file.read_bytes() and str(run.parent).encode() not in file.read_bytes(), file
    assert (packed / "adapter_model.safetensors").stat().st_size < 0.7 * (run / "adapter_model.safetensors").stat().st_size


def test_it_answers_as_the_run_does_but_for_the_rounding(packed: Path, run: Path, mine: Path) -> None:
    first, second = load_run(run, device="cpu"), load_run(packed, device="cpu")
    assert second.threshold == first.threshold and second.config.train == first.config.train
    wanted = first.attached.state()
    assert all(torch.equal(value, wanted[name].half().float()) for name, value in second.attached.state().items())
    pictures = sorted((mine / "images").iterdir())
    for (_, one), (_, other) in zip(first.predict_files(pictures), second.predict_files(pictures), strict=True):
        assert abs(one - other).max() < 0.02


def test_a_calibration_goes_with_it_and_belongs_to_it(packed: Path, run: Path) -> None:
    before, after = (json.loads((folder / "calibration.json").read_text()) for folder in (run, packed))
    assert before | {"delta_sha256": ""} == after | {"delta_sha256": ""} and before["delta_sha256"] != after["delta_sha256"]
    assert "temperature" in str(read_card(packed).calibration)


def test_packing_again_gives_the_same_bytes_and_another_model_is_not_written_over(packed: Path, run: Path, place: Path,
                                                                                  tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in packed.iterdir()}
    order = Order("drawn", words_file(tmp_path), out=tmp_path / "out")
    made = pack(run, order, silent)
    same = set(READY_FILES) - {"card.json", "card.md", "result.json"}
    assert {name: (made / name).read_bytes() for name in same} == {name: before[name] for name in same}
    other = shutil.copytree(run, tmp_path / "other")
    (other / "calibration.json").unlink()
    with pytest.raises(ConfigError, match="holds another model: delete that folder"):
        pack(other, order, silent)
    assert (made / "calibration.json").is_file()


def test_without_reports_the_card_says_not_measured(run: Path, tmp_path: Path) -> None:
    made = pack(run, Order("new", words_file(tmp_path), out=tmp_path / "out"), silent)
    assert not (made / "result.json").exists() and read_card(made).measured == ()
    text = (made / "card.md").read_text()
    assert text.count("Not measured.") == 6 and "calibrated" not in text.lower().split("## calibration")[0]
    assert "not measured" in page(read_card(made))


def test_the_card_holds_what_the_reports_measured_and_nothing_typed_in(packed: Path, place: Path) -> None:
    card = read_card(packed)
    for found, name in zip(card.measured, ("phantom", "mine"), strict=True):
        document = json.loads((place / f"{name}.json").read_text())
        assert found.numbers["per_image.dice"].value == pytest.approx(document["per_image"]["dice"], abs=1e-6)
        ends = (found.numbers["per_image.dice"].low, found.numbers["per_image.dice"].high)
        assert ends == pytest.approx(document["intervals"]["per_image"]["dice"], abs=1e-6)
        assert found.images == document["n"] and found.files_sha256 == document["settings"]["files_sha256"]
    phantom, folder = card.measured
    assert (phantom.split, folder.split, phantom.corrupted) == ("test", "all", 2)
    assert folder.blocks == ("per_image", "dataset", "polyps", "negatives")
    drop = json.loads((place / "phantom.json").read_text())["corruptions"]["by_corruption"]["motion_blur"]
    shown = phantom.numbers["corruptions.by_corruption.motion_blur.drop"]
    assert (shown.value, shown.low, shown.high) == pytest.approx((drop["drop"], *drop["interval"]), abs=1e-6)
    assert folder.numbers["negatives.frames"].value == 2
    counts = card.method.counts
    assert sum(value for name, value in counts.items() if name not in ("trainable", "parameters")) == counts["trainable"]
    assert "gps-seg evaluate drawn --data phantom --corruptions --max-images 2" in card.made.commands
    assert card.training.terms == "none: the pictures are drawn" and card.base.name == "tiny_lite"


def test_what_was_asked_for_otherwise_stands_in_label_and_command_and_is_verified(
    packed: Path, run: Path, mine: Path, place: Path, tmp_path: Path
) -> None:
    wanted = Wanted(json=tmp_path / "turned.json")
    evaluate_run(packed, data=str(mine), threshold=0.4, flips=True, device="cpu", wanted=wanted)
    reports = [f"mine={place / 'mine.json'}", f"mine={tmp_path / 'turned.json'}"]
    made = pack(run, Order("drawn", words_file(tmp_path), reports, tmp_path / "out"), silent)
    plain, turned = read_card(made).measured
    assert (plain.label, turned.label) == ("mine", "mine, mean over flips") and (plain.presence, turned.presence) == (None, None)
    assert "gps-seg evaluate drawn --data mine --threshold 0.4 --flips" in read_card(made).made.commands
    shown = plain.model_copy(update={"presence": 0.0})
    assert shown.label == "mine, every mask shown" and "--threshold 0.45 --presence 0" in command_of("drawn", shown, 0.5, 0.3)
    assert verify(str(made), data=[str(mine)], device="cpu", say=silent)


def test_dice_by_size_is_the_mean_over_images_of_that_size(packed: Path, place: Path) -> None:
    document = json.loads((place / "mine.json").read_text())
    rows = [(image["dice"], (image["tp"] + image["fn"]) / (96 * 80)) for image in document["images"] if image["tp"] + image["fn"]]
    found = numbers(document)
    for name, low, high in (("under_2_percent", 0, 0.02), ("2_to_10_percent", 0.02, 0.1), ("10_to_30_percent", 0.1, 0.3)):
        dices = [dice for dice, area in rows if low <= area < high]
        assert (f"by_size.{name}.dice" in found) == bool(dices)
        if dices:
            assert found[f"by_size.{name}.dice"].value == pytest.approx(sum(dices) / len(dices), abs=1e-6)
    assert sum(number.value for name, number in found.items() if name.startswith("by_size.") and name.endswith("images")) == 4


@pytest.mark.parametrize(("changes", "text"), [
    ({"purpose": None}, "purpose: field required"), ({"sumary": "x"}, "unknown key 'sumary', did you mean 'summary'"),
    ({"limits": []}, "limits: tuple should have at least 1 item"),
    ({"data_terms": "ours"}, r"data_terms: the terms of phantom are known \(none: the pictures are drawn\)"),
])
def test_words_that_lack_or_contradict_are_refused(run: Path, tmp_path: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        pack(run, Order("new", words_file(tmp_path, **changes), out=tmp_path / "out"), silent)
    assert not (tmp_path / "out").exists()


def test_a_report_of_another_model_set_or_form_is_refused(run: Path, place: Path, packed: Path, tmp_path: Path) -> None:
    def again(*reports: str) -> None:
        pack(run, Order("drawn", words_file(tmp_path), reports, tmp_path / "out"), silent)

    evaluate_run(run, data="phantom", device="cpu", wanted=Wanted(json=tmp_path / "run.json"))
    with pytest.raises(ConfigError, match="is of another model than this one as packed: pack without reports"):
        again(f"phantom={tmp_path / 'run.json'}")
    with pytest.raises(ConfigError, match="--report kvasir-seg=.*: the report is of phantom"):
        again(f"kvasir-seg={place / 'phantom.json'}")
    with pytest.raises(ConfigError, match="--report: expected NAME=FILE"):
        again(str(place / "phantom.json"))
    with pytest.raises(DataError, match="expected the JSON of gps-seg evaluate, as this version writes it, on phantom"):
        again(f"phantom={run / 'result.json'}")
    with pytest.raises(ConfigError, match="--report: two are on drawn phantoms, test part, prompt none"):
        again(f"phantom={place / 'phantom.json'}", f"phantom={place / 'phantom.json'}")
    assert not (tmp_path / "out").exists()


def test_a_file_of_several_sets_is_read_by_the_name_of_one(place: Path, packed: Path, tmp_path: Path) -> None:
    sets = {name: json.loads((place / f"{name}.json").read_text()) for name in ("phantom", "mine")}
    (tmp_path / "all.json").write_text(json.dumps({"sets": sets, "macro": {}}))
    found = read_reports([f"mine={tmp_path / 'all.json'}"])
    assert measured(found[0]) == read_card(packed).measured[1]
    with pytest.raises(DataError, match="on polypgen"):
        read_reports([f"polypgen={tmp_path / 'all.json'}"])


@pytest.mark.parametrize(("order", "text"), [
    ({"name": "a/b"}, "--name: expected letters, digits, - and _"),
    ({"most_bytes": 10_000}, "expected at most 10,000 bytes, got"),
])
def test_what_cannot_be_packed_is_said_and_leaves_nothing(run: Path, tmp_path: Path, order: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        pack(run, Order(**{"name": "new", "words": words_file(tmp_path), "out": tmp_path / "out", **order}), silent)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_and_a_ready_model_are_not_packed(run: Path, packed: Path, tmp_path: Path) -> None:
    half = shutil.copytree(run, tmp_path / "half")
    (half / "result.json").unlink()
    for folder, text in ((half, "expected a finished run in .*, found no result.json"), (packed, "is packed already")):
        with pytest.raises(ConfigError, match=text):
            pack(folder, Order("new", words_file(tmp_path), out=tmp_path / "out"), silent)


def test_paths_lose_their_folders_wherever_they_stand() -> None:
    value = {"a": "/home/me/base.pth", "b": ["C:\\me\\list.txt", "kvasir-seg", 3], "c": ("runs/x", None), "d": "/"}
    assert portable(value) == {"a": "base.pth", "b": ["list.txt", "kvasir-seg", 3], "c": ["runs/x", None], "d": ""}


# By name


def test_every_command_takes_it_by_name(ready: Path, mine: Path, tmp_path: Path) -> None:
    assert "drawn  finds drawn polyps" in gps_seg("models", "list") and "tiny_lite, gps, " in gps_seg("models", "list")
    assert "6 of 6 images predicted" in gps_seg("predict", "drawn", mine, "--out", tmp_path / "masks", "--device", "cpu")
    said = gps_seg("evaluate", "drawn", "--data", mine, "--device", "cpu", "--json", tmp_path / "e.json")
    assert "(per_image, 6 images)" in said and json.loads((tmp_path / "e.json").read_text())["run"]["folder"] == "drawn"
    assert "tiny_lite in stock names" in gps_seg("export", "drawn", "--merged", tmp_path / "merged.pth")
    described = gps_seg("info", "drawn")
    assert "ready model: finds drawn polyps" in described and "parameters train" in described and "mDice" in described
    assert "ready models (gps-seg models list): polyp, drawn" in gps_seg("info")
    card = gps_seg("models", "card", "drawn")
    assert all(word in card for word in (WORDS["purpose"][0], WORDS["not_for"][0], WORDS["limits"][0], "Frames without a polyp"))


def test_python_takes_it_by_the_same_name(ready: Path, run: Path) -> None:
    model = GPSModel.from_pretrained(build_sam("tiny_lite"), "drawn")
    wanted = load_run(run, device="cpu").attached.state()
    assert all(torch.equal(value, wanted[name].half().float()) for name, value in model.attached.state().items())
    merged, run_again = model.merge_and_unload(), load_run("drawn", device="cpu")
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in run_again.attached.merge().state_dict().items())


def test_calibrating_a_ready_model_is_refused_and_changes_nothing(ready: Path) -> None:
    before = (ready / "calibration.json").read_bytes()
    error = gps_seg("calibrate", "drawn", "--device", "cpu", code=2)
    assert "drawn is a ready model" in error and "calibrate the run" in error
    with pytest.raises(ConfigError, match="is a ready model"):
        calibrate(Path("drawn"), device="cpu")
    assert (ready / "calibration.json").read_bytes() == before


def test_a_run_folder_of_that_name_in_the_current_directory_wins_and_is_said(ready: Path, run: Path) -> None:
    shutil.copytree(run, "drawn")
    said: list[str] = []
    assert run_folder("drawn", said.append) == Path("drawn").absolute() and len(said) == 1
    assert "the run folder here is meant, not the ready model" in said[0]
    assert gps_seg("info", "drawn").count("is meant, not the ready model") == 1
    assert run_folder(ready, said.append) == ready and len(said) == 1


def test_a_folder_of_that_name_that_is_no_run_is_passed_over(ready: Path) -> None:
    Path("drawn").mkdir()
    assert run_folder("drawn") == ready


def test_an_unknown_name_is_one_line_with_the_nearest_and_all(ready: Path) -> None:
    error = gps_seg("predict", "drwan", ready, "--out", "x", code=2)
    assert "expected a run folder at drwan, or the name of a ready model, found neither; did you mean drawn?" in error
    assert "ready models: polyp, drawn" in error
    assert "expected the name of a ready model, got 'xyz'; ready models: polyp, drawn" in gps_seg("models", "card", "xyz", code=2)


def test_the_app_opens_it_by_name_and_the_packages_own_by_itself(ready: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gps_seg.cli.web_app import name_runs

    assert name_runs([]) == {"polyp": packaged() / "polyp"} and name_runs(["drawn"]) == {"drawn": ready}
    assert name_runs(["mine=drawn", str(run)]) == {"mine": ready, "run": run}
    monkeypatch.setattr("gps_seg.runs.ready.DEFAULT", "absent")
    error = gps_seg("app", "--no-browser", code=2)
    assert "expected RUN, got none, and no ready model absent is installed" in error and "makes a run" in error


def test_a_changed_file_is_one_line_wherever_it_is_opened(ready: Path, mine: Path) -> None:
    config = ready / "config.yaml"
    config.write_text(config.read_text().replace("threshold: 0.45", "threshold: 0.4"))
    for arguments in (["info", "drawn"], ["evaluate", "drawn", "--data", mine], ["models", "verify", "drawn"], ["info", ready]):
        assert "config.yaml was changed since it was packed, or is missing: install it again" in gps_seg(*arguments, code=2)
    with pytest.raises(CheckpointError, match="ready model drawn: .*was changed"):
        GPSModel.from_pretrained(build_sam("tiny_lite"), "drawn")
    (ready / "card.json").unlink()
    assert load_run(ready, device="cpu").folder == ready  # a run of one's own, from here on


def test_another_base_is_one_line_and_the_model_stays_as_it_was(ready: Path) -> None:
    with pytest.raises(CheckpointError, match="was made on other base weights: expected"):
        GPSModel.from_pretrained(load_sam("tiny"), "drawn")


# Verifying


def test_verify_measures_the_card_again_on_what_is_here(ready: Path, mine: Path) -> None:
    said = gps_seg("models", "verify", "drawn", "--device", "cpu")
    assert "files are as packed" in said and "the base is tiny_lite" in said
    assert "drawn phantoms, test part, prompt none: " in said and "numbers agree, the largest difference is 0" in said
    assert "mine, prompt none: not found here" in said and "1 of 2 reports measured again, 0 of them differ" in said
    assert "corruptions not measured again" in said
    more = gps_seg("models", "verify", "drawn", "--device", "cpu", "--data", mine, "--data", "phantom", "--corruptions")
    assert "2 of 2 reports measured again, 0 of them differ" in more and "not measured again" not in more


def test_verify_says_which_numbers_differ_and_by_how_much_and_ends_with_one(ready: Path) -> None:
    card = read_card(ready)
    first = card.measured[0]
    said = first.numbers["per_image.dice"].value
    off = 0.1 if said < 0.5 else -0.1
    numbers = first.numbers | {"per_image.dice": Number(value=said + off), "made.up": Number(value=1)}
    change(ready, measured=[first.model_copy(update={"numbers": numbers}).model_dump(mode="json")])
    text = gps_seg("models", "verify", "drawn", "--device", "cpu", code=1)
    assert "2 of " in text and f"per_image.dice {said + off:g} on the card, {said:g} here (0.1 off, 0.005 allowed)" in text
    assert "made.up 1 on the card, none here" in text and "1 of 1 reports measured again, 1 of them differ" in text


def test_other_pictures_than_the_cards_are_not_compared(ready: Path, tmp_path: Path) -> None:
    other = write_phantoms(tmp_path / "mine", 3, size=(96, 80))
    said: list[str] = []
    assert verify("drawn", [str(other)], device="cpu", say=said.append)
    assert "here are other files than the card's (3 images, the card's 6), not measured" in said[2]
    with pytest.raises(ConfigError, match="the card of drawn has no report on it; it has reports on mine, phantom"):
        verify("drawn", ["polypgen"], device="cpu", say=said.append)


def test_a_base_that_the_card_does_not_know_is_found_out(ready: Path) -> None:
    change(ready, base=read_card(ready).base.model_dump() | {"sha256": "0" * 64})
    with pytest.raises(CheckpointError, match="drawn: its card names the base 0000000000000000..., its delta was made on"):
        verify("drawn", device="cpu", say=silent)


@pytest.mark.parametrize(("name", "value", "limit"), [
    ("per_image.dice", 0.9, 0.005), ("per_image.hd95", 40.0, 0.8), ("polyps.detection_rate", 0.9, 0.02),
    ("polyps.predicted", 30, 2), ("polyps.predicted", 300, 6), ("clicks.noc_iou_90", 5.0, 0.1), ("calibration.ece", 0.03, 0.005),
])
def test_how_far_a_number_may_be_off(name: str, value: float, limit: float) -> None:
    said = Number(value=value)
    assert allowed(name, said, 100) == pytest.approx(limit)
    assert agrees(name, said, Number(value=value + 0.99 * limit), 100)
    assert not agrees(name, said, Number(value=value + 1.01 * limit), 100) and not agrees(name, said, None, 100)


# The card


def test_a_card_is_read_as_it_was_written_and_an_edited_one_is_refused(ready: Path) -> None:
    card = read_card(ready)
    (ready / "card.json").write_text(dump_card(card))
    assert read_card(ready) == card and (ready / "card.md").read_text() == page(card, markdown=True)
    for text, message in (("[]", "expected the card of a ready model, got list"), ('{"format": 2}', "a newer gps-seg made it"),
                          ("{", "the file is damaged")):
        (ready / "card.json").write_text(text)
        assert message in gps_seg("models", "card", "drawn", code=2)
    assert "drawn: " in gps_seg("models", "list")
