"""The settings of runs made under former pages of settings, in today's words. Loads without torch."""

from __future__ import annotations

from typing import Any

from gps_seg.config import OPTIONS

Values = dict[str, Any]
RENAMED_OPTIONS = {
    "lora": {"rank": "lora_rank", "alpha": "lora_alpha"}, "shira": {"rank": "shira_rank"}, "adapter": {"width": "adapter_width"},
    "vpt_shallow": {"tokens": "prompt_tokens"}, "vpt_deep": {"tokens": "prompt_tokens"},
}
# What preset=official wrote out among a run's overrides; today the model knows the released rules.
ROLES = ("weight", "bias", "norm", "scale", "embedding")
OFFICIAL = [
    ["prompt_encoder.no_mask_embed.*", "train"], ["image_encoder.*norm*", "freeze"], ["image_encoder.*pos*", "freeze"],
    ["image_encoder.*head*", "train"], ["image_encoder.*bias*", "train"],
]


def modernise(values: Values) -> Values:
    """The ``config.yaml`` of any run as today's page reads it; today's own unchanged.

    Where an option of a method had no effect it is left out.
    """
    sections = ("selection", "selection_loss", "train", "data", "evaluate")
    if not all(isinstance(values.get(name, {}), dict) for name in sections):
        return values
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    if "checkpoint_blocks" in values.get("train", {}):
        values["train"]["recompute"] = "blocks" if values["train"].pop("checkpoint_blocks") else "none"
    if "task" in values:
        return values
    method, selection = values.get("method", "gps"), values.get("selection", {})
    if "selection_loss" in values:
        loss = values.pop("selection_loss")
        selection |= {"loss": loss.get("name", "supcon"), "temperature": loss.get("temperature", 0.07)} if method == "gps" else {}
        _modernise_classification(values)
    else:
        values["task"] = "segmentation"
        if not values.get("evaluate", {}).pop("test", True):
            values.setdefault("data", {})["protocol"] = "tune"
    if method in OPTIONS:
        values["selection"] = _options(method, selection)
    _drop_unread(values)
    return values


def is_old(values: Values) -> bool:
    """Whether these are the settings that a run of former times left in its folder: they name every setting."""
    if "task" not in values:
        return isinstance(values.get("selection"), dict) and "lora_rank" in values["selection"]
    return isinstance(values.get("train"), dict) and {"checkpoint_blocks", "checkpoint_every"} <= set(values["train"])


def _drop_unread(values: Values) -> None:
    """What had no effect then and is an error today."""
    if values.get("train", {}).get("optimizer", "adamw") != "sgd":
        values.get("train", {}).pop("momentum", None)
    if values.get("data", {}).get("name") != "phantom":
        values.get("data", {}).pop("phantom_images", None)


def _modernise_classification(values: Values) -> None:
    """Epochs of warm-up and cooldown become parts of the steps; the seed is the run's."""
    train = values.setdefault("train", {})
    values |= {"task": "classification", "seed": train.pop("seed", 0)}
    warmup, cooldown = train.pop("warmup_epochs", 10), train.pop("cooldown_epochs", 0)
    epochs = train.get("epochs", 100) + cooldown
    train |= {"epochs": epochs, "warmup": min(0.99, warmup / epochs), "cooldown": cooldown / epochs}


def _options(method: str, selection: Values) -> Values:
    """What of the former page, which held the options of all methods, the method read."""
    renamed = RENAMED_OPTIONS.get(method, {})
    former = {new: selection[renamed.get(new, new)] for new in (*OPTIONS[method].model_fields, "loss", "temperature")
              if renamed.get(new, new) in selection}
    if method == "partial" and former.get("last_blocks") is None:
        former.pop("last_blocks", None)
    if former.get("k") != "auto":
        former = {name: value for name, value in former.items() if name not in ("auto_k", "auto_steps")}
    if former.get("preset") == "official":
        former = {name: value for name, value in former.items() if name not in ROLES}
    if [list(rule) for rule in former.get("overrides", ())] == OFFICIAL:
        del former["overrides"]
    return former
