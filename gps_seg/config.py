"""Every setting of a run on one page, each with its unit and its reason. Loads without torch.

A run is one YAML file plus ``key=value`` overrides; :func:`load_config` turns both into a frozen :class:`RunConfig`. ``task``
says which kind of work it is, and with it what ``data`` holds; ``method`` says what trains, and with it what ``selection`` holds:
a setting that the chosen task or method does not read is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gps_seg.errors import ConfigError
from gps_seg.settings import check_settings, dump_settings, known_keys, parse_overrides, read_yaml, set_dotted

TaskName = Literal["segmentation", "classification"]
Treatment = Literal["select", "train", "freeze"]
Score = Literal[
    "gradient", "gradient_abs", "gradient_squared", "gradient_weight", "gradient_over_weight", "magnitude", "random"
]
Level = Literal["neuron", "layer", "network"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Recompute = Literal["none", "cheap", "blocks"]
MOST_CLICKS = 20  # that a simulated person sets on an image, the literature's limit (RITM, arXiv 2102.06583)


def _part(value: Any) -> Any:
    """A part of a whole, as a number or as a fraction in text: 10/110."""
    above, slash, below = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        return float(above) / float(below) if slash else value
    except (ValueError, ZeroDivisionError):
        return value


Part = Annotated[float, BeforeValidator(_part)]


class Section(BaseModel):
    """A part of the page: no unknown key, no change after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# What learns


class ModelConfig(Section):
    """Which pretrained model, and how large an image it sees."""

    name: str = Field(description="of the model")
    checkpoint: Path | None = Field(None, description="local weight file; of a SAM also a folder of transformers or a name on "
                                    "the Hugging Face Hub; default: the published one, from the cache; "
                                    "random weights for timm's models")
    input_size: int | None = Field(None, ge=16, description="pixels of a side")


class SamConfig(ModelConfig):
    """Which SAM, and at which size it looks at an image."""

    name: str = Field("lite_medsam", description="lite_medsam, sam_vit_b, sam_vit_l, sam_vit_h, medsam_vit_b, mobile_sam, "
                      "sam_hq_vit_b, sam2.1_hiera_tiny, _small, _base_plus, _large, or tiny (random weights)")
    input_size: int | None = Field(None, ge=32, multiple_of=16, description="pixels of the long side; default: the model's own")
    resize: Literal["longest_side", "squash"] | None = Field(
        None, description="keep the aspect and pad (SAM's rule), or squash to a square (the released GPS code)"
    )
    positions: Literal["pretrained", "random"] = Field(
        "pretrained", description="the prompt encoder's code of places and its embedding of no mask; random: drawn from the "
        "seed, as in the released GPS code, which does not load them; only to show what that costs"
    )
    attention: Literal["efficient", "stock"] = Field(
        "efficient", description="of SAM's ViT: efficient never writes the attention map; the result is the same"
    )
    encoder: Literal["lean", "stock"] = Field(
        "lean", description="of LiteMedSAM's and MobileSAM's TinyViT: lean computes the same in less time and a third of the "
        "memory"
    )


class BackboneConfig(ModelConfig):
    """Which encoder of a classifier."""

    name: str = Field("vit_base_patch16_224", description="any timm name, or a SAM's, such as lite_medsam, for its image encoder")
    input_size: int = Field(224, ge=16, description="pixels of a side of the square the model sees")
    drop_path: float = Field(0.0, ge=0, lt=1, description="largest rate at which residual branches are skipped in training")


# What it learns from


