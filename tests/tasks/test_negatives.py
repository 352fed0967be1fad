"""Frames without a polyp: which may train, which are kept to choose on, and how they are mixed into an epoch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from gps_seg.commands.evaluate import evaluate_run
from gps_seg.commands.train import train
from gps_seg.config import PolypDataConfig, RunConfig, load_config
from gps_seg.data.batches import EpochBatches
from gps_seg.data.images import read_mask, write_image, write_mask
from gps_seg.data.splits import Negatives
from gps_seg.errors import ConfigError, DataError
from gps_seg.files.tensors import read_tensors
from gps_seg.runs.setup import prepare
from gps_seg.tasks.segmentation.centers import center_of, sequence_of
from gps_seg.tasks.segmentation.negatives import load_negatives
from gps_seg.tasks.segmentation.pairs import Pair
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg.tasks.segmentation.task import Segmentation
from support.settings import SETTINGS, silent

PUBLISHED = {1: "102OLCV1_100H0006", 2: "EndoCV2021_001002", 3: "C3_EndoCV2021_00453", 4: "31_endocv2021_positive_329_2",
             5: "EndoCV2021_C5_50000005", 6: "EndoCV2021_C6_0100056"}


def put(root: Path, image: str, mask: str, index: int, *, polyp: bool) -> None:
    write_image(root / image, phantom(60 + index, size=(60, 80))[0])
    drawn = np.zeros((60, 80), np.bool_)
    drawn[10:40, 20 : 50 + index % 9] = polyp
    write_mask(root / mask, drawn)


@pytest.fixture
def polypgen(home: Path) -> Path:
    """Two centers in folders of their own, six frames each, of which the last four hold no polyp; a third with polyps alone."""
    root = home / "PolypGen"
    for center in (1, 4, 6):
        for index in range(6):
            name = f"{index}{center}"
            put(root, f"data_C{center}/images_C{center}/{name}.png", f"data_C{center}/masks_C{center}/{name}_mask.png",
                10 * center + index, polyp=index < 2 or center == 6)
    return root


def data(*settings: str) -> PolypDataConfig:
    config = load_config(None, ["data.name=phantom", "data.phantom_images=20", *settings]).data
    assert isinstance(config, PolypDataConfig)
    return config


# Centers


@pytest.mark.parametrize(("center", "name"), PUBLISHED.items())
def test_published_names_tell_the_center(center: int, name: str) -> None:
    pair = Pair(name, Path(f"images/{name}.jpg"), Path(f"masks/{name}.png"))
    assert center_of(pair) == center


def test_folders_and_manifests_tell_the_center_before_names_do(tmp_path: Path) -> None:
    name = PUBLISHED[2]
    assert center_of(Pair(name, tmp_path / "data_C5" / "images_C5" / f"{name}.jpg", tmp_path / "m")) == 5
    listed = Pair(name, tmp_path / "images" / f"{name}.jpg", tmp_path / "m")
    (tmp_path / "manifest.csv").write_text(f"name,centre,polyp_fraction\r\n{name},C3,0.0\r\nother,none,0.1\r\n", newline="")
    assert center_of(listed) == 3
    (tmp_path / "manifest.csv").write_text("file,hospital\nx,1\n")
    assert center_of(listed) == 2 and center_of(Pair("cju1", tmp_path / "images" / "cju1.jpg", tmp_path / "m")) is None
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(DataError, match=r"manifest\.csv: expected a CSV file with the columns name and centre"):
        center_of(listed)


def test_frames_of_one_video_or_patient_are_one_sequence() -> None:
    def of(name: str) -> str:
        return sequence_of(Pair(name, Path(f"images/{name}.jpg"), Path("m")))

    assert of("31_endocv2021_positive_329_2") == of("31_endocv2021_negative_38") != of("32_endocv2021_positive_38")
    assert of("106OLCV1_100H0012") == of("106OLCV1_100H0014") and of("EndoCV2021_001002") != of("EndoCV2021_001010")


# What trains, and what is held


def test_only_frames_without_a_polyp_of_the_named_centers_train_and_a_part_is_held(polypgen: Path) -> None:
    found = load_negatives(data("data.negatives=polypgen", "data.negative_centers=[1,4]", "data.negative_held=0.25"))
    pairs = (*found.train, *found.held)
    assert len(found.train) == 6 and len(found.held) == 2 and found.share == 0.15
    assert {pair.id for pair in pairs} == {f"polypgen/{index}{center}" for index in range(2, 6) for center in (1, 4)}
    assert not any(read_mask(pair.mask).any() for pair in pairs)
    assert {center_of(pair) for pair in pairs} == {1, 4}
    again = load_negatives(data("data.negatives=polypgen", "data.negative_centers=[1,4]"))
    assert again == found
    other = load_negatives(data("data.negatives=polypgen", "data.negative_centers=[1,4]", "data.split_seed=3"))
    assert set(other.held) != set(found.held)
    assert {center_of(pair) for pair in load_negatives(data("data.negatives=polypgen", "data.negative_centers=4")).train} == {4}


def test_a_sequence_is_never_on_both_sides(home: Path) -> None:
    for video in range(4):
        for frame in range(3):
            name = f"{video}_endocv2021_negative_{frame}"
            put(home / "polypgen-640", f"images/{name}.png", f"masks/{name}.png", 3 * video + frame, polyp=False)
    found = load_negatives(data("data.negatives=polypgen", "data.negative_centers=4"))
    sides = [{sequence_of(pair) for pair in side} for side in (found.train, found.held)]
    assert not sides[0] & sides[1] and len(found.held) == 3 and len(found.train) == 9


def test_drawn_frames_hold_no_polyp_and_are_none_of_the_runs_own_phantoms(home: Path) -> None:
    found = load_negatives(data("data.negatives=phantom", "data.negative_phantoms=12"))
    assert len(found.train) == 9 and len(found.held) == 3
    assert not any(phantom(index, size=(48, 64), empty=True)[1].any() for index in range(30))
    drawn, own = phantom(3, size=(48, 64), empty=True)[0], phantom(3, size=(48, 64))[0]
    assert not np.array_equal(drawn, own)


def test_of_a_set_with_lists_the_test_part_never_trains(home: Path) -> None:
    for index in range(8):
        put(home / "mine", f"images/{index}.png", f"masks/{index}.png", index, polyp=index in (0, 4))
    (home / "mine" / "train.txt").write_text("0\n1\n2\n3\n")
    (home / "mine" / "test.txt").write_text("4\n5\n6\n7\n")
    found = load_negatives(data(f"data.negatives=['{home / 'mine'}']"))
    assert {pair.id for pair in (*found.train, *found.held)} == {"mine/1", "mine/2", "mine/3"}


@pytest.mark.parametrize(("settings", "kind", "text"), [
    (["data.negatives=polypgen"], ConfigError, "polypgen is there to test on; say which of its six centers train, such as "),
    (["data.negatives=polypgen", "data.negative_centers=[6]"], DataError, "at least two sequences in polypgen, .*found 0 frames"),
    (["data.negatives=phantom", "data.negative_centers=[1]"], ConfigError, "negative_centers is read for polypgen alone"),
    (["data.negatives=polypgn", "data.negative_centers=[1]"], DataError, "got 'polypgn'; did you mean 'polypgen'"),
    (["data.negatives=cvc-300"], DataError, r"CVC-300 \(EndoScene\) is not here"),
])
def test_what_cannot_train_is_one_clear_line(settings: list[str], kind: type[Exception], text: str, polypgen: Path) -> None:
    with pytest.raises(kind, match=text):
        load_negatives(data(*settings))


def test_frames_of_an_unknown_center_and_the_runs_own_set_are_one_clear_line(home: Path, polypgen: Path) -> None:
    own = load_config(None, ["data.name=polypgen", "data.negatives=polypgen", "data.negative_centers=[1]"]).data
    with pytest.raises(ConfigError, match="polypgen is the run's own data set"):
        load_negatives(own)  # type: ignore[arg-type]
    put(home / "polypgen-odd", "images/a.png", "masks/a.png", 1, polyp=False)
    with pytest.raises(DataError, match=r"of 1 frames of polypgen-odd no center is known: a; a manifest\.csv beside its images"):
        load_negatives(data(f"data.negatives=['{home / 'polypgen-odd'}']", "data.negative_centers=[1]"))


@pytest.mark.parametrize(("settings", "text"), [
    (["data.negative_share=0.2"], "negative_share is read with negatives alone"),
    (["data.negative_centers=[1]"], "negative_centers is read with negatives alone"),
    (["data.negatives=polypgen", "data.negative_centers=[7]"], "at most five different numbers of PolypGen's centers, 1 to 6"),
    (["data.negatives=polypgen", "data.negative_centers=[1,2,3,4,5,6]"], "at most five different numbers"),
    (["data.negatives=polypgen", "data.negative_phantoms=20"], "negative_phantoms is read with phantom among negatives alone"),
    (["data.negatives=[phantom,phantom]"], "negatives names a set twice"),
])
def test_settings_that_nothing_would_read_are_errors(settings: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        data(*settings)


def test_a_frame_that_is_also_in_the_test_part_stops_the_run(home: Path) -> None:
    for index in range(10):
        put(home / "mine", f"images/{index}.png", f"masks/{index}.png", index, polyp=index > 7)
    task = Segmentation(data=data("data.name=folder", f"data.root={home / 'mine'}", "data.phantom_images=200",
                                  "data.negatives=phantom", "data.negative_phantoms=10"))
    assert task.check(task.splits()) == [] or all("near" in text for text in task.check(task.splits()))
    splits = task.splits()
    (home / "copies" / "images").mkdir(parents=True), (home / "copies" / "masks").mkdir()
    for place, pair in enumerate((splits.test[0], splits.train[0], splits.train[1])):
        (home / "copies" / "images" / f"c{place}.png").write_bytes(pair.image.read_bytes())
        write_mask(home / "copies" / "masks" / f"c{place}.png", np.zeros((60, 80), np.bool_))
    copied = Segmentation(data=task.data.model_copy(update={"negatives": (str(home / "copies"),)}))
    with pytest.raises(DataError, match="the same picture is in"):
        copied.check(copied.splits())


# How they are mixed in


def test_an_epoch_holds_all_own_images_and_the_share_of_negatives() -> None:
    further, drawn = Negatives(tuple("abcde"), (), 0.2).beside(40)  # type: ignore[type-var]
    assert drawn == 10 and len(further) == 10 and Counter(further) == dict.fromkeys("abcde", 2)
    sampler = EpochBatches(40, 5, 7, shuffle=True, mixed=(len(further), drawn))
    images = [index for batch in sampler for index in batch]
    assert len(sampler) == 10 and sorted(images) == list(range(50))
    few = EpochBatches(40, 5, 7, shuffle=True, mixed=(30, 10))
    seen = []
    for epoch in range(20):
        few.set_epoch(epoch)
        seen.append([index for batch in few for index in batch if index >= 40])
    assert all(len(set(one)) == 10 for one in seen) and len({tuple(sorted(one)) for one in seen}) == 20
    assert set().union(*seen) == set(range(40, 70))
    assert Negatives().beside(40) == ((), 0)


def test_without_negatives_the_order_is_what_it_was() -> None:
    plain, mixed = EpochBatches(11, 3, 5, shuffle=True), EpochBatches(11, 3, 5, shuffle=True, mixed=(0, 0))
    assert list(plain) == list(mixed)


def test_mixed_batches_start_in_the_middle_and_are_shared_by_processes() -> None:
    whole = EpochBatches(20, 4, 1, shuffle=True, mixed=(6, 4))
    batches = list(whole)
    whole.skip = 2
    assert list(whole) == batches[2:]
    parts = [list(EpochBatches(20, 4, 1, shuffle=True, share=(rank, 2), mixed=(6, 4))) for rank in (0, 1)]
    for batch, first, second in zip(batches, *parts, strict=True):
        assert sorted([*first, *second]) == sorted(batch)


def config(*overrides: str) -> RunConfig:
    return load_config(None, [*SETTINGS, "data.negatives=phantom", "data.negative_phantoms=10", "data.negative_share=0.3",
                              "train.warmup=0", *overrides])


def test_a_training_loader_mixes_them_in_and_selection_and_validation_never_see_them(home: Path) -> None:
    setup = prepare(config("train.accumulate=2"), silent)
    assert {pair.id.partition("/")[0] for pair in setup.splits.negatives.train} == {"phantom"}
    loader = setup.training_loader()
    ids = [id_ for batch in loader for id_ in batch.ids]
    part = np.mean([id_.startswith("phantom/") for id_ in ids])
    assert 0.15 < part < 0.45
    for batch in loader:
        empty = torch.tensor([id_.startswith("phantom/") for id_ in batch.ids])
        assert not batch.target[empty].any()
    kept = [pair.id for pair in (*setup.splits.train, *setup.splits.inner, *setup.splits.test)]
    assert not any(id_.startswith("phantom/") for id_ in kept)


def test_a_run_with_negatives_repeats_and_says_what_it_trained_on(home: Path, tmp_path: Path) -> None:
    results = [train(config(), tmp_path / name, say=silent) for name in "ab"]
    deltas = [read_tensors(tmp_path / name / "adapter_model.safetensors", "a delta")[0] for name in "ab"]
    assert all(torch.equal(deltas[0][name], deltas[1][name]) for name in deltas[0])
    assert results[0]["settings"]["negatives_trained_on"] == "phantom"
    plain = train(load_config(None, [*SETTINGS, "train.warmup=0"]), tmp_path / "plain", say=silent)
    assert "negatives_trained_on" not in plain["settings"]


def test_a_score_on_polypgen_puts_the_centers_that_did_not_train_apart(polypgen: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "data.negatives=polypgen", "data.negative_centers=[1]", "train.max_steps=2"]
    train(load_config(None, settings), tmp_path / "run", say=silent)
    found = evaluate_run(tmp_path / "run", data="polypgen", device="cpu")
    apart = found["unseen_centers"]
    assert found["settings"]["trained_centers"] == [1] and found["n"] == 18 and found["negatives"]["frames"] == 8
    assert apart["centers"] == [4, 6] and apart["n"] == 12 and apart["frames"] == 4
    rows = [row for row in found["images"] if row["center"] != 1]
    assert apart["specificity"] == np.mean([row["fp"] == 0 for row in rows if not row["tp"] + row["fn"]])
    assert apart["polyps_dice"] == pytest.approx(np.mean([row["dice"] for row in rows if row["tp"] + row["fn"]]))
    assert found["settings"]["images_trained_on"] == 4 and "unseen_centers" in found["settings"]["center_warning"]
    assert set(found["intervals"]["unseen_centers"]) <= set(apart) and json.dumps(found)
    plain = train(load_config(None, SETTINGS), tmp_path / "plain", say=silent)
    assert "unseen_centers" not in plain
