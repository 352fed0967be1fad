"""Write docs/settings.md from the page of settings, gps_seg/config.py, so that no setting is described twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gps_seg.config import OPTIONS, PAGES, ClassGPSConfig, GPSConfig, MethodOptions, RunConfig

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

<!-- written by docs/write_settings.py from gps_seg/config.py: change it there, then make docs -->

A run is one YAML file and any number of `key=value` overrides:

```
gps-seg train configs/quickstart.yaml method=lora selection.rank=4 train.lr=3e-4 --out runs/lora
```

`task` says which kind of work it is, and with it what `model`, `data`, `train` and `evaluate` hold; `method` says what trains,
and with it what `selection` holds. A key that the chosen task or method does not read is an error that says who reads it; a
misspelt key is an error that names the nearest right one; nothing is ignored. Where an override changes the method, the file's
options of its own method are left out, and a line says so. `config.yaml` in a run folder holds all of it, resolved.
"""
SYMBOLS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """The whole page as MyST Markdown."""
    parts = [HEAD, "## The page\n", *_table(RunConfig, "", skip=("model", "data", "train", "evaluate", "selection"))]
    former = PAGES["segmentation"]
    parts += _sections(former, "segmentation")
    for task, config in PAGES.items():
        if config is not former:
            parts += _sections(config, task, former)
    return "\n".join([*parts, *_methods()]).rstrip() + "\n"


def _sections(config: type[RunConfig], task: str, known: type[RunConfig] | None = None) -> Iterator[str]:
    """A table for each section of a task; beside ``known``, another task's page, only what differs from it."""
    yield f"\n## Of task {task}\n"
    if known is not None:
        yield "What is not listed here is as above, its default too.\n"
    for name in ("model", "data", "train", "evaluate"):
        section, other = _section(config, name), _section(known, name) if known else None
        yield f"### `{name}` of {task}\n\n{_sentence(section)}\n"
        yield from _table(section, f"{name}.", other)
        for field, info in section.model_fields.items():
            if _is_section(info.annotation):
                yield f"\n### `{name}.{field}` of {task}\n\n{_sentence(info.annotation)}\n"
                yield from _table(info.annotation, f"{name}.{field}.")
        yield ""


def _methods() -> Iterator[str]:
    """A table for each page of options."""
    yield "## Of a method\n"
    yield "`selection` holds the options of the chosen method, and of no other. What the methods are: [methods](methods.md).\n"
    pages: dict[type[MethodOptions], list[str]] = {}
    for method, options in OPTIONS.items():
        pages.setdefault(options, []).append(f"`{method}`")
    for options, methods in pages.items():
        yield f"### `selection` of {', '.join(methods)}\n"
        yield from _table(options, "selection.") if options.model_fields else ["No options."]
        if options is GPSConfig:
            yield "\nClassification adds:\n"
            yield from _table(ClassGPSConfig, "selection.", GPSConfig)
        yield ""


def _table(section: type[BaseModel], prefix: str, other: type[BaseModel] | None = None, skip: tuple[str, ...] = ()) -> list[str]:
    """Key, values, default, meaning; beside ``other`` only the fields that differ from its own."""
    theirs = other.model_fields if other else {}
    rows = [_row(prefix + name, info) for name, info in section.model_fields.items()
            if name not in skip and not _is_section(info.annotation)
            and not (name in theirs and _row("", theirs[name]) == _row("", info))]
    table = ["| key | values | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    foreign = [f"`{prefix}{name}`" for name in theirs if name not in section.model_fields]
    return [*table, *([f"\nNot read: {', '.join(foreign)}."] if foreign else [])] or ["As above."]


def _row(key: str, info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    required = default is PydanticUndefined
    shown = "" if required else f"`{_text(default)}`"
    values = " ".join([_values(info.annotation), *(f"{SYMBOLS[kind]} {getattr(rule, kind)}" for rule in info.metadata
                                                    for kind in SYMBOLS if hasattr(rule, kind))])
    return f"| `{key}` | {values} | {shown} | {(info.description or '').replace('|', chr(92) + '|')} |"


def _text(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, tuple) else str(value)


def _values(kind: Any) -> str:
    """What a key takes, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return "part"
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join("`null`" if part is NoneType else _values(part) for part in parts)
    if origin is tuple:
        return f"list of {_values(parts[0])}" if parts[-1] is Ellipsis else f"list of {len(parts)}"
    return {int: "integer", float: "number", bool: "`true`, `false`", str: "text", Path: "path"}.get(kind, str(kind))


def _section(config: type[RunConfig], name: str) -> type[BaseModel]:
    section: type[BaseModel] = config.model_fields[name].annotation  # type: ignore[assignment]
    return section


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _sentence(section: Any) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