class AugmentConfig(Section):
    """Training augmentation of images with masks; probabilities in 0..1, zero switches a transform off."""

    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability")
    vertical_flip: float = Field(0.5, ge=0, le=1, description="probability")
    rotate: float = Field(0.5, ge=0, le=1, description="probability of a rotation, scaling and shift")
    rotate_limit: float = Field(180.0, ge=0, le=180, description="degrees; a colonoscope has no upright")
    scale_limit: float = Field(0.2, ge=0, lt=1, description="scale drawn from 1 - limit to 1 + limit")
    shear_limit: float = Field(0.0, ge=0, lt=90, description="degrees, drawn with the rotation")
    color: float = Field(0.5, ge=0, le=1, description="probability of brightness, contrast, saturation and hue jitter")
    color_limit: float = Field(0.2, ge=0, le=1, description="relative strength of that jitter")
    blur: float = Field(0.1, ge=0, le=1, description="probability")
    noise: float = Field(0.1, ge=0, le=1, description="probability")
    artefacts: float = Field(0.0, ge=0, le=1, description="probability of one of the artefacts of evaluate --corruptions "
                             "(highlights, bubbles, blur, ...), of severity 1 to 3; what trains with it has seen them")
    crop: float = Field(0.0, ge=0, le=1, description="probability of a crop, enlarged to full size")
    empty_crop: float = Field(0.0, ge=0, le=1, description="probability of such a crop from beside the polyps: it teaches the "
                              "empty answer where all training images hold a polyp; use with crop, or enlarged means empty")
    paste: float = Field(0.0, ge=0, le=1, description="probability that a frame without a polyp gets one of another training "
                         "image, or a decoy from beside it: so that a hospital's look does not tell whether there is one")
    crop_area: tuple[float, float] = Field((0.1, 0.5), description="least and greatest part of the image that a crop keeps")

    @model_validator(mode="after")
    def _crop_area_is_a_range(self) -> AugmentConfig:
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area: expected 0 < least <= greatest <= 1, got {list(self.crop_area)}")
        return self


class ClassAugmentConfig(Section):
    """What happens to a training image of a classifier, and how a test image is cut."""

    recipe: Literal["resize", "simple", "timm"] = Field(
        "simple", description="resize: to the square, nothing else (VTAB-1k); simple: random resized crop and flip (FGVC); timm: "
        "that and RandAugment (CIFAR-100, ImageNet). Test images: resize squashes to the square, the others cut its center"
    )
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability, of simple, timm and the two views; 0 for digits")
    min_scale: float = Field(0.08, gt=0, le=1, description="least part of the area a random crop keeps")
    rand_augment: str = Field("rand-m9-mstd0.5-inc1", pattern="^rand-", description="of timm: policy, in timm's words")
    crop_fraction: float = Field(
        0.9, gt=0, le=1, description="of simple and timm: part of the short side that the central square of a test image spans"
    )


class DataConfig(Section):
    """Where images come from, which of them train, which choose, and which are tested."""

    name: str = Field(description="of the data set")
    root: Path | None = Field(None, description="folder of the data set; default: found under $GPS_SEG_DATA or data/")
    protocol: Literal["honest", "tune", "final", "released"] = Field(
        "honest", description="honest: train, keep the step that is best on the inner validation part, read the test part once "
        "at the end; tune: the same, but the test part is never read, and the validation part is reported; final: train on both "
        "parts, keep the last step, read the test part once"
    )
    split_seed: int = Field(0, ge=0, description="of all that is drawn where no list is published; the same for every method")
    inner_images: int | None = Field(None, ge=1, description="use only this many images of the inner validation part")
    test_images: int | None = Field(None, ge=1, description="use only this many test images")
    workers: int = Field(0, ge=0, description="loader processes; 0 reads in the training process")


