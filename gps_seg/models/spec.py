"""What a SAM expects of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gps_seg.data.transforms import normalise
from gps_seg.errors import ConfigError


@dataclass(frozen=True)
class SamSpec:
    """What a SAM expects of an image: RGB in 0..255, minus ``mean``, over ``std``, ``input_size`` pixels on each side.

    ``resize`` is "longest_side" (keep the aspect, pad right and bottom with zeros after normalising) or "squash". With
    ``stretch`` the image's darkest value is brought to 0 and its brightest to 255 first. Sizes are multiples of ``step``.
    """

    name: str
    input_size: int
    native_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride: int
    resize: Literal["longest_side", "squash"] = "longest_side"
    stretch: bool = False
    step: int = 0

    def __post_init__(self) -> None:
        if not self.step:
            object.__setattr__(self, "step", self.stride)

    def check_size(self) -> None:
        """Raises ConfigError: the input size is no multiple of the step."""
        if self.input_size % self.step:
            raise ConfigError(f"model.input_size: expected a multiple of {self.step}, got {self.input_size}")

    def normalise(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A resized image (h, w, 3) as the model expects it, (3, S, S)."""
        return normalise(image, self.input_size, self.mean, self.std, stretch=self.stretch)

    @property
    def normalisation(self) -> dict[str, Any]:
        """For files, in the units of 0..255 pixels."""
        return {"mean": self.mean, "std": self.std} | ({"stretch": True} if self.stretch else {})
