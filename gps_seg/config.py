"""Every setting of a run on one page, each with its unit and its reason. Loads without torch.

A run is described by one YAML file plus ``key=value`` overrides; :func:`load_config` turns both into a frozen
:class:`RunConfig` and names the nearest right key for every wrong one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gps_seg.errors import ConfigError

Treatment = Literal["select", "train", "freeze"]
Score = Literal["gradient", "gradient_abs", "gradient_squared", "gradient_weight", "magnitude", "random"]
Level = Literal["neuron", "layer", "network"]
Method = Literal[
    "gps", "full", "head", "bitfit", "partial", "lora", "shira", "adapter", "ssf", "vpt_shallow", "vpt_deep"
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Prompt = Literal["none", "box"]
Page = TypeVar("Page", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Which pretrained SAM, and at which size it looks at an image."""

    name: str = Field("lite_medsam", description="lite_medsam, sam_vit_b, sam_vit_l, sam_vit_h, or tiny (random weights)")
    checkpoint: Path | None = Field(None, description="local weight file; default: the official one, from the cache")
    input_size: int | None = Field(None, ge=32, multiple_of=16, description="pixels of the long side; default: the model's own")
    resize: Literal["longest_side", "squash"] | None = Field(
        None, description="keep the aspect and pad (SAM's rule), or squash to a square (the released GPS code)"
    )
    attention: Literal["efficient", "stock"] = Field(
        "efficient", description="of SAM's ViT: efficient never writes the attention map; the result is the same"
    )


class AugmentConfig(_Section):
    """Training augmentation; probabilities in 0..1, zero switches a transform off."""

    horizontal_flip: float = Field(0.5, ge=0, le=1)
    vertical_flip: float = Field(0.5, ge=0, le=1)
    rotate: float = Field(0.5, ge=0, le=1, description="probability of a rotation, scaling and shift")
    rotate_limit: float = Field(180.0, ge=0, le=180, description="degrees; a colonoscope has no upright")
    scale_limit: float = Field(0.2, ge=0, lt=1, description="scale drawn from 1 - limit to 1 + limit")
    color: float = Field(0.5, ge=0, le=1, description="probability of brightness, contrast, saturation and hue jitter")
    color_limit: float = Field(0.2, ge=0, le=1, description="relative strength of that jitter")
    blur: float = Field(0.1, ge=0, le=1)
    noise: float = Field(0.1, ge=0, le=1)
    crop: float = Field(0.0, ge=0, le=1, description="probability of a crop, enlarged to full size")
    empty_crop: float = Field(0.0, ge=0, le=1, description="probability of such a crop from beside the polyps: it teaches the "
                              "empty answer where all training images hold a polyp; use with crop, or enlarged means empty")
    crop_area: tuple[float, float] = Field((0.1, 0.5), description="least and greatest part of the image that a crop keeps")

    @model_validator(mode="after")
    def _crop_area_is_a_range(self) -> AugmentConfig:
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area: expected 0 < least <= greatest <= 1, got {list(self.crop_area)}")
        return self


