from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from gps_seg.errors import CheckpointError
from gps_seg_app.inference.model_card import DISCLAIMER, card
from support.answers import run_folder

SCORED = {
    "n": 120, "per_image": {"dice": 0.8431, "iou": 0.7632}, "intervals": {
        "per_image": {"dice": [0.811, 0.872], "iou": [0.726, 0.797]}, "negatives": {"false_positive_rate": [0.2, 0.4]}},
    "negatives": {"frames": 40, "false_positive_rate": 0.3}, "settings": {"data": "kvasir-seg", "split": "test"},
}


def test_the_disclaimer_is_word_for_word_the_agreed_one() -> None:
    assert DISCLAIMER == (
        "Research use only. Not a medical device; not FDA-cleared or CE-marked; not for diagnosis or treatment. White-light "
        "colonoscopy images only (NBI, LCI and chromoendoscopy are out of scope). Performance is known only for the listed "
        "datasets, mostly images that contain a polyp. No finding does not exclude a polyp.")


def test_a_card_names_base_delta_data_terms_and_scores_with_intervals(tmp_path: Path) -> None:
    found = card(run_folder(tmp_path / "run", result=SCORED))
    digest = hashlib.sha256(b"weights").hexdigest()
    assert found.weights_sha256 == digest and found.model_id == f"lite_medsam-gps-{digest[:8]}"
    assert found.data == "Kvasir-SEG" and "research and education only" in found.data_terms
    assert found.scores == (
        "Dice, mean over the 120 images of Kvasir-SEG (test part): 0.843 (95 % interval 0.811 to 0.872).",
        "IoU, mean over the 120 images of Kvasir-SEG (test part): 0.763 (95 % interval 0.726 to 0.797).",
        "Part of the 40 images without a polyp in which something was marked: 0.300 (95 % interval 0.200 to 0.400).",
    )
    assert not found.calibrated and found.calibration == "not calibrated"
    for text in (found.text(), found.markdown()):
        assert DISCLAIMER in text and "may not be unseen" in text and digest in text and "0.811 to 0.872" in text


def test_a_calibrated_run_says_its_temperature(tmp_path: Path) -> None:
    found = card(run_folder(tmp_path, temperature=1.75))
    assert found.calibrated and "temperature 1.750, fitted on 44 images (Kvasir-SEG, inner part)" in found.text()


def test_nothing_that_the_page_shows_at_once_waits_for_torch() -> None:
    rooms = ("server.serve", "session", "jobs.batch", "jobs.video", "export.files", "export.training_pairs", "answer.desk",
             "inference.loading", "inference.model_card", "intake.uploads", "settings", "access")
    modules = ", ".join(f"gps_seg_app.{room}" for room in rooms)
    code = f"import sys, {modules}; print(sorted({{'torch', 'matplotlib', 'gradio', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_test_scores_the_validation_score_is_called_what_it_is(tmp_path: Path) -> None:
    found = card(run_folder(tmp_path, result={"run": {"best_inner_dice": 0.8436}}))
    assert "The test images were not scored." in found.scores[0] and "0.844; not a test score" in found.scores[0]
    assert card(run_folder(tmp_path / "bare")).scores == ("The test images were not scored.",)


def test_neither_a_users_folders_nor_a_path_to_weights_is_in_the_card(tmp_path: Path) -> None:
    found = card(run_folder(tmp_path / "surname", data="folder", base_model_name_or_path="/home/surname/weights/mine.pth"))
    assert found.base == "mine.pth" and found.data == "a local folder of images"
    assert "surname" not in found.text() + found.markdown() + repr(found)


def test_signs_of_markdown_in_a_name_stay_signs(tmp_path: Path) -> None:
    assert r"a\|b\_\<i\>.pth" in card(run_folder(tmp_path, base_model_name_or_path="a|b_<i>.pth")).markdown()


def test_a_folder_without_a_delta_or_with_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the delta's description"):
        card(tmp_path)
    with pytest.raises(CheckpointError, match="one of them is damaged"):
        card(run_folder(tmp_path / "damaged", model={}))
    (run_folder(tmp_path / "without") / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected the delta's weights"):
        card(tmp_path / "without")
