"""Every setting of a classification run on one page, each with its unit and its reason. Loads without torch.

``configs/classification/`` holds one file per data set of the GPS paper with its published values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gps_seg.config import GPSConfig, Method, Precision, check_files, check_settings, read_settings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassModelConfig(_Section):
    """Which pretrained encoder, and how large an image it sees."""

    name: str = Field("vit_base_patch16_224", description="any timm name, or lite_medsam for the image encoder of LiteMedSAM")
    checkpoint: Path | None = Field(
        None, description="local weight file; default: lite_medsam's own, and random weights for a timm name"
    )
    input_size: int = Field(224, ge=16, description="pixels of a side of the square the model sees")
    drop_path: float = Field(0.0, ge=0, lt=1, description="largest rate at which residual branches are skipped in training")


class ClassAugmentConfig(_Section):
    """What happens to a training image, and how a test image is cut."""

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


class ClassDataConfig(_Section):
    """Which images, and which of them train, select and test."""

    name: str = Field("digits", description="a name of tasks/classification/catalog.py: cub_200_2011, vtab_dtd, folder, ...")
    root: Path | None = Field(None, description="the data set's folder or one that holds it; default: $GPS_SEG_DATA, else data/")
    protocol: Literal["tune", "final"] = Field(
        "tune", description="tune: train on the train part, score the validation part, never open the test part; final: train on "
        "both, score the test part once after the last epoch"
    )
    few_shot: int | None = Field(None, ge=1, description="training images per class; default: all")
    split_seed: int = Field(0, ge=0, description="of the validation share where no list is published, and of few_shot")
    check_counts: bool = Field(True, description="false: accept other numbers of images than the published ones")
    robustness: tuple[Literal["imagenet_a", "imagenet_r", "imagenet_c"], ...] = Field(
        (), description="of imagenet: sets to score at the end of protocol final, in folders of these names beside ImageNet's"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 reads in the training process")
    augment: ClassAugmentConfig = Field(ClassAugmentConfig(), description="of training images")


class SelectionLossConfig(_Section):
    """The loss whose gradient decides what trains."""

    name: Literal["supcon", "cross_entropy"] = Field(
        "supcon", description="supcon: supervised contrastive over two views, which needs no head, the paper's; cross_entropy: "
        "through the random head, 0.67 points lower on FGVC in the paper"
    )
    temperature: float = Field(0.07, gt=0, description="of supcon: divides the similarities")


class ClassTrainConfig(_Section):
    """How the trainable values move."""

    optimizer: Literal["adam", "adamw"] = Field("adam", description="the released scripts use adam, without weight decay")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    epochs: int = Field(100, ge=1, description="passes over the training part, warm-up included, cooldown not")
    cooldown_epochs: int = Field(0, ge=0, description="further passes at min_lr; timm appends 10 to the released scripts' 100")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides epochs")
    batch_size: int = Field(32, ge=1, description="images per step")
    warmup_epochs: int = Field(10, ge=0, description="passes with linearly rising rate")
    warmup_lr: float = Field(1e-7, ge=0, description="rate at the start of the warm-up")
    min_lr: float = Field(1e-8, ge=0, description="end of the cosine")
    weight_decay: float = Field(0.0, ge=0, description="acts on trained values only; frozen weights never move")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass that goes to the other classes")
    mixup: float = Field(0.0, ge=0, description="parameter of the Beta distribution that mixes two images; 0: off")
    cutmix: float = Field(0.0, ge=0, description="the same for pasting a box; with mixup, each batch draws one of the two")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the running average of trained values; 0: off")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware multiplies it, else fp32; selection is fp32")
    seed: int = Field(0, ge=0, description="of order, augmentation, mixing and the head's first values")


class ClassConfig(_Section):
    """Everything that decides one classification run's result."""

    model: ClassModelConfig = Field(ClassModelConfig(), description="the encoder")
    data: ClassDataConfig = Field(ClassDataConfig(), description="the images")
    method: Method = Field("gps", description="what trains besides the head")
    selection: GPSConfig = Field(GPSConfig(), description="of method gps and its rivals, as in segmentation")
    selection_loss: SelectionLossConfig = Field(SelectionLossConfig(), description="of method gps")
    train: ClassTrainConfig = Field(ClassTrainConfig(), description="the fine-tuning")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="CUDA_VISIBLE_DEVICES chooses among several GPUs")

    @field_validator("method", mode="before")
    @classmethod
    def _linear(cls, value: object) -> object:
        """The linear probe trains the head alone."""
        return "head" if value == "linear" else value

    @model_validator(mode="after")
    def _files_are_of_gps(self) -> ClassConfig:
        check_files(self.method, self.selection)
        return self


def load_class_config(path: Path | None, overrides: Sequence[str] = ()) -> ClassConfig:
    """Read a YAML file and apply ``key=value`` overrides with dotted keys.

    Args:
        path: the YAML file; None starts from the defaults.
        overrides: such as ``["train.lr=1e-3", "selection.k=2"]``; values are read as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value does not fit; unknown keys name the nearest.
    """
    return check_settings(ClassConfig, read_settings(path, overrides), source=str(path) if path else "defaults")