class PolypDataConfig(DataConfig):
    """Images with masks."""

    name: str = Field("kvasir-seg", description="a polyp set of gps-seg data list, phantom, or folder (data.root)")
    root: Path | None = Field(None, description="folder of the data set; of data.name=folder also a COCO JSON file or a CSV file "
                              "of image,mask; default: found under $GPS_SEG_DATA or data/")
    protocol: Literal["honest", "tune", "final", "released"] = Field(
        "honest", description=f"{DataConfig.model_fields['protocol'].description}; released: the GPS code's own, which selects "
        "on the test images, trains on them too and keeps the best step on them; only to show where its numbers come from"
    )
    train_list: Path | None = Field(None, description="text file, one image name a line; default: the set's published split, "
                                    "else train.txt in its folder, else all but a fifth that split_seed draws")
    test_list: Path | None = Field(None, description="text file; default: the set's published split, else test.txt or val.txt in "
                                   "its folder, else that fifth; none of pranet-train, which other sets test")
    test_set: str | None = Field(None, description="what the test part is, in place of lists: a known set whose images are some "
                                 "of this one's, such as kvasir-sessile of kvasir-seg, or a text file of their names; all other "
                                 "images train")
    inner_fraction: float = Field(0.1, gt=0, lt=0.5, description="part of the training list that is the inner validation part")
    train_images: int | None = Field(None, ge=1, description="use only this many training images (a reduced budget)")
    phantom_images: int = Field(200, ge=10, description="of phantom: number of drawn images; a fifth of them is the test part")
    near_duplicates: Literal["warn", "error", "ignore"] = Field(
        "warn", description="what to do about near-identical images on both sides of a split (perceptual hash)"
    )
    cache: bool = Field(True, description="keep resized training images in memory, about 0.2 MB each at 256 px")
    negatives: tuple[str, ...] = Field(
        (), description="names or folders of further sets whose frames without a polyp are mixed into training; phantom: drawn "
        "ones. They take no part in the selection pass and in the inner validation"
    )
    negative_centers: tuple[int, ...] = Field((), description="of polypgen among them: the centers, 1 to 6, whose frames train; "
                                              "the others stay its test")
    negative_share: float = Field(0.15, gt=0, lt=1, description="part of each epoch's images that are such frames")
    negative_held: float = Field(0.25, gt=0, lt=1, description="part of them, in whole sequences, that never trains: gps-seg "
                                 "calibrate chooses on it below which quality the answer is none")
    negative_phantoms: int = Field(100, ge=10, description="of phantom among them: number of drawn frames")
    augment: AugmentConfig = Field(AugmentConfig(), description="of training images")

    @field_validator("negatives", "negative_centers", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, int)) else value

    @field_validator("negative_centers")
    @classmethod
    def _centers_leave_a_test(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not set(value) <= set(range(1, 7)) or len(set(value)) < len(value) or len(value) > 5:
            raise PydanticCustomError("centers", "input should be at most five different numbers of PolypGen's centers, 1 to 6")
        return value

    @model_validator(mode="after")
    def _negatives_are_there_to_be_divided(self) -> PolypDataConfig:
        if len(set(self.negatives)) < len(self.negatives):
            raise ValueError("negatives names a set twice")
        for name in ("negative_centers", "negative_share", "negative_held"):
            if not self.negatives and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is read with negatives alone, which names no set")
        if "phantom" not in self.negatives and self.negative_phantoms != type(self).model_fields["negative_phantoms"].default:
            raise ValueError("negative_phantoms is read with phantom among negatives alone")
        return self

    @field_validator("inner_fraction", mode="before")
    @classmethod
    def _nothing_kept_is_final(cls, value: Any) -> Any:
        if value == 0:
            raise PydanticCustomError("inner_fraction", "to train on all images with nothing kept, use data.protocol=final")
        return value

    @model_validator(mode="after")
    def _a_test_set_needs_no_lists(self) -> PolypDataConfig:
        if self.test_set is not None and (self.train_list or self.test_list or self.name == "phantom"):
            raise ValueError("test_set divides the images of a set by itself: leave out train_list and test_list, and phantoms")
        return self

    @model_validator(mode="after")
    def _phantoms_are_counted(self) -> PolypDataConfig:
        if self.phantom_images != type(self).model_fields["phantom_images"].default and self.name != "phantom":
            raise ValueError(f"phantom_images is read for data.name=phantom alone, the data set is {self.name}")
        return self


class ClassDataConfig(DataConfig):
    """Images with labels."""

    name: str = Field("digits", description="a name of tasks/classification/catalog.py: cub_200_2011, vtab_dtd, folder, ...; "
                      "digits@0-4: its classes of these numbers alone")
    protocol: Literal["honest", "tune", "final"] = Field("tune", description=DataConfig.model_fields["protocol"].description)
    few_shot: int | None = Field(None, ge=1, description="training images per class; default: all")
    few_shot_validation: Literal["part", "few"] = Field(
        "part", description="of few_shot: part: the few come beside the data set's validation part, which may hold thousands of "
        "labels; few: all there is are the few of the whole training list, and a quarter of each class's, at least one, validates"
    )
    check_counts: bool = Field(True, description="false: accept other numbers of images than the published ones")
    robustness: tuple[Literal["imagenet_a", "imagenet_r", "imagenet_c"], ...] = Field(
        (), description="of imagenet: sets to score when its test part is read, in folders of these names beside ImageNet's"
    )
    augment: ClassAugmentConfig = Field(ClassAugmentConfig(), description="of training images")

    @model_validator(mode="after")
    def _the_few_are_counted(self) -> ClassDataConfig:
        if self.few_shot is None and self.few_shot_validation != type(self).model_fields["few_shot_validation"].default:
            raise ValueError("few_shot_validation is read with few_shot alone, which is not set")
        return self


# What trains: a page of options for each method


class MethodOptions(Section):
    """Options of a method that has none."""


class HeadOptions(MethodOptions):
    """Options of bitfit and ssf, and the one that most methods share; gps has its own."""

    head: Literal["train", "freeze"] = Field("train", description="the mask decoder or classifier, as a whole")


class PassOptions(MethodOptions):
    """Options of a method that asks for scores of weights."""

    score: Score = Field("gradient", description="gradient: |sum over batches of the gradient|, the paper's")
    max_images: int | None = Field(None, ge=1, description="images of the selection pass; default: the whole training part")
    batch_size: int = Field(4, ge=1, description="images per selection batch; the sum runs over batch-mean gradients")
    precision: Precision = Field(
        "fp32", description="of the selection pass; fp32 chooses the same connections on every machine, bf16 93 % of them on "
        "LiteMedSAM and 75 % on EfficientNet (results/selection); auto: bf16 where the hardware multiplies it"
    )


class GPSConfig(PassOptions):
    """Gradient-based parameter selection.

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
    level: Level = Field("neuron", description="where the k x neurons best scores are looked for: row, tensor or whole model")
    weight: Treatment = Field("select", description="linear and convolution weights in the encoder")
    bias: Treatment = Field("train", description="linear and convolution biases in the encoder")
    head: Treatment = Field(
        "train", description="the mask decoder: as a whole; or select: its weights by connections as the encoder's, its biases, "
        "norms and tokens as a whole, and what no mask loss reads (three mask heads, the quality head) frozen"
    )
    head_k: int | None = Field(None, ge=1, description="of head=select: connections per neuron; default: k")
    head_score: Score | None = Field(None, description="of head=select; default: score")
    norm: Treatment = Field("freeze", description="weights and biases of normalisation layers")
    scale: Treatment = Field("train", description="one-dimensional scales, such as LayerScale's gamma")
    embedding: Treatment = Field("freeze", description="class tokens, absolute and relative position tables")
    include: tuple[str, ...] = Field((), description="glob patterns of parameter names; default: the model's encoder")
    exclude: tuple[str, ...] = Field((), description="glob patterns of encoder parameters to leave frozen")
    overrides: tuple[tuple[str, Treatment], ...] = Field((), description="(glob, treatment), first hit wins, before roles")
    last_blocks: int | None = Field(
        None, ge=1, description="train only the encoder's last blocks and neck: the backward pass stops there"
    )
    files: tuple[Path, ...] = Field(
        (), description="train the connections of these selections together instead of running a selection pass; gps-seg select "
        "--tasks writes such files"
    )

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

    @model_validator(mode="after")
    def _released_rules_decide_roles(self) -> GPSConfig:
        for name in ("weight", "bias", "norm", "scale", "embedding"):
            if self.preset == "official" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: with preset=official the released rules decide it; use overrides, or preset=paper")
        return self

    @model_validator(mode="after")
    def _head_is_selected_from(self) -> GPSConfig:
        for name in ("head_k", "head_score"):
            if getattr(self, name) is not None and self.head != "select":
                raise ValueError(f"{name} is read with head=select alone, head is {self.head}")
        if self.head == "select" and (self.preset == "official" or self.files):
            raise ValueError("head=select: not with preset=official or files, which know a head that trains or is frozen")
        return self

    @model_validator(mode="after")
    def _files_hold_what_was_chosen(self) -> GPSConfig:
        for name in ("k", "score", "level"):
            if self.files and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is not read where connections come from files")
        return self

    @model_validator(mode="after")
    def _trials_are_of_auto(self) -> GPSConfig:
        for name in ("auto_k", "auto_steps"):
            if self.k != "auto" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is read with k=auto alone, k is {self.k}")
        return self


class ClassGPSConfig(GPSConfig):
    """GPS of a classifier, whose head is still random when connections are chosen."""

    head: Treatment = Field("train", description="the classifier, as a whole")

    loss: Literal["supcon", "cross_entropy"] = Field(
        "supcon", description="of the selection pass; supcon: supervised contrastive over two views, which needs no head, the "
        "paper's; cross_entropy: through the random head, 0.67 points lower on FGVC in the paper"
    )
    temperature: float = Field(0.07, gt=0, description="of supcon: divides the similarities")

    @field_validator("head")
    @classmethod
    def _head_is_fresh(cls, value: Treatment) -> Treatment:
        if value == "select":
            raise PydanticCustomError("head", "input should be train or freeze: a classifier's head is random, with no "
                                      "pretrained connections to choose from")
        return value

    @model_validator(mode="after")
    def _temperature_is_of_supcon(self) -> ClassGPSConfig:
        if self.loss != "supcon" and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError(f"temperature is read with loss=supcon alone, the loss is {self.loss}")
        return self


class PartialOptions(HeadOptions):
    """Options of partial."""

    last_blocks: int = Field(1, ge=1, description="the encoder's last blocks that train, with what follows them")


class LoraOptions(HeadOptions):
    """Options of lora."""

    rank: int = Field(8, ge=1, description="of the update of each layer")
    alpha: int = Field(16, ge=1, description="the update is scaled by alpha / rank")


class ShiraOptions(HeadOptions):
    """Options of shira."""

    rank: int = Field(1, ge=1, description="rank x (in + out) random entries a layer")


class AdapterOptions(HeadOptions):
    """Options of adapter."""

    width: int = Field(32, ge=1, description="channels of the bottleneck")


class SamAdapterOptions(HeadOptions):
    """Options of sam_adapter; the defaults are the released configuration's."""

    shrink: int = Field(32, ge=1, description="width of a block's tokens over that of what its prompt is made of")
    low_frequencies: float = Field(0.25, ge=0, le=1, description="part of the image's spectrum, around frequency zero, that is "
                                   "taken out before prompts are made of the rest")


class VptOptions(HeadOptions):
    """Options of vpt_shallow and vpt_deep."""

    tokens: int = Field(10, ge=1, description="learned tokens, at the first block or at each; of a ConvNet: "
                        "learned pixels on each side of the image")


class SptOptions(PassOptions, HeadOptions):
    """Options of spt_lora and spt_adapter."""

    score: Score = Field("gradient_squared", description="gradient_squared: the sensitivity, sum over batches of the squared "
                         "gradient, the paper's; through the head, as it is when training begins")
    budget: Part = Field(0.005, gt=0, lt=1, description="part of the encoder's parameters that trains at most, such as 0.5/86")
    rank: int = Field(8, ge=1, description="of the update of a matrix, or channels of the bottleneck behind it")
    matrix_ratio: float = Field(10.0, ge=1, description="a matrix gets its module from so many sensitive entries on: the "
                                "module's own parameters divided by this")
    vector_ratio: float = Field(5.0, ge=1, description="the same for a bias or norm, which then trains as a whole")


NOTHING = "none"  # the method that trains nothing
OPTIONS: dict[str, type[MethodOptions]] = {
    "gps": GPSConfig, "full": MethodOptions, "head": MethodOptions, "bitfit": HeadOptions, "partial": PartialOptions,
    "lora": LoraOptions, "shira": ShiraOptions, "adapter": AdapterOptions, "sam_adapter": SamAdapterOptions, "ssf": HeadOptions,
    "vpt_shallow": VptOptions, "vpt_deep": VptOptions, "spt_lora": SptOptions, "spt_adapter": SptOptions, NOTHING: MethodOptions,
}


# How it learns


class TrainConfig(Section):
    """How the trainable values move."""

    start: Path | None = Field(None, description="run folder or ready model to begin from, with its selection and its values, "
                               "such as a run at a smaller input size; default: the base")
    epochs: int = Field(20, ge=1, description="passes over the training part, warm-up and cooldown included")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides epochs")
    batch_size: int = Field(4, ge=1, description="images per step, all processes together")
    accumulate: int = Field(1, ge=1, description="a step's images are worked through in this many pieces, to save memory")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="over the trained values only")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    lr_selected: float | None = Field(None, gt=0, description="of selected connections, in encoder and head; default: lr")
    lr_bias: float | None = Field(None, gt=0, description="of the encoder's biases, norms and scales; default: lr")
    weight_decay: float = Field(0.0, ge=0, description="acts on trained values only; frozen weights never move")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    schedule: Literal["steps", "timm"] = Field(
        "steps", description="steps: the rate changes at each step, and the cosine begins at lr after the warm-up; timm: as in "
        "the released scripts: it changes once an epoch, and the cosine's time includes the warm-up: it begins below lr"
    )
    warmup: Part = Field(0.05, ge=0, lt=1, description="part of the steps with linearly rising rate, such as 0.05 or 10/110")
    warmup_lr: float = Field(0.0, ge=0, description="rate before the first step of the warm-up")
    min_lr: float = Field(1e-7, ge=0, description="end of the cosine")
    cooldown: Part = Field(0.0, ge=0, lt=1, description="part of the steps, at the end, that stay at min_lr")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the trained values' gradient; null: no clipping")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware multiplies it, else fp32")
    frozen_storage: Literal["fp32", "compute"] = Field(
        "fp32", description="compute: keep weights that GPS selects from in the precision of arithmetic; the same bits, half "
        "the memory on the device, the originals in main memory"
    )
    backend: Literal["auto", "measure", "product", "gather", "triton", "dense"] = Field(
        "auto", description="how selected gradients are computed; auto: a fixed rule from measurements, see "
        "gps_seg/core/products.py and info RUN; measure: time each layer's on this device first"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the running average of trained values; 0: off")
    keep: Literal["best", "last"] = Field(
        "best", description="which step's values the run keeps: the best on the inner validation part, or the last"
    )
    validate_every: int = Field(0, ge=0, description="steps between inner validations; 0: once an epoch")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without a better score")
    checkpoint_every: int = Field(50, ge=1, description="steps between resumable checkpoints")

    @model_validator(mode="after")
    def _patience_looks_for_the_best(self) -> TrainConfig:
        if self.patience is not None and self.keep == "last":
            raise ValueError("patience waits for a better step, and keep=last takes the last one: set one of the two")
        return self

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> TrainConfig:
        if self.momentum != TrainConfig.model_fields["momentum"].default and self.optimizer != "sgd":
            raise ValueError(f"momentum is read with optimizer=sgd alone, the optimizer is {self.optimizer}")
        return self


class SegmentationTrainConfig(TrainConfig):
    """Training of a SAM."""

    loss: Literal["dice", "dice_ce", "bce_iou", "structure"] = Field(
        "bce_iou", description="bce_iou: binary cross-entropy + soft IoU, the paper's"
    )
    box_probability: float = Field(0.0, ge=0, le=1, description="part of the steps that see boxes around the polyps as prompts")
    box_jitter: float = Field(0.1, ge=0, le=0.5, description="of these boxes: part of the side that each edge moves at most")
    click_probability: float = Field(0.0, ge=0, le=1, description="part of the steps that see simulated clicks, the first in the "
                                     "polyp, each later one in the largest error; what boxes and clicks leave has no prompt")
    click_rounds: int = Field(3, ge=1, le=MOST_CLICKS, description="of these steps: answers to one click more each, from one "
                              "embedding, each with the logits of the answer before; the loss is their mean")
    quality: bool = Field(
        False, description="train SAM's quality head too, whatever the method: to the IoU of the answer, 0 on frames without a "
        "polyp; masks are the same with it. gps-seg calibrate --quality does it to a finished run"
    )
    recompute: Recompute = Field(
        "none", description="what the blocks of SAM's ViT compute again in the backward pass instead of keeping it, with the "
        "same result: cheap: all but attention, a quarter of what gps keeps for a tenth more time; blocks: all, the least "
        "memory, a quarter more time (SAM ViT-B at 1024 px); of lite_medsam's encoder blocks alone, where cheap means none"
    )

    @model_validator(mode="after")
    def _prompts_share_the_steps(self) -> SegmentationTrainConfig:
        if (both := round(self.box_probability + self.click_probability, 9)) > 1:
            raise ValueError("box_probability and click_probability are parts of the same steps: expected at most 1 in all, got "
                             f"{both:g}")
        for name, reader in (("box_jitter", "box_probability"), ("click_rounds", "click_probability")):
            if getattr(self, name) != type(self).model_fields[name].default and not getattr(self, reader):
                raise ValueError(f"{name} is read with {reader} above 0 alone")
        return self


class ClassTrainConfig(TrainConfig):
    """Training of a classifier; the defaults are the released scripts'."""

    epochs: int = Field(100, ge=1, description="passes over the training part, warm-up and cooldown included")
    batch_size: int = Field(32, ge=1, description="images per step, all processes together")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adam", description="the released scripts use adam, without weight decay")
    warmup: Part = Field(0.1, ge=0, lt=1, description="part of the steps with linearly rising rate, such as 0.1 or 10/110")
    warmup_lr: float = Field(1e-7, ge=0, description="rate before the first step of the warm-up")
    min_lr: float = Field(1e-8, ge=0, description="end of the cosine")
    clip: float | None = Field(None, gt=0, description="largest norm of the trained values' gradient; null: no clipping")
    checkpoint_every: int = Field(1000, ge=1, description="steps between resumable checkpoints")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass that goes to the other classes")
    mixup: float = Field(0.0, ge=0, description="parameter of the Beta distribution that mixes two images; 0: off")
    cutmix: float = Field(0.0, ge=0, description="the same for pasting a box; with mixup, each batch draws one of the two")


# How it is judged


class EvaluateConfig(Section):
    """How predictions become scores."""

    batch_size: int = Field(8, ge=1, description="images per forward pass")


class SegmentationEvaluateConfig(EvaluateConfig):
    """How predictions become masks and scores."""

    threshold: float = Field(0.5, gt=0, lt=1, description="probability above which a pixel is polyp")
    prompt: Literal["none", "box", "clicks"] = Field(
        "none", description="simulated from the truth: box: the box around each true mask; clicks: in its middle, then in the "
        "middle of the largest error; never compare with none"
    )
    clicks: int = Field(1, ge=1, le=MOST_CLICKS, description="of prompt=clicks: after how many the masks are scored")
    presence: float | None = Field(
        None, ge=0, le=1, description="of train.quality: the answer is none, an empty mask, where its own quality is below this; "
        "null: what gps-seg calibrate chose, else masks as they are"
    )
    flips: bool = Field(False, description="average the answers to the image and its three mirror images, at four times the "
                        "cost; of prompt=none")
    overlays: int = Field(3, ge=0, description="pictures of the best, the median and the worst cases, this many each")

    @model_validator(mode="after")
    def _mirror_images_have_no_prompt(self) -> SegmentationEvaluateConfig:
        if self.flips and self.prompt != "none":
            raise ValueError(f"flips is read with prompt=none alone, the prompt is {self.prompt}")
        return self

    @model_validator(mode="after")
    def _clicks_are_a_prompt(self) -> SegmentationEvaluateConfig:
        if self.clicks != type(self).model_fields["clicks"].default and self.prompt != "clicks":
            raise ValueError(f"clicks is read with prompt=clicks alone, the prompt is {self.prompt}")
        return self


class ClassEvaluateConfig(EvaluateConfig):
    """How predictions become scores."""

    batch_size: int = Field(32, ge=1, description="images per forward pass")


# The page


class RunConfig(Section):
    """Everything that decides one run's result; :func:`page_of` gives the page of a task and a method."""

    task: TaskName = Field("segmentation", description="segmentation or classification: decides what the sections hold")
    model: ModelConfig
    data: DataConfig
    method: str = Field("gps", description="what trains: decides what selection holds")
    selection: MethodOptions = Field(MethodOptions(), description="options of the method, and of no other")
    train: TrainConfig
    evaluate: EvaluateConfig
    seed: int = Field(0, ge=0, description="of order, augmentation, mixing, random scores, and the first values of a new head "
                      "and of what lora, shira, adapter, sam_adapter, vpt and spt add; pretrained weights have no randomness")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="CUDA_VISIBLE_DEVICES chooses among several GPUs")

    @model_validator(mode="after")
    def _final_has_nothing_to_validate_on(self) -> RunConfig:
        for name in ("patience", "validate_every"):
            if self.data.protocol == "final" and getattr(self.train, name):
                raise ValueError(f"train.{name} is not read with data.protocol=final, which trains on the validation part too")
        return self

    @property
    def trains(self) -> bool:
        """Whether anything trains at all."""
        return self.method != NOTHING

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: object) -> object:
        """The linear probe trains the head alone."""
        value = "head" if value == "linear" else value
        if not isinstance(value, str) or value not in OPTIONS:
            *names, last = (repr(name) for name in OPTIONS)
            raise PydanticCustomError("method", f"input should be {', '.join(names)} or {last}")
        return value


