"""Every known polyp set trains by name: by its lists, its folder's lists or a seeded fifth, and what is doubtful is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gps_seg.commands.check_data import check_data
from gps_seg.commands.train import train
from gps_seg.config import PolypDataConfig, load_config
from gps_seg.data.images import write_image
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.segmentation.audit import audit
from gps_seg.tasks.segmentation.parts import find_pairs, load_splits
from gps_seg.tasks.segmentation.sets import expand, set_pairs
from gps_seg.tasks.segmentation.task import Segmentation
from support.known_sets import LAYOUTS, put
from support.settings import SETTINGS, silent

CLINIC = ("CVC-ClinicDB/Original/{}.tif", "CVC-ClinicDB/Ground Truth/{}.tif")
POLYPGEN = ("PolypGen/data_C1/images_C1/{}.jpg", "PolypGen/data_C1/masks_C1/{}_mask.jpg")
PRANET = ("TrainDataset/image/{}.png", "TrainDataset/masks/{}.png")


def data(name: str, **settings: object) -> PolypDataConfig:
    return PolypDataConfig.model_validate({"name": name, **settings})


def sizes(config: PolypDataConfig) -> tuple[int, int, int]:
    splits = load_splits(config)
    return len(splits.train), len(splits.inner), len(splits.test)


# By name


@pytest.mark.parametrize(("name", "images", "masks", "id_"), [row for row in LAYOUTS if row[0] != "kvasir-seg"])
def test_every_published_layout_is_split_by_name_and_by_its_folder(
    home: Path, name: str, images: str, masks: str, id_: str
) -> None:
    put(home, images, masks, range(20))
    splits = load_splits(data(name))
    parts = [{pair.id for pair in part} for part in (splits.train, splits.inner, splits.test)]
    assert [len(part) for part in parts] == ([18, 2, 0] if name == "pranet-train" else [14, 2, 4])
    assert set.union(*parts) == {pair.id for pair in set_pairs(name)} == {id_.format(seed) for seed in range(20)}
    assert load_splits(data(name)) == splits != load_splits(data(name, split_seed=1))
    assert load_splits(data(name, root=home / images.split("/")[0])) == splits  # the folder, or one that holds it


def test_lists_in_a_sets_folder_or_in_the_settings_are_its_split(home: Path, tmp_path: Path) -> None:
    root = put(home, *CLINIC, range(10)) / "CVC-ClinicDB"
    (root / "train.txt").write_text("\n".join(f"{number}.tif" for number in range(6)))
    with pytest.raises(DataError, match="found only one of the two lists"):
        load_splits(data("cvc-clinicdb"))
    (root / "test.txt").write_text("8\n9")
    assert sizes(data("cvc-clinicdb")) == (5, 1, 2)
    (tmp_path / "other.txt").write_text("7")
    assert [pair.id for pair in load_splits(data("cvc-clinicdb", test_list=tmp_path / "other.txt")).test] == ["7"]


def test_the_published_split_goes_before_lists_in_the_folder(home: Path) -> None:
    root = put(home, "Kvasir-SEG/images/{}.jpg", "Kvasir-SEG/masks/{}.jpg", range(4)) / "Kvasir-SEG"
    for name in ("train.txt", "test.txt"):
        (root / name).write_text("0")
    with pytest.raises(DataError, match="1000 listed images have no file"):
        load_splits(data("kvasir-seg"))


def test_a_folder_elsewhere_has_the_sets_own_layout_or_is_refused(home: Path, tmp_path: Path) -> None:
    put(tmp_path, "mine/data_C1/images_C1/{}.jpg", "mine/data_C1/masks_C1/{}_mask.jpg", range(10))
    assert sizes(data("polypgen", root=tmp_path / "mine")) == (7, 1, 2) == sizes(data("folder", root=tmp_path / "mine"))
    with pytest.raises(DataError, match=r"mine: expected folders png/original/ and png/ground-truth/, found data_C1"):
        load_splits(data("cvc-clinicdb", root=tmp_path / "mine"))
    with pytest.raises(DataError, match="data.root: expected the polypgen folder at .*none, found none"):
        load_splits(data("polypgen", root=tmp_path / "none"))


# Training sets by definition


def test_a_training_set_by_definition_trains_whole_and_reports_what_is_left(home: Path, tmp_path: Path) -> None:
    put(home, *PRANET, range(20))
    assert sizes(data("pranet-train")) == sizes(data("pranet-train", protocol="tune")) == (18, 2, 0)
    assert sizes(data("pranet-train", protocol="final")) == (20, 0, 0)
    with pytest.raises(DataError, match="released selects on the test part, and pranet-train has none"):
        load_splits(data("pranet-train", protocol="released"))
    with pytest.raises(ConfigError, match="--split: pranet-train has no test part; say another, or another set with --data"):
        find_pairs(None, "test", data("pranet-train"))
    (home / "TrainDataset" / "train.txt").write_text("1\n2\n3")
    (home / "TrainDataset" / "test.txt").write_text("4")
    assert sizes(data("pranet-train")) == (2, 1, 1)


def test_copies_of_one_picture_go_into_one_part(home: Path) -> None:
    for place in ("CVC-ColonDB", "CVC-300"):
        for seed in range(12):  # each picture thrice
            for number in (seed, seed + 12, seed + 24):
                put(home, f"{place}/images/{{}}.png", f"{place}/masks/{{}}.png", range(seed, seed + 1))
                for kind in ("images", "masks"):
                    content = (home / place / kind / f"{seed}.png").read_bytes()
                    (home / place / kind / f"{number}.png").write_bytes(content)
    for seed in range(3):
        splits = load_splits(data("cvc-colondb", split_seed=seed))
        assert splits.train and splits.inner and splits.test
        assert sum(map(len, (splits.train, splits.inner, splits.test))) == 36
        assert audit(splits) == []
    assert audit(load_splits(data("cvc-300"))) != []


# Scoring


def test_the_runs_own_set_is_scored_by_its_part_and_others_whole(home: Path) -> None:
    put(home, *CLINIC, range(10))
    put(home, *POLYPGEN, range(5))
    own = data("cvc-clinicdb")
    assert find_pairs("cvc-clinicdb", "test", own) == find_pairs(None, "test", own) == list(load_splits(own).test)
    assert len(find_pairs("polypgen", "test", own)) == 5 and len(find_pairs("cvc-clinicdb", "test", data("polypgen"))) == 10
    assert len(find_pairs(str(home / "CVC-ClinicDB"), "test", own)) == 10
    task = Segmentation(data=own)
    assert any("29 sequences" in text for text in task.check(task.splits()))


def test_lists_of_the_runs_own_set_do_not_split_another(home: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0")
    config = data("cvc-clinicdb", train_list=tmp_path / "list.txt", test_list=tmp_path / "list.txt")
    assert len(find_pairs("phantom", "test", config)) == 40


# What is said


def test_an_unknown_name_gets_the_same_sentence_everywhere() -> None:
    said = set()
    for attempt in (lambda: load_splits(data("polypgn")), lambda: check_data(["polypgn"]), lambda: expand(["polypgn"]),
                    lambda: set_pairs("polypgn"), lambda: find_pairs("polypgn", "test", data("phantom"))):
        with pytest.raises(DataError) as caught:
            attempt()
        said.add(str(caught.value))
    assert said == {"expected the name of a data set or a folder with images/ and masks/, got 'polypgn'; "
                    "did you mean 'polypgen'?"}
    with pytest.raises(DataError, match="got 'clinicdb'; did you mean 'cvc-clinicdb' or 'pranet-clinicdb'"):
        set_pairs("clinicdb")


def test_a_group_of_sets_does_not_train() -> None:
    with pytest.raises(DataError, match="data.name: unseen-3 stands for cvc-colondb, etis-larib, cvc-300; a run trains on one"):
        load_splits(data("unseen-3"))


@pytest.mark.parametrize(("name", "place", "texts"), [
    ("cvc-clinicdb", CLINIC, ("CVC-ClinicDB is made of 29 sequences: neighbouring frames look alike", "as published 612")),
    ("pranet-train", PRANET, ("holds images of Kvasir-SEG and CVC-ClinicDB: what is trained on it", "published 1450")),
    ("polypgen", POLYPGEN, ("PolypGen as published 1537",)),
])
def test_what_is_known_of_a_set_is_said_before_training(
    home: Path, name: str, place: tuple[str, str], texts: tuple[str, ...]
) -> None:
    put(home, *place, range(10))
    task = Segmentation(data=data(name))
    warnings = task.check(task.splits())
    assert all(any(text in warning for warning in warnings) for text in texts)
    folder = Segmentation(data=data("folder", root=home / place[0].split("/")[0]))
    assert folder.check(folder.splits()) == [text.replace(f"{name} holds", f"{folder.data.root.name} holds")  # type: ignore[union-attr]
                                             for text in warnings]


def test_many_look_alikes_are_counted_not_listed(home: Path) -> None:
    put(home, *POLYPGEN, range(30))
    for number in range(30):
        rising = np.arange(64, dtype=np.uint8) * 3 + number
        path = home / "PolypGen" / "data_C1" / "images_C1" / f"{number}.jpg"
        write_image(path, np.broadcast_to(rising[None, :, None], (48, 64, 3)).copy())
    task = Segmentation(data=data("polypgen"))
    *shown, last = [text for text in task.check(task.splits()) if "as published" not in text]
    assert len(shown) == 10 and all("nearly the same picture" in text for text in shown)
    assert re.fullmatch("and [0-9]+ more, see gps-seg data check", last)


# Whole runs


@pytest.mark.parametrize(("name", "place", "protocol", "split"), [
    ("cvc-clinicdb", CLINIC, "honest", "test"), ("polypgen", POLYPGEN, "tune", "inner"),
    ("pranet-train", PRANET, "honest", "inner"), ("pranet-train", PRANET, "final", None),
])
def test_a_known_set_trains_by_name(
    home: Path, tmp_path: Path, name: str, place: tuple[str, str], protocol: str, split: str | None
) -> None:
    put(home, *place, range(10))
    config = load_config(None, [*SETTINGS, "data.phantom_images=200", f"data.name={name}", f"data.protocol={protocol}",
                                "train.max_steps=2", "evaluate.overlays=0"])
    said: list[str] = []
    document = train(config, tmp_path / "run", say=said.append)
    assert document["run"]["steps"] == 2
    if split is None:
        assert set(document) == {"run"} and any("pranet-train has no test part" in text for text in said)
    else:
        assert document["settings"]["split"] == split and document["settings"]["data"] == name
        assert ("split_warning" in document["settings"]) == (name != "polypgen")
    assert train(config, tmp_path / "run", resume=True, say=silent) == document
