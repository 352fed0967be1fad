"""From a YAML file and ``key=value`` overrides to a checked page of settings, and back. Loads without torch.

Every wrong key is named with the nearest right one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gps_seg.errors import ConfigError

Page = TypeVar("Page", bound=BaseModel)
Values = dict[str, Any]


def read_yaml(path: Path) -> Values:
    """The mapping in a YAML file. Raises ConfigError: it cannot be read, is no YAML, or holds something else."""
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


def parse_overrides(overrides: Sequence[str]) -> Values:
    """Dotted key -> value, read as YAML, of ``key=value`` texts. Raises ConfigError for another form."""
    values: Values = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected key=value, got {override!r}; write for example train.lr=1e-3")
        values[key.strip()] = _parse_value(text)
    return values


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def set_dotted(values: Values, key: str, value: Any) -> None:
    """Set ``a.b.c`` in a nested dictionary. Raises ConfigError where a section is a single value."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.setdefault(section, {}), dict):
            raise ConfigError(f"{key}: {section} is a single value, not a section")
        values = values[section]
    values[last] = value


def check_settings(page: type[Page], values: Values, source: str, *, where: str = "", why: Callable[[str], str] = str) -> Page:
    """Validate a nested dictionary as a page of settings.

    Args:
        source: for messages: where the values come from.
        where: for messages: the file that lists all keys.
        why: what to say of an unknown key beside its name, if anything; default: the nearest right key.

    Raises:
        ConfigError: names every wrong key, with the nearest right one, and every wrong value.
    """
    try:
        return page.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(item, page, where, why) for item in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def _explain(item: Any, page: type[BaseModel], where: str, why: Callable[[str], str]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        if why is not str and (reason := why(key)):
            return reason
        nearest = _nearest_key(key, known_keys(page))
        others = f"; see {where} for all keys" if where else ""
        return f"unknown key {key!r}" + (f", did you mean {nearest!r}?" if nearest else others)
    text = item["msg"].removeprefix("Value error, ")
    text = f"{text[0].lower()}{text[1:]}"
    if item["type"] == "value_error":
        return f"{key}: {text}" if key else text
    return f"{key}: {text}, got {item['input']!r}"


def dump_settings(page: BaseModel) -> str:
    """The resolved settings as YAML that reads back unchanged."""
    return yaml.safe_dump(page.model_dump(mode="json"), sort_keys=False)


def known_keys(page: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a page, in its order."""
    return list(_walk(page, prefix))


def _walk(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{prefix}{name}.")


def _nearest_key(key: str, keys: Sequence[str]) -> str | None:
    by_last = {known.rsplit(".", 1)[-1]: known for known in keys}
    same_section = [known for known in keys if known.rpartition(".")[0] == key.rpartition(".")[0]]
    for candidates in (same_section, keys):
        if found := difflib.get_close_matches(key, candidates, n=1, cutoff=0.6):
            return found[0]
    found = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_last), n=1, cutoff=0.6)
    return by_last[found[0]] if found else None


def differences(a: Values, b: Values, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested dictionaries."""
    changed: list[str] = []
    for key in {**a, **b}:
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            changed += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            changed.append(prefix + key)
    return changed