class SegmentationConfig(RunConfig):
    """A run of task segmentation."""

    model: SamConfig = Field(SamConfig(), description="the SAM")
    data: PolypDataConfig = Field(PolypDataConfig(), description="the images")
    train: SegmentationTrainConfig = Field(SegmentationTrainConfig(), description="the fine-tuning")
    evaluate: SegmentationEvaluateConfig = Field(SegmentationEvaluateConfig(), description="the scoring")

    @property
    def trains(self) -> bool:
        """Whether anything trains at all: the quality head does under a loss of its own, whatever the method."""
        return super().trains or self.train.quality

    @model_validator(mode="after")
    def _cheap_needs_the_parts_of_attention(self) -> SegmentationConfig:
        if self.train.recompute == "cheap" and self.model.attention == "stock":
            raise ValueError("train.recompute=cheap needs model.attention=efficient; use it, or train.recompute=blocks")
        return self

    @model_validator(mode="after")
    def _presence_is_a_trained_quality(self) -> SegmentationConfig:
        if self.evaluate.presence is not None and not self.train.quality:
            raise ValueError("evaluate.presence is read with train.quality=true alone: an untrained quality tells nothing")
        return self


class ClassificationConfig(RunConfig):
    """A run of task classification."""

    task: TaskName = Field("classification", description="segmentation or classification: decides what the sections hold")
    model: BackboneConfig = Field(BackboneConfig(), description="the encoder")
    data: ClassDataConfig = Field(ClassDataConfig(), description="the images")
    train: ClassTrainConfig = Field(ClassTrainConfig(), description="the fine-tuning")
    evaluate: ClassEvaluateConfig = Field(ClassEvaluateConfig(), description="the scoring")


