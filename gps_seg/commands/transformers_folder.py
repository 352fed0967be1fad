"""``gps-seg export RUN --transformers DIR``: the tuned model as a folder that transformers' ``from_pretrained`` reads."""

from __future__ import annotations

import os
import shutil
from math import log
from pathlib import Path

from gps_seg.errors import ConfigError
from gps_seg.files import write_json
from gps_seg.methods.added import fold_modules
from gps_seg.models.sam import SamModel
from gps_seg.models.to_transformers import check_class, preprocessor, transformers_model
from gps_seg.runs.load import load_run
from gps_seg.tasks.segmentation.task import Segmentation

STRETCHED = "; no processor of transformers stretches: bring each picture's darkest value to 0 and its brightest to 255 before"


def export_transformers(folder: Path, target: Path, base: Path | None = None) -> str:
    """Write a run's merged model, its configuration and its image processor's; returns a line that says with what to read it.

    Raises:
        ConfigError: a run of classification, a model or a method that transformers has nothing for, or a target that is not
            empty.
        CheckpointError: the run cannot be loaded.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already: choose another --transformers")
    run = load_run(folder, device="cpu", base=base)
    if not isinstance(run.task, Segmentation):
        raise ConfigError(f"--transformers: expected a run of segmentation, the one in {folder} is of {run.config.task}")
    model: SamModel = run.model
    check_class(model.spec.name)
    run.attached.merge()
    fold_modules(model, run.attached.selection.meta)
    stock, described = transformers_model(model), preprocessor(model.spec)
    staged = target.absolute().with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        stock.save_pretrained(staged)
        write_json(staged / "preprocessor_config.json", described)
        if target.exists():
            target.rmdir()
        os.replace(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    cut = log(run.threshold / (1 - run.threshold))
    size = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    return (f"{target}: {model.spec.name}, {size:.1f} MB; read it with transformers.{type(stock).__name__} and "
            f"{described['processor_class']}, multimask_output=False, polyp above a logit of {cut:.3g}"
            f"{STRETCHED if model.spec.stretch else ''}")
