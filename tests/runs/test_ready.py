"""What ships in the package: every ready model is whole, small, and holds nothing that does not belong."""

from __future__ import annotations

import shutil
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from gps_seg.commands.models.listing import describe_models
from gps_seg.commands.models.pack import MOST_BYTES, Order, pack
from gps_seg.commands.models.page import page
from gps_seg.data.images import write_image
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.runs.card import CARD_FILE, PAGE_FILE, read_card
from gps_seg.runs.folder import CONFIG_FILE, DELTA_CONFIG, DELTA_FILE
from gps_seg.runs.load import load_run
from gps_seg.runs.ready import READY_FILES, check_whole, packaged, ready_models, run_folder
from gps_seg.tasks.segmentation.phantom import phantom

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(folder for folder in packaged().iterdir() if folder.is_dir())
ships = pytest.mark.skipif(not SHIPPED, reason="no ready model ships yet")
NEEDED = {DELTA_FILE, DELTA_CONFIG, CONFIG_FILE, CARD_FILE, PAGE_FILE}


def check_shipped(folder: Path) -> None:
    """Raise AssertionError or CheckpointError for a folder that must not ship."""
    files = {file.name for file in folder.iterdir()}
    assert files <= set(READY_FILES), f"{folder}: {files - set(READY_FILES)} do not belong there"
    assert files >= NEEDED, f"{folder}: {NEEDED - files} are missing"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MOST_BYTES, f"{folder} is larger than {MOST_BYTES:,} bytes"
    check_whole(folder)
    card = read_card(folder)
    assert set(card.files) == files - {CARD_FILE, PAGE_FILE} and card.name == folder.name
    assert (folder / PAGE_FILE).read_text(encoding="utf-8") == page(card, markdown=True)


def test_every_model_that_ships_is_whole_small_and_nothing_else() -> None:
    assert {file.name for file in packaged().iterdir() if file.is_file()} == {"README.md"}
    for folder in SHIPPED:
        check_shipped(folder)


def test_a_folder_that_must_not_ship_is_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "polyp"
    folder.mkdir()
    (folder / "log.jsonl").write_text("")
    with pytest.raises(AssertionError, match="do not belong there"):
        check_shipped(folder)
    (folder / "log.jsonl").rename(folder / DELTA_FILE)
    with pytest.raises(AssertionError, match="are missing"):
        check_shipped(folder)
    for name in NEEDED:
        (folder / name).write_bytes(bytes(MOST_BYTES // 4))
    with pytest.raises(AssertionError, match="is larger than 1,500,000 bytes"):
        check_shipped(folder)


def test_the_wheel_takes_every_file_of_a_ready_model() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["gps_seg"]
    missing = [name for name in READY_FILES if not any(fnmatchcase(f"ready/polyp/{name}", pattern) for pattern in patterns)]
    assert missing == [] and packaged() == ROOT / "gps_seg" / "ready"


def test_shipped_bytes_are_never_changed_by_git() -> None:
    assert "gps_seg/ready/** -text" in (ROOT / ".gitattributes").read_text().splitlines()


@ships
def test_one_of_the_users_is_hidden_by_the_packages_and_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path))
    name = SHIPPED[0].name
    shutil.copytree(SHIPPED[0], tmp_path / "ready" / name)
    assert run_folder(name) == SHIPPED[0] == ready_models()[name]
    assert f"{tmp_path / 'ready' / name}: hidden by the package's model of that name" in describe_models()
    for file in ("config.yaml", "result.json"):
        (tmp_path / file).write_text("{}")
    with pytest.raises(ConfigError, match=f"--name: {name} comes with the package: choose another name"):
        pack(tmp_path, Order(name, tmp_path / "words.yaml"))


@ships
def test_what_ships_loads_on_its_base_and_answers(tmp_path: Path) -> None:
    run = load_run(SHIPPED[0].name, device="cpu")
    picture, _ = phantom(0, size=(96, 120))
    write_image(tmp_path / "scene.png", picture)
    [(_, probability)] = run.predict_files([tmp_path / "scene.png"])
    assert probability.shape == (96, 120) and run.description["weights_licence"] != "unknown"


def test_without_any_ready_model_a_wrong_name_is_still_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPS_SEG_CACHE", str(tmp_path))
    names = ", ".join(ready_models())
    with pytest.raises(CheckpointError, match="expected a run folder at nothing-here, or the name of a ready model") as raised:
        run_folder("nothing-here")
    assert (f"ready models: {names}" if names else "no ready model is installed") in str(raised.value)
    with pytest.raises(CheckpointError, match="expected a run folder at runs/none, found none; gps-seg train"):
        run_folder("runs/none")