PAGES: dict[str, type[RunConfig]] = {"segmentation": SegmentationConfig, "classification": ClassificationConfig}
RENAMED = {
    "train.learning_rate": "train.lr", "train.seed": "seed", "selection.seed": "seed",
    "train.warmup_epochs": "train.warmup, a part of the steps such as 10/110",
    "train.cooldown_epochs": "train.cooldown, a part of the steps such as 10/110",
    "selection_loss": "selection.loss and selection.temperature",
    "evaluate.test": "data.protocol: tune never reads the test part", "selection.lora_rank": "selection.rank",
    "selection.lora_alpha": "selection.alpha", "selection.shira_rank": "selection.rank",
    "selection.adapter_width": "selection.width", "selection.prompt_tokens": "selection.tokens",
    "train.checkpoint_blocks": "train.recompute: blocks where it was true, else none",
}


@cache
def page_of(task: str = "segmentation", method: str = "gps") -> type[RunConfig]:
    """The page of a task whose ``selection`` holds the options of a method."""
    options: Any = ClassGPSConfig if (task, method) == ("classification", "gps") else OPTIONS.get(method, GPSConfig)
    base: Any = PAGES[task]
    return create_model(base.__name__, __base__=base, selection=(options, Field(options(), description="options of the method")))


def load_config(
    path: Path | None, overrides: Sequence[str] = (), *, task: str = "segmentation", say: Callable[[str], object] | None = None
) -> RunConfig:
    """Read a YAML file and apply ``key=value`` overrides with dotted keys.

    Where an override changes the method, the file's options of its own method are left out, and ``say`` is told so.

    Args:
        path: the YAML file; None starts from the defaults.
        overrides: such as ``["train.lr=1e-3", "method=head"]``; values are read as YAML.
        task: of a file that names none.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value does not fit; unknown keys name the nearest.
    """
    values = read_yaml(path) if path else {}
    changes = parse_overrides(overrides)
    if "base" in values and "methods" in values:
        raise ConfigError(f"{path} is a comparison of several runs: gps-seg compare {path} --out DIR")
    former = values.get("method", "gps")
    if changes.get("method", former) != former and values.pop("selection", None) and say:
        say(f"{path}: its selection belongs to method {former} and is left out for method {changes['method']}")
    for key, value in changes.items():
        set_dotted(values, key, value)
    return parse_config({"task": task, **values}, source=str(path) if path else "defaults")


