"""Counts by the formula, and pictures of features: from architectures, selections and finished runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gps_seg.cli import app
from gps_seg.commands.conventions import FGVC
from gps_seg.commands.count import report_counts
from gps_seg.commands.features import features, plane, report_features
from gps_seg.commands.train import train
from gps_seg.core.overlap import size_of
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.methods.selection_file import load_selection
from gps_seg.runs.load import load_run
from support.settings import classification, of_method

CONFIGS = Path(__file__).parents[2] / "configs" / "classification"
SMALL = ["data.name=digits", "data.few_shot=2", "model.name=tiny", "model.input_size=64", "train.max_steps=1", "device=cpu",
         "train.batch_size=20", "train.precision=fp32", "selection.batch_size=20", "selection.k=3", "data.augment.min_scale=0.5"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("gps", "head"):
        train(classification(None, of_method(SMALL, method)), folder / method, say=lambda text: None)
    return {"gps": folder / "gps", "linear": folder / "head"}


def test_counts_by_the_formula_are_the_papers(tmp_path: Path, runs: dict[str, Path]) -> None:
    selection = runs["gps"] / "selection.safetensors"
    names = ("cub_200_2011", "nabirds", "oxford_flowers", "stanford_cars", "stanford_dogs")
    text = report_counts([*(str(CONFIGS / f"{name}.yaml") for name in names), f"mine={selection}"], tmp_path / "fig8.png")
    assert "| cub_200_2011 | vit_base_patch16_224 | 2 | 167,424 | 83,712 | 0 | 153,800 | 0.195 | 0.472 |" in text
    assert "| nabirds | vit_base_patch16_224 | 20 | 1,674,240 | 83,712 | 0 | 426,795 | 1.951 | 2.546 |" in text
    assert "Mean of all %: 1.069." in text
    assert f"mine: k = 3, {size_of(load_selection(selection)):,} connections selected" in text
    with Image.open(tmp_path / "fig8.png") as picture:
        assert min(picture.size) > 300


def test_the_papers_036_percent_is_a_mean_of_percentages_that_count_differently() -> None:
    paths = [*(str(path) for path in CONFIGS.glob("vtab_*.yaml")), *(str(CONFIGS / f"{name}.yaml") for name in FGVC)]
    text = report_counts(paths)
    assert "| what is counted | mean %, FGVC | mean %, VTAB-1k | mean %, 24 tasks |" in text
    assert "| selected connections | 0.761 | 0.103 | 0.240 | " in text
    assert "| with biases and head | 1.069 | 0.245 | 0.416 | " in text
    assert "The paper's 0.77 % of FGVC is nearest to: selected connections (0.761 %)." in text
    assert "The paper's 0.25 % of VTAB-1k is nearest to: selected connections with biases and head (0.245 %)." in text
    assert "as its two tables have them (0.358 %)" in text and "ours is 0.352 %" in text and "is not reproduced: 0.240 %" in text
    together = sum(int(line.split(" | ")[3].replace(",", "")) for line in text.splitlines() if "| vit_base" in line)
    assert f" | {together / 1e6:.3f} | {100 * together / 85_798_656:.2f} | {1 + together / 85_798_656:.3f} |" in text
    assert "The paper's" not in report_counts(paths[:3])


@pytest.mark.parametrize(("model", "other"), [("swin_base_patch4_window7_224", 0), ("convnext_base", 18_048)])
def test_both_other_backbones_have_110208_neurons(model: str, other: int, tmp_path: Path) -> None:
    text = (CONFIGS / "cifar100.yaml").read_text().replace("vit_base_patch16_224,", f"{model},")
    (tmp_path / "cifar100.yaml").write_text(text)
    row = report_counts([str(tmp_path / "cifar100.yaml")]).splitlines()[2]
    assert row.startswith(f"| cifar100 | {model} | 1 | 110,208 |") and f" {other:,} |" in row


def test_what_cannot_be_counted_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected at least one configuration for gps-seg classify"):
        report_counts([])
    (tmp_path / "lora.yaml").write_text("method: lora")
    with pytest.raises(ConfigError, match="count: expected method=gps.*got method=lora"):
        report_counts([str(tmp_path / "lora.yaml")])


def test_a_finished_run_is_loaded_with_its_tuned_weights(runs: dict[str, Path]) -> None:
    run = load_run(runs["gps"], device="cpu")
    found = features(run, run.task.splits().inner[:7])
    assert found.shape == (7, 32) and np.allclose((found**2).sum(1), 1)
    with pytest.raises(CheckpointError, match="expected a delta's adapter_config.json at"):
        load_run(runs["gps"].parent)


def test_features_of_several_methods_are_drawn_in_the_plane(tmp_path: Path, runs: dict[str, Path],
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    app(["plot-features", *(f"{name}={folder}" for name, folder in runs.items()), "--out", str(tmp_path / "tsne.png"), "--images",
         "40", "--device", "cpu"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "gps: silhouette " in text and "linear: silhouette " in text and "over 40 images of digits" in text
    with Image.open(tmp_path / "tsne.png") as picture:
        assert picture.width > 1.5 * picture.height
    with pytest.raises(ConfigError, match="expected different names, got 'a' twice"):
        app(["plot-features", "a=x", "a=y", "--out", str(tmp_path / "x.png")], standalone_mode=False)


def test_runs_scored_on_other_images_are_not_drawn_together(tmp_path: Path, runs: dict[str, Path]) -> None:
    settings = [*of_method(SMALL, "head"), "data.protocol=final"]
    train(classification(None, settings), tmp_path / "final", say=lambda text: None)
    with pytest.raises(ConfigError, match="expected runs scored on the same images, got gps digits tune, final digits final"):
        report_features({"gps": runs["gps"], "final": tmp_path / "final"}, tmp_path / "x.png", device="cpu")


def test_the_plane_keeps_clusters_apart_and_is_always_the_same() -> None:
    random = np.random.default_rng(0)
    found = np.concatenate([random.normal(center, 0.1, (20, 8)) for center in (0, 5)])
    places = plane(found)
    assert np.array_equal(places, plane(found))
    inside = np.linalg.norm(places[:20] - places[:20].mean(0), axis=1).max()
    assert np.linalg.norm(places[:20].mean(0) - places[20:].mean(0)) > inside
