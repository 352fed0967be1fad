"""What a run leaves behind, by name, and who may write into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gps_seg.config import RunConfig, dump_config, load_config, parse_config
from gps_seg.errors import CheckpointError, ConfigError
from gps_seg.files import read_json, write_bytes
from gps_seg.runs.old_settings import is_old, modernise
from gps_seg.settings import Page, check_settings, differences, parse_overrides, read_yaml, set_dotted

SELECTION_FILE, CONFIG_FILE, RESULT_FILE, STATE_FILE = "selection.safetensors", "config.yaml", "result.json", "last.safetensors"
DELTA_FILE, DELTA_CONFIG, README_FILE = "adapter_model.safetensors", "adapter_config.json", "README.md"


def check_free(config: RunConfig, out: Path, *, resume: bool) -> None:
    """Refuse a run folder that is not this run's: a run never writes over another. Raises ConfigError."""
    # a write that was killed leaves its temporary file, which is no run and nobody's work
    taken = out.exists() and (not out.is_dir() or any(path.suffix != ".tmp" for path in out.iterdir()))
    if taken and not resume:
        raise ConfigError(f"{out} is not empty: choose another --out, or add --resume to go on with the run in it")
    if taken and not (out / CONFIG_FILE).exists():
        raise ConfigError(f"{out} holds no run to resume, but other files: choose another --out")
    if (out / CONFIG_FILE).exists():
        former = read_config(out)
        if changed := differences(former.model_dump(), config.model_dump()):
            raise ConfigError(f"{out / CONFIG_FILE} differs in {', '.join(changed)}: resume with the same settings, or choose "
                              "another --out")


def is_unfinished(folder: Path) -> bool:
    """Whether the training in a run folder has not come to its end: what it would go on from is still there."""
    return (folder / STATE_FILE).is_file()


def read_config(folder: Path) -> RunConfig:
    """The settings of a run, of whatever age. Raises ConfigError."""
    path = folder / CONFIG_FILE
    return parse_config(modernise(read_yaml(path)), str(path))


def read_page(page: type[Page], path: Path, what: str) -> Page:
    """A JSON file that this package wrote, as its page. Raises CheckpointError: there is none, or it was edited or damaged."""
    document = read_json(path, what)
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: expected {what}, got {type(document).__name__}")
    try:
        return check_settings(page, document, str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error}; the file was edited, or a newer gps-seg made it") from None


def load_settings(
    path: Path, overrides: Sequence[str] = (), *, task: str = "segmentation", say: Callable[[str], object] | None = None
) -> RunConfig:
    """As :func:`gps_seg.config.load_config`, also from the config.yaml that a run of former times left in its folder."""
    values = read_yaml(path)
    if not is_old(values):
        return load_config(path, overrides, task=task, say=say)
    values = modernise(values)
    for key, value in parse_overrides(overrides).items():
        set_dotted(values, key, value)
    return parse_config(values, str(path))


def write_config(folder: Path, config: RunConfig) -> None:
    """Write the resolved settings."""
    write_bytes(folder / CONFIG_FILE, dump_config(config).encode())
