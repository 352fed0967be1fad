"""``gps-seg evaluate`` on several sets: one checkpoint, one threshold, a table each, a mean with negatives apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import yaml

from gps_seg.commands.compare.run import run_comparison
from gps_seg.commands.evaluate_sets import macro, macro_line
from gps_seg.data.images import write_image, write_mask
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.segmentation.phantom import phantom, write_phantoms
from support.commands import gps_seg

SETTINGS = {
    "method": "head", "model": {"name": "tiny"}, "data": {"name": "phantom", "phantom_images": 12}, "device": "cpu",
    "train": {"max_steps": 2, "batch_size": 2, "precision": "fp32"}, "evaluate": {"overlays": 0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPS_SEG_CACHE", str(cache))
        assert gps_seg(patch, "train", folder / "config.yaml", "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with CVC-300 in PraNet's layout, four frames, and PolypGen's of one centre, three frames and two negatives."""
    for index in range(4):
        put(tmp_path / "TestDataset" / "CVC-300", "images/{}.png", "masks/{}.png", index, polyp=True)
    for index in range(5):
        put(tmp_path / "PolypGen", "data_C1/images_C1/{}.png", "data_C1/masks_C1/{}_mask.png", index, polyp=index > 1)
    monkeypatch.setenv("GPS_SEG_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(root: Path, image: str, mask: str, index: int, *, polyp: bool) -> None:
    write_image(root / image.format(index), phantom(40 + index, size=(60, 80))[0])
    drawn = np.zeros((60, 80), np.bool_)
    drawn[10:40, 20 : 50 + index] = polyp
    write_mask(root / mask.format(index), drawn)


def test_several_sets_give_a_table_each_and_a_mean_with_negatives_apart(
    run: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gps_seg(monkeypatch, "evaluate", run, "--data", "cvc-300", "--data", "polypgen", "--threshold", 0.4, "--device", "cpu",
                   "--json", home / "all.json", "--csv", home / "all.csv", "--markdown", home / "all.md")
    text = capsys.readouterr().out
    assert code == 0
    found = json.loads((home / "all.json").read_text())
    sets, total = found["sets"], found["macro"]
    assert list(sets) == ["cvc-300", "polypgen"] and [sets[name]["n"] for name in sets] == [4, 5]
    assert {sets[name]["settings"]["threshold"] for name in sets} == {0.4} and sets["polypgen"]["settings"]["split"] == "all"
    assert sets["polypgen"]["negatives"]["frames"] == 2 and sets["polypgen"]["empty_targets"] == 2
    by_hand = [mean(image["dice"] for image in document["images"] if image["target_fraction"]) for document in sets.values()]
    assert total["dice"] == pytest.approx(mean(by_hand)) and total["sets"] == 2 and total["by_set"]["polypgen"]["images"] == 3
    rate = sets["polypgen"]["negatives"]["false_positive_rate"]
    assert total["negatives"] == {"sets": 1, "frames": 2, "false_positive_rate": rate}
    assert text.splitlines()[-1] == (
        f"macro mDice {total['dice']:.4f} mIoU {total['iou']:.4f} (unweighted mean over 2 sets, images with a polyp); "
        f"frames without a polyp apart: false-positive rate {rate:.4f} (2 frames, 1 sets)")
    assert text.index("== cvc-300") < text.index("(per_image, 4 images)") < text.index("== polypgen")
    assert {path.name for path in home.glob("all-*")} == {f"all-{name}.{kind}" for name in sets for kind in ("csv", "md")}
    assert len((home / "all-polypgen.csv").read_text().splitlines()) == 6


def test_one_set_gives_the_document_it_gives_among_others(run: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("evaluate", run, "--device", "cpu", "--json")
    assert gps_seg(monkeypatch, *common, home / "one.json", "--data", "cvc-300") == 0
    assert gps_seg(monkeypatch, *common, home / "folder.json", "--data", home / "TestDataset") == 0  # holds one set
    assert gps_seg(monkeypatch, *common, home / "two.json", "--data", "cvc-300", "--data", "phantom") == 0
    one, two = json.loads((home / "one.json").read_text()), json.loads((home / "two.json").read_text())
    assert one == two["sets"]["cvc-300"] and two["sets"]["phantom"]["settings"]["split"] == "test"
    assert json.loads((home / "folder.json").read_text())["images"] == one["images"]
    assert one["settings"]["number_warning"].startswith("cvc-300 holds 4 images, CVC-300 (EndoScene) as published 60")


def test_what_is_missing_or_given_twice_is_said_before_anything_is_scored(
    run: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for sets, text in ((["cvc-300", "bkai-neopolyp"], "BKAI-IGH NeoPolyp is not here: get it from kaggle.com"),
                       (["cvc-300", "cvc-300"], "cvc-300 given twice"), (["cvc-30"], "did you mean 'cvc-300'?")):
        assert gps_seg(monkeypatch, "evaluate", run, *(word for name in sets for word in ("--data", name))) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and text in shown.err and len(shown.err.splitlines()) == 1


def test_a_base_that_may_have_seen_a_set_warns_in_the_result(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"model": {"name": "lite_medsam", "input_size": 64}, "train": {"max_steps": 1, "batch_size": 1}}
    (home / "lite.yaml").write_text(yaml.safe_dump(settings))
    assert gps_seg(monkeypatch, "train", home / "lite.yaml", "--out", home / "lite") == 0
    capsys.readouterr()
    assert gps_seg(monkeypatch, "evaluate", home / "lite", "--data", "cvc-300", "--json", home / "e.json", "--device", "cpu") == 0
    said = "LiteMedSAM's pretraining data may contain public polyp sets (unverified): CVC-300 (EndoScene) may not be unseen"
    assert f"warning: {said}" in capsys.readouterr().out
    assert json.loads((home / "e.json").read_text())["settings"]["base_warning"] == said
    mine = write_phantoms(home / "mine", 2, size=(36, 48))
    assert gps_seg(monkeypatch, "evaluate", home / "lite", "--data", mine, "--json", home / "e.json", "--device", "cpu") == 0
    assert "base_warning" not in json.loads((home / "e.json").read_text())["settings"]


def test_means_over_sets_leave_out_sets_that_have_no_such_images() -> None:
    def document(*images: tuple[int, int, float]) -> dict[str, Any]:
        return {"images": [{"tp": polyp, "fn": 0, "fp": fp, "dice": dice, "iou": dice} for polyp, fp, dice in images]}

    found = macro({"a": document((5, 0, 0.5), (0, 3, 0.0)), "b": document((5, 0, 0.9)), "c": document((0, 0, 1.0), (0, 0, 1.0))})
    assert found["sets"] == 2 and found["dice"] == pytest.approx(0.7)
    assert found["negatives"] == {"sets": 2, "frames": 3, "false_positive_rate": 0.5}
    assert macro_line(macro({"c": document((0, 0, 1.0))})).startswith("macro: no set has images with a polyp; frames without")
    assert macro_line(macro({"b": document((5, 0, 0.9))})).endswith("; no frames without a polyp")
    assert "unseen_3" not in found
    three = {"cvc-300": document((5, 0, 0.9)), "etis-larib": document((5, 0, 0.6)), "cvc-colondb": document((5, 0, 0.3))}
    found = macro({**three, "kvasir-seg": document((5, 0, 1.0))})
    assert found["unseen_3"]["dice"] == pytest.approx(0.6) and found["dice"] == pytest.approx(0.7)
    assert "; unseen-3 mDice 0.6000 mIoU" in macro_line(found)


def test_a_comparison_without_any_of_its_sets_or_with_one_twice_is_refused_before_training(home: Path) -> None:
    (home / "base.yaml").write_text(yaml.safe_dump({key: value for key, value in SETTINGS.items() if key != "method"}))
    grid = {"base": "base.yaml", "methods": {"head": {}}, "seeds": [0], "data": ["etis-larib"]}
    for sets, text, kind in ((["etis-larib"], "ETIS-LaribPolypDB is not here", DataError),
                             (["cvc-300", "cvc-300"], "given twice", ConfigError)):
        (home / "compare.yaml").write_text(yaml.safe_dump(grid | {"data": sets}))
        with pytest.raises(kind, match=text):
            run_comparison(home / "compare.yaml", home / "out", ["cpu"])
    assert not (home / "out").exists()


def test_a_comparison_scores_a_known_set(run: Path, home: Path) -> None:
    (home / "base.yaml").write_text(yaml.safe_dump({key: value for key, value in SETTINGS.items() if key != "method"}))
    cell = home / "out" / "runs" / "head-seed0"
    shutil.copytree(run, cell)  # as if the comparison had trained it
    (cell / "config.yaml").write_text((cell / "config.yaml").read_text().replace("protocol: honest", "protocol: tune"))
    (home / "compare.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "methods": {"head": {}}, "seeds": [0],
                                                       "data": ["polypgen"]}))
    found = run_comparison(home / "compare.yaml", home / "out", ["cpu"])
    assert found["data"]["polypgen"]["rows"][0]["images"] == 5
