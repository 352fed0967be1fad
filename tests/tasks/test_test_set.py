"""A test part named by another set: Kvasir-Sessile's names among Kvasir-SEG's, from its folder or from a list."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gps_seg.config import PolypDataConfig, SamConfig, load_config
from gps_seg.errors import ConfigError, DataError
from gps_seg.tasks.segmentation.parts import find_pairs, load_splits
from gps_seg.tasks.segmentation.sets import number_warning, set_pairs
from gps_seg.tasks.segmentation.task import Segmentation
from support.known_sets import put

SESSILE = "kvasir-sessile/sessile-main-Kvasir-SEG"


@pytest.fixture
def kvasir(home: Path) -> Path:
    """Twelve images of Kvasir-SEG."""
    return put(home, "Kvasir-SEG/images/cju{}.jpg", "Kvasir-SEG/masks/cju{}.jpg", range(12)) / "Kvasir-SEG"


def sessile(home: Path, seeds: range) -> None:
    put(home, f"{SESSILE}/images/cju{{}}.jpg", f"{SESSILE}/masks/cju{{}}.jpg", seeds)


def test_the_official_folder_names_the_test_part_and_all_other_images_train(home: Path, kvasir: Path) -> None:
    sessile(home, range(3, 7))
    splits = load_splits(PolypDataConfig(test_set="kvasir-sessile"))
    assert [pair.id for pair in splits.test] == ["cju3", "cju4", "cju5", "cju6"]
    assert all(pair.image.parent == kvasir / "images" for pair in splits.test)  # the whole set's own files
    rest = {pair.id for pair in (*splits.train, *splits.inner)}
    assert rest == {f"cju{seed}" for seed in (*range(3), *range(7, 12))}
    assert [pair.id for pair in set_pairs("kvasir-sessile")] == [pair.id for pair in splits.test]
    assert "Kvasir-Sessile as published 196" in number_warning("kvasir-sessile", 4)
    scored = find_pairs(None, "test", PolypDataConfig(test_set="kvasir-sessile"))
    assert scored == list(splits.test)


def test_the_released_protocol_selects_trains_and_chooses_on_it(home: Path, kvasir: Path) -> None:
    sessile(home, range(3, 7))
    splits = load_splits(PolypDataConfig(test_set="kvasir-sessile", protocol="released"))
    assert len(splits.train) == 12 and splits.inner == splits.test and len(splits.test) == 4
    assert splits.train[:4] == splits.test  # what the selection pass sees


def test_a_list_of_names_does_where_the_folder_is_not_there(home: Path, kvasir: Path) -> None:
    names = home / "sessile.txt"
    names.write_text("cju1.jpg\ncju2\n")
    assert [pair.id for pair in load_splits(PolypDataConfig(test_set=str(names))).test] == ["cju1", "cju2"]
    with pytest.raises(DataError, match="Kvasir-Sessile is not here: get it from datasets.simula.no/downloads/kvasir-s"):
        load_splits(PolypDataConfig(test_set="kvasir-sessile"))
    names.write_text("cju1\ncju77\ncju88\n")
    with pytest.raises(DataError, match=r"data.test_set: 2 of the 3 names of .*sessile.txt have no image in .*Kvasir-SEG: cju77, "
                                        "cju88; expected some of its 12 images"):
        load_splits(PolypDataConfig(test_set=str(names)))
    with pytest.raises(DataError, match="got 'kvasir-sesile'; did you mean 'kvasir-sessile'"):
        load_splits(PolypDataConfig(test_set="kvasir-sesile"))


@pytest.mark.parametrize("other", ["data.test_list=a.txt", "data.train_list=a.txt", "data.name=phantom"])
def test_a_test_set_stands_alone(other: str) -> None:
    with pytest.raises(ConfigError, match="test_set divides the images of a set by itself"):
        load_config(None, ["data.test_set=kvasir-sessile", other])


def test_random_positions_are_the_released_codes_two_tensors_and_repeat_by_the_seed() -> None:
    def state(positions: str, seed: int) -> dict[str, torch.Tensor]:
        sam = SamConfig.model_validate({"name": "tiny", "positions": positions})
        return Segmentation(sam=sam, seed=seed).model().state_dict()

    stock, drawn, again, other = state("pretrained", 0), state("random", 0), state("random", 0), state("random", 1)
    changed = {name for name in stock if not torch.equal(stock[name], drawn[name])}
    assert changed == {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "prompt_encoder.no_mask_embed.weight"}
    assert all(torch.equal(drawn[name], again[name]) for name in stock)
    assert all(not torch.equal(drawn[name], other[name]) for name in changed)
