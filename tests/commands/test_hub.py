"""Every run carries a card, goes to a Hub, and comes back by its name with the same masks."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from gps_seg.commands.hub.card import metadata, readme
from gps_seg.commands.hub.facts import Facts, read_facts
from gps_seg.commands.hub.push import Destination, outgoing, push
from gps_seg.data.images import write_image
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.runs.folder import CONFIG_FILE, DELTA_CONFIG, DELTA_FILE, README_FILE, RESULT_FILE, SELECTION_FILE
from gps_seg.runs.hub import name_of, split_name
from gps_seg.runs.ready import READY_FILES, packaged, run_folder
from gps_seg.tasks.segmentation.phantom import phantom
from support.commands import gps_seg
from support.hub import commands, hub, python

ASKING = """
import sys, time
from gps_seg.errors import CheckpointError
from gps_seg.runs.ready import run_folder
start = time.monotonic()
try:
    run_folder(sys.argv[1])
except CheckpointError as error:
    print(error)
print(f"{time.monotonic() - start:.0f} s, torch" if "torch" in sys.modules else f"{time.monotonic() - start:.0f} s")
"""
TESTED = ("data.protocol=honest", "data.phantom_images=30")


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained(*TESTED)


def changed(run: Path, place: Path, **changes: Any) -> Path:
    """A copy of a run, as it left other settings or descriptions behind, without a card."""
    copy = shutil.copytree(run, place / "copy")
    (copy / README_FILE).unlink()
    description = json.loads((copy / DELTA_CONFIG).read_text())
    (copy / DELTA_CONFIG).write_text(json.dumps(description | changes))
    return copy


# The card


def test_training_leaves_a_card_whose_numbers_are_its_own(run: Path) -> None:
    card = ModelCard.load(run / README_FILE)
    result = json.loads((run / RESULT_FILE).read_text())
    told = {one.metric_type: (one.metric_value, one.dataset_split) for one in card.data.eval_results}
    assert told["dice"] == (round(result["per_image"]["dice"], 6), "test") and "iou" in told
    assert (card.data.library_name, card.data.pipeline_tag) == ("gps-seg", "image-segmentation")
    assert (card.data.base_model, card.data.datasets) == (None, None) and "research-use-only" in card.data.tags
    counts = result["run"]["trainable"]
    assert f"{counts['trainable']:,} of {counts['parameters']:,}" in card.text
    assert "Not a medical device" in card.text and "gps-seg predict RUN PICTURES" in card.text


def test_what_chose_the_step_is_no_test_score(trained: Callable[..., Path]) -> None:
    card = ModelCard.load(trained() / README_FILE)
    assert card.data.eval_results is None and "which chose the step: no test" in card.text


def test_a_run_without_a_report_says_that_nothing_was_measured(run: Path, tmp_path: Path) -> None:
    copy = changed(run, tmp_path)
    (copy / RESULT_FILE).unlink()
    (copy / CONFIG_FILE).unlink()
    text = readme(copy)
    assert "## Scores\n\nNot measured." in text and "model-index" not in text
    assert f"| trained values | {read_facts(run).values:,} |" in text


def test_a_run_on_kvasir_carries_its_terms_and_its_base_by_name(run: Path, tmp_path: Path) -> None:
    model = {"name": "medsam_vit_b", "checkpoint": None, "input_size": 1024}
    card = ModelCard(readme(changed(run, tmp_path, data="kvasir-seg", model=model, weights_licence="Apache-2.0")))
    assert (card.data.base_model, card.data.datasets) == ("wanglab/medsam-vit-base", ["kvasir-seg"])
    assert (card.data.license, card.data.license_name) == ("other", "terms-of-base-and-data")
    assert "Kvasir-SEG: research and education only; commercial use needs written permission." in card.text
    assert "licence Apache-2.0" in card.text and "MedSAM's pretraining data may contain public polyp sets" in card.text


def test_drawn_pictures_leave_the_bases_licence(run: Path) -> None:
    description = {"data": "phantom", "weights_licence": "Apache-2.0", "model": {"name": "sam_vit_b", "checkpoint": None}}
    told = metadata(Facts(description, None, {}, 1)).to_dict()
    assert (told["license"], told["base_model"]) == ("apache-2.0", "facebook/sam-vit-base")


@pytest.mark.parametrize(("checkpoint", "named"), [("/data/own.pth", None), ("alice/sam", "alice/sam")])
def test_weights_of_ones_own_are_named_only_where_the_hub_has_them(checkpoint: str, named: str | None) -> None:
    assert Facts({"model": {"name": "sam_vit_b", "checkpoint": checkpoint}}, None, {}, 1).hub_base == named


def test_a_classifiers_card_says_its_accuracy() -> None:
    description = {"task": "classification", "data": "digits@0-4", "model": {"name": "tiny_vit"}, "method": "gps"}
    facts = Facts(description, None, {"accuracy": 0.75, "interval": [0.5, 1.0], "n": 8, "settings": {"split": "test"}}, 1)
    told = metadata(facts).to_dict()
    assert told["pipeline_tag"] == "image-classification"
    assert told["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.75, "name": "accuracy"}
    assert facts.terms == {"digits@0-4": "the terms of its owner; scikit-learn"}


# What leaves


def test_no_picture_no_name_of_one_and_no_path_leaves(run: Path, tmp_path: Path) -> None:
    copy = changed(run, tmp_path, base_model_name_or_path=str(tmp_path / "own.pth"))
    values = yaml.safe_load((copy / CONFIG_FILE).read_text())
    values["data"]["root"] = str(tmp_path)
    values["model"]["checkpoint"] = str(tmp_path / "own.pth")
    (copy / CONFIG_FILE).write_text(yaml.safe_dump(values))
    files = outgoing(copy)
    assert set(files) == {README_FILE, DELTA_CONFIG, DELTA_FILE, SELECTION_FILE, CONFIG_FILE}
    assert not [name for name, content in files.items() if isinstance(content, bytes) and str(tmp_path).encode() in content]
    assert json.loads(bytes(files[DELTA_CONFIG]))["base_model_name_or_path"] == "own.pth"  # type: ignore[arg-type]


def test_an_edited_card_goes_as_it_is(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / README_FILE).write_text("mine")
    assert outgoing(copy)[README_FILE] == b"mine"


@pytest.mark.skipif(not (packaged() / "polyp").is_dir(), reason="no ready model ships")
def test_a_ready_model_goes_as_its_card_knows_it() -> None:
    files = outgoing(packaged() / "polyp")
    assert set(files) == {README_FILE, *READY_FILES}
    assert b"## What it is not for" in files[README_FILE] and b"license: other" in files[README_FILE]  # type: ignore[operator]


def test_what_cannot_be_sent_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="push: expected USER/NAME, got 'polyp'"):
        push(run, Destination("polyp"))
    with pytest.raises(CheckpointError, match="shares values with other tasks"):
        outgoing(changed(run, tmp_path, common={}))
    (tmp_path / "copy" / "last.safetensors").touch()
    (tmp_path / "copy" / DELTA_CONFIG).write_bytes((run / DELTA_CONFIG).read_bytes())
    with pytest.raises(CheckpointError, match="is not finished: go on with gps-seg train"):
        outgoing(tmp_path / "copy")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert gps_seg(monkeypatch, "push", run, "alice/polyp") == 2  # the tests are offline
    error = capsys.readouterr().err.splitlines()
    assert error == ["gps-seg: error: push to alice/polyp: HF_HUB_OFFLINE is set, so the Hub is not asked"]


# Names


def test_a_name_on_the_hub_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_name("alice/polyp") == ("alice/polyp", None) and split_name("alice/polyp@v1") == ("alice/polyp", "v1")
    for path in ("polyp", "./alice/polyp", "alice/polyp/", "/alice/polyp", "a/b/c", "alice/polyp@", "alice/sam.pth"):
        assert split_name(path) is None, path
    (tmp_path / "alice").mkdir()
    assert split_name("alice/polyp") is None and split_name("alice/polyp@main") == ("alice/polyp", "main")
    with pytest.raises(CheckpointError, match="at alice/polyp, found none; .* alice/polyp@main would be one on the Hub"):
        run_folder("alice/polyp")
    assert name_of(Path("hub/models--alice--polyp/snapshots/abc")) == "alice/polyp" and name_of(Path("runs/polyp")) is None


def test_who_mistyped_a_path_waits_seconds_and_hears_both_readings(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes every connection and never answers
        said = python(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", ASKING, "runs/frist").splitlines()
    assert said[0].startswith("expected a run folder at runs/frist, found none") and "gave no answer" in said[0]
    assert "as a name on the Hub" in said[0]
    assert re.fullmatch(r"[5-9] s|[1-5]\d s", said[1]), said
    said = python(tmp_path, "http://127.0.0.1:1", ASKING, "runs/frist").splitlines()
    assert "the Hub at http://127.0.0.1:1 gave no answer (ConnectError" in said[0]


def test_a_run_goes_to_the_hub_and_comes_back_with_the_same_masks(run: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / "in" / f"{number}.png", phantom(number, size=(96, 120))[0])
    mine = shutil.copytree(run, tmp_path / "home" / "runs" / "mine")
    with hub(tmp_path / "hub") as server:
        dry, refused, sent, local, closed = commands(
            tmp_path / "home", server.url, ("push", mine, "alice/polyp", "--dry-run"), ("push", mine, "alice/polyp"),
            ("push", mine, "alice/polyp", "--revision", "v1"), ("predict", mine, "../in", "--out", "local", "--no-overlays"),
            ("push", mine, "alice/polyp", "--private"), HF_TOKEN="hf_token")
        assert refused and "status 0" in refused
        assert "would leave for alice/polyp, branch main" in dry and "stays here: log.jsonl" in dry and "status 0" in dry
        assert "use it as gps-seg predict alice/polyp@v1" in sent and "status 0" in local
        assert "alice/polyp is there already and public" in closed and "status 2" in closed
        files = {file.name: file for file in server.files("alice/polyp", "v1").iterdir()}
        assert set(files) == {README_FILE, DELTA_CONFIG, DELTA_FILE, SELECTION_FILE, CONFIG_FILE}
        assert len(server.large) == 2  # the tensors go ahead of the commit, as to the Hub itself
        shutil.rmtree(mine)
        fetched, told, kept, unknown = commands(
            tmp_path / "home", server.url, ("predict", "alice/polyp", "../in", "--out", "fetched", "--no-overlays"),
            ("info", "alice/polyp@v1"), ("calibrate", "alice/polyp"), ("info", "alice/none"))
        assert "alice/polyp: from the Hub, revision" in fetched and "gps on tiny_lite" in told
        assert "alice/polyp is a copy from the Hub, whose files stay" in kept and "status 2" in kept
        assert "the Hub knows no such model" in unknown and "status 2" in unknown
    again, = commands(tmp_path / "home", server.url, ("predict", "alice/polyp", "../in", "--out", "again", "--no-overlays"))
    assert "a copy of an earlier time (alice/polyp: the Hub at" in again and "status 0" in again
    for number in range(2):
        masks = {(tmp_path / "home" / place / f"{number}.png").read_bytes() for place in ("local", "fetched", "again")}
        assert len(masks) == 1


def test_without_a_token_nothing_is_asked_of_the_hub(run: Path, tmp_path: Path) -> None:
    with hub(tmp_path / "hub") as server:
        said, = commands(tmp_path / "home", server.url, ("push", run, "alice/polyp"), HF_TOKEN="")
        assert "the Hub takes files with a token alone: hf auth login, or set HF_TOKEN" in said and "status 2" in said
        assert server.asked == []
