"""The pair of an export, answered by samexporter's own code: what other people's tools see of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gps_seg import Predictor
from gps_seg.commands.export import Exports, export_run
from gps_seg.metrics.masks import score_image
from gps_seg.runs.ready import run_folder
from gps_seg.tasks.segmentation.phantom import phantom

pytest.importorskip("onnxscript", reason="pip install 'gps-seg[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'gps-seg[onnx]'")
tools: Any = pytest.importorskip("samexporter.sam_onnx", reason="pip install --no-deps samexporter==0.5.0")
AGREEMENT = 0.9  # Dice: the tool resizes twice, picture and mask, where Predictor does it once


@pytest.mark.slow
def test_samexporter_answers_boxes_and_clicks_as_predictor_does(tmp_path: Path) -> None:
    """Source: vietanhdev/samexporter 0.5.0, sam_onnx.py: BGR pictures, prompts as its command line reads them."""
    folder = run_folder("polyp")
    list(export_run(folder, Exports(onnx=tmp_path / "out")))
    theirs = tools.SegmentAnythingONNX(str(tmp_path / "out/encoder.onnx"), str(tmp_path / "out/decoder.onnx"))
    ours = Predictor.from_pretrained(folder, device="cpu", precision="fp32")
    for index in (1, 2, 3):
        picture, truth = phantom(index, size=(240, 320))
        rows, columns = np.nonzero(truth)
        box = tuple(float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        click = (float(columns.mean()), float(rows.mean()))
        ours.set_image(picture)
        seen = theirs.encode(np.ascontiguousarray(picture[..., ::-1]))
        for prompt, mask in (
            ({"type": "rectangle", "data": list(box), "label": 1}, ours.predict(boxes=[box])[0].mask),
            ({"type": "point", "data": list(click), "label": 1}, ours.predict(points=[(*click, 1)]).mask),
        ):
            assert mask.any()
            found = theirs.predict_masks(seen, [prompt])[0, 0] > 0
            assert score_image(str(index), found, mask).dice > AGREEMENT