class DataConfig(_Section):
    """Where images and masks come from and how they are split."""

    name: str = Field("kvasir-seg", description="kvasir-seg, phantom, or folder (images/ + masks/)")
    root: Path | None = Field(None, description="folder of the data set; default: found under $GPS_SEG_DATA or data/")
    train_list: Path | None = Field(None, description="text file, one image name a line; default: train.txt in root")
    test_list: Path | None = Field(None, description="text file; default: val.txt or test.txt in root")
    protocol: Literal["honest", "released"] = Field(
        "honest", description="released: the GPS code's own, which selects on the test images, trains on them too and keeps the "
        "best step on them; only to show where its numbers come from"
    )
    inner_fraction: float = Field(0.1, gt=0, lt=0.5, description="part of the training list kept for model selection")
    split_seed: int = Field(0, description="seed of that part; fixed, so that every method selects on the same images")
    train_images: int | None = Field(None, ge=1, description="use only this many training images (a reduced budget)")
    inner_images: int | None = Field(None, ge=1, description="use only this many inner validation images")
    test_images: int | None = Field(None, ge=1, description="use only this many test images, the first by name")
    phantom_images: int = Field(200, ge=10, description="number of procedural images; a fifth of them is the test split")
    near_duplicates: Literal["warn", "error", "ignore"] = Field(
        "warn", description="what to do about near-identical images on both sides of a split (perceptual hash)"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 reads in the training process")
    cache: bool = Field(True, description="keep resized training images in memory, about 0.2 MB each at 256 px")
    augment: AugmentConfig = AugmentConfig()


class GPSConfig(_Section):
    """What trains: gradient-based parameter selection.

    Source: Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024, arXiv 2312.10136.
    Treatments: ``select`` trains the best connections, ``train`` the whole tensor, ``freeze`` nothing.
    """

    preset: Literal["paper", "official"] = Field(
        "paper", description="paper: norms frozen, layer biases trained; official: the released rules, accidents included"
    )
    k: int | Literal["auto"] = Field(
        1, description="connections per neuron; a row shorter than k is selected whole; auto: the one of auto_k that does best "
        "on the validation part"
    )
    auto_k: tuple[int, ...] = Field((1, 2, 4, 8), min_length=1, description="of k=auto: what is tried")
    auto_steps: int = Field(50, ge=1, description="of k=auto: optimizer steps of each; times the length of auto_k, the budget")
    score: Score = Field("gradient", description="gradient: |sum over batches of the gradient|, the paper's")
    level: Level = Field("neuron", description="where the k x neurons best scores are looked for: row, tensor or whole model")
    weight: Treatment = Field("select", description="linear and convolution weights in the encoder")
    bias: Treatment = Field("train", description="linear and convolution biases in the encoder")
    norm: Treatment = Field("freeze", description="weights and biases of normalisation layers")
    scale: Treatment = Field("train", description="one-dimensional scales, such as LayerScale's gamma")
    embedding: Treatment = Field("freeze", description="class tokens, absolute and relative position tables")
    head: Literal["train", "freeze"] = Field("train", description="the mask decoder or classifier, as a whole")
    include: tuple[str, ...] = Field((), description="glob patterns of parameter names; default: the model's encoder")
    exclude: tuple[str, ...] = Field((), description="glob patterns of encoder parameters to leave frozen")
    overrides: tuple[tuple[str, Treatment], ...] = Field((), description="(glob, treatment), first hit wins, before roles")
    last_blocks: int | None = Field(
        None, ge=1, description="train only the encoder's last blocks and neck: the backward pass stops there"
    )
    lora_rank: int = Field(8, ge=1, description="of method lora")
    lora_alpha: int = Field(16, ge=1, description="of method lora: the update is scaled by alpha / rank")
    shira_rank: int = Field(1, ge=1, description="of method shira: rank x (in + out) random entries a layer")
    adapter_width: int = Field(32, ge=1, description="of method adapter: channels of the bottleneck")
    prompt_tokens: int = Field(10, ge=1, description="of methods vpt_shallow and vpt_deep")
    files: tuple[Path, ...] = Field(
        (), description="of method gps: train the connections of these selections together instead of running a selection pass; "
        "gps-seg select --tasks writes such files"
    )
    seed: int = Field(0, ge=0, description="of the first values of what lora, adapter and vpt add, and of shira's entries")
    max_images: int | None = Field(None, ge=1, description="images of the selection pass; default: the whole training part")
    batch_size: int = Field(4, ge=1, description="images per selection batch; the sum runs over batch-mean gradients")

    @field_validator("k", mode="plain")
    @classmethod
    def _check_k(cls, value: Any) -> Any:
        """A plain check, because pydantic explains a union's mistake once for each member."""
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise PydanticCustomError("k", "input should be a whole number from 1, or auto")

    @field_validator("auto_k")
    @classmethod
    def _check_auto_k(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1 or len(set(value)) < len(value):
            raise PydanticCustomError("auto_k", "input should be different whole numbers from 1")
        return value

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        """Fill what the user did not set with the preset's values."""
        if isinstance(values, dict) and values.get("preset") == "official":
            return {**OFFICIAL, **values}
        return values


# The released SAM rules, first hit wins: substring tests on names. After them the roles above decide, which freezes the
# weights of the neck's norms but, by accident of the released code, trains their biases ("bias" is tested before "neck").
# Source: FightingFighting/GPS, SAM/utils_/pruning.py.
OFFICIAL: dict[str, Any] = {
    "overrides": (
        ("prompt_encoder.no_mask_embed.*", "train"),
        ("image_encoder.*norm*", "freeze"),
        ("image_encoder.*pos*", "freeze"),
        ("image_encoder.*head*", "train"),
        ("image_encoder.*bias*", "train"),
    )
}


class TrainConfig(_Section):
    """How the trainable values move."""

    loss: Literal["dice", "dice_ce", "bce_iou", "structure"] = Field(
        "bce_iou", description="bce_iou: binary cross-entropy + soft IoU, the paper's"
    )
    epochs: int = Field(20, ge=1, description="passes over the training part")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides epochs")
    batch_size: int = Field(4, ge=1, description="images per step, all processes together")
    checkpoint_blocks: bool = Field(
        False, description="recompute encoder blocks in the backward pass: less memory, about a third more time"
    )
    accumulate: int = Field(1, ge=1, description="a step's images are worked through in this many pieces, to save memory")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="acts on trained values only; frozen weights never move")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    warmup: float = Field(0.05, ge=0, lt=1, description="part of the steps with linearly rising rate")
    warmup_lr: float = Field(0.0, ge=0, description="rate before the first step of the warm-up")
    min_lr: float = Field(1e-7, ge=0, description="end of the cosine")
    cooldown: float = Field(0.0, ge=0, lt=1, description="part of the steps, at the end, that stay at min_lr")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the trained values' gradient; null: no clipping")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware multiplies it, else fp32")
    frozen_storage: Literal["fp32", "compute"] = Field(
        "fp32", description="compute: keep weights that GPS selects from in the precision of arithmetic; the same bits, half "
        "the memory on the device, the originals in main memory"
    )
    backend: Literal["auto", "measure", "product", "gather", "triton", "dense"] = Field(
        "auto", description="how selected gradients are computed; auto: a fixed rule from measurements, see gps_seg/products.py "
        "and info RUN; measure: time each layer's on this device first"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the running average of trained values; 0: off")
    box_probability: float = Field(0.0, ge=0, le=1, description="part of the steps that see boxes around the polyps as prompts")
    validate_every: int = Field(0, ge=0, description="steps between inner validations; 0: once an epoch")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without a better score")
    checkpoint_every: int = Field(50, ge=1, description="steps between resumable checkpoints")


class EvaluateConfig(_Section):
    """How predictions become masks and scores."""

    threshold: float = Field(0.5, gt=0, lt=1, description="probability above which a pixel is polyp")
    batch_size: int = Field(8, ge=1, description="images per forward pass")
    prompt: Prompt = Field("none", description="box: prompt with the box around each true mask; never compare with none")
    test: bool = Field(True, description="score the test list once, at the end; false: never score it, as tuning runs must")
    overlays: int = Field(3, ge=0, description="pictures of the best, the median and the worst cases, this many each")


class RunConfig(_Section):
    """Everything that decides one run's result."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: Method = "gps"
    selection: GPSConfig = GPSConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: int = Field(0, ge=0, description="of order, augmentation and random scores; the base model has no randomness")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="CUDA_VISIBLE_DEVICES chooses among several GPUs")

    @model_validator(mode="after")
    def _files_are_of_gps(self) -> RunConfig:
        check_files(self.method, self.selection)
        return self


def check_files(method: str, selection: GPSConfig) -> None:
    """Selections from files are of method gps alone. Raises ValueError."""
    if selection.files and method != "gps":
        raise ValueError(f"selection.files: only method gps takes its connections from files, got method {method}")


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key=value`` overrides with dotted keys.

    Args:
        path: the YAML file; None starts from the defaults.
        overrides: such as ``["train.lr=1e-3", "method=head"]``; values are read as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value does not fit; unknown keys name the nearest.
    """
    values = read_settings(path, overrides)
    if "base" in values and "methods" in values:
        raise ConfigError(f"{path} is a comparison of several runs: gps-seg compare {path} --out DIR")
    return parse_config(values, source=str(path) if path else "defaults")


def read_settings(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The nested dictionary of a YAML file and its overrides, not yet checked. Raises ConfigError."""
    values = _read_yaml(path) if path else {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected key=value, got {override!r}; write for example train.lr=1e-3")
        _set_dotted(values, key.strip(), _parse_value(text))
    return values


def parse_config(values: dict[str, Any], source: str) -> RunConfig:
    """Validate a nested dictionary. Raises ConfigError that names every wrong key and the nearest right one."""
    return check_settings(RunConfig, values, source)


def check_settings(page: type[Page], values: dict[str, Any], source: str) -> Page:
    """Validate a nested dictionary as a page of settings. Raises ConfigError as :func:`parse_config`."""
    try:
        return page.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(item, page) for item in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def dump_config(config: BaseModel) -> str:
    """The resolved settings as YAML that :func:`load_config` (or the page's own loader) reads back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def known_keys(page: type[BaseModel] = RunConfig) -> list[str]:
    """All dotted keys, in the order of the page."""
    return list(_walk(page, ""))


def _walk(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{prefix}{name}.")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}; configs/ holds examples") from None
    except yaml.YAMLError as error:
        where = str(getattr(error, "problem_mark", "")).strip()
        raise ConfigError(f"{path} is not valid YAML{': ' + where if where else ''}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.setdefault(section, {}), dict):
            raise ConfigError(f"{key}: {section} is a single value, not a section")
        values = values[section]
    values[last] = value


def _explain(item: Any, page: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        nearest = _nearest_key(key, known_keys(page))
        where = f"{page.__module__.replace('.', '/')}.py"
        return f"unknown key {key!r}" + (f", did you mean {nearest!r}?" if nearest else f"; see {where} for all keys")
    return f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"


def _nearest_key(key: str, keys: list[str]) -> str | None:
    by_last = {known.rsplit(".", 1)[-1]: known for known in keys}
    same_section = [known for known in keys if known.rpartition(".")[0] == key.rpartition(".")[0]]
    for candidates in (same_section, keys):
        if found := difflib.get_close_matches(key, candidates, n=1, cutoff=0.6):
            return found[0]
    found = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_last), n=1, cutoff=0.6)
    return by_last[found[0]] if found else None