def parse_config(values: dict[str, Any], source: str) -> RunConfig:
    """Validate a nested dictionary. Raises ConfigError that names every wrong key and the nearest right one."""
    task, method = values.get("task", "segmentation"), values.get("method", "gps")
    if not isinstance(task, str) or task not in PAGES:
        raise ConfigError(f"{source}: task: expected {' or '.join(PAGES)}, got {task!r}")
    method = "head" if method == "linear" else method if isinstance(method, str) and method in OPTIONS else "gps"

    def why(key: str) -> str:
        return _whose(key, task, method)

    return check_settings(page_of(task, method), values, source, where="docs/settings.md", why=why)


def _whose(key: str, task: str, method: str) -> str:
    """Why a key is unknown here although another method, another task or an older version reads it; else empty."""
    if renamed := RENAMED.get(key):
        return f"unknown key {key!r}: it is {renamed}"
    readers = [other for other in OPTIONS if key in known_keys(page_of(task, other))]
    if readers:
        return f"{key}: an option of method {', '.join(readers)}, not read by method {method}"
    others = [other for other in PAGES if key in known_keys(page_of(other, method)) or key in known_keys(page_of(other))]
    return f"{key}: a setting of task {others[0]}, not read by task {task}" if others else ""


def dump_config(config: RunConfig) -> str:
    """The resolved settings as YAML that :func:`load_config` reads back unchanged."""
    return dump_settings(config)
