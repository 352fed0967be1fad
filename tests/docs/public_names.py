"""What a user's type checker sees of the public names; test_public_names runs mypy over it. Never imported."""

from pathlib import Path
from typing import reveal_type

import gps_seg
from gps_seg import (
    GPSConfig,
    GPSModel,
    Predictor,
    evaluate_run,
    get_gps_model,
    load_config,
    load_run,
    load_sam,
    score_folders,
    train,
)

config = load_config(None, ["method=head"])
reveal_type(config)
reveal_type(load_sam("tiny"))
reveal_type(load_run(Path("runs/gps")))
reveal_type(get_gps_model(load_sam("tiny"), GPSConfig(k=1)))
reveal_type(GPSModel.from_pretrained(load_sam("tiny"), "delta"))
reveal_type(train(config, Path("runs/gps")))
reveal_type(evaluate_run(Path("runs/gps")))
reveal_type(score_folders(Path("predicted"), Path("masks")))
reveal_type(gps_seg.GpsSegError("text"))
reveal_type(Predictor.from_pretrained("polyp").predict("picture.png"))
reveal_type(Predictor.from_pretrained("polyp").predict(["picture.png"]))

load_config(3)  # refused
load_sam("tiny", attention="slow")  # refused
load_run(7)  # refused
get_gps_model("lite_medsam")  # refused
train("config.yaml", Path("runs/gps"))  # refused
score_folders("predicted", "masks")  # refused
gps_seg.RunConfig(task="counting", model=config.model).no_such_section  # refused  # noqa: B018
gps_seg.no_such_name  # refused  # noqa: B018
