"""The tables of docs/configuration.md. `python tests/config_tables.py` makes them anew from the models."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dspex.config import Config
from dspex.config.base import members, shape
from dspex.pool import PoolSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN, END = "<!-- settings: made by tests/config_tables.py -->\n", "<!-- end -->\n"
HEAD = "| setting | takes | default | |\n|---|---|---|---|\n"
_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}


def tables() -> str:
    parts = []
    for path, rows in _groups(Config, "", "top level"):
        if rows:
            parts.append(f"### {path}\n\n{HEAD}{''.join(rows)}")
    return "\n".join(parts)


def _groups(model: type[BaseModel], path: str, title: str) -> Iterator[tuple[str, list[str]]]:
    rows, inner = [], []
    for name, field in model.model_fields.items():
        place = f"{path}.{name}" if path else name
        found = _model_in(field.annotation)
        if place == "native_pool":
            inner.append([(f"`[{place}]`", list(_pool_rows()))])
        elif found is None:
            rows.append(_row(name, _takes(field), _default(field), field.description or ""))
        elif shape(field.annotation) == "table":
            inner.append(list(_groups(found, f"{place}.NAME", f"`[{place}.NAME]`")))
        else:
            header = f"`[[{place}]]`" if shape(field.annotation) == "list" else f"`[{place}]`"
            inner.append(list(_groups(found, place, header)))
    yield title, rows
    for group in inner:
        yield from group


def _pool_rows() -> Iterator[str]:
    text = re.sub(r"\s*\n\s{12}", " ", PoolSettings.__doc__ or "")
    said = dict(re.findall(r"^ {8}(\w+): (.*)$", text, re.MULTILINE))
    hints = {field.name: str(field.type) for field in dataclasses.fields(PoolSettings)}
    words = {"int | None": "whole number", "int": "whole number", "float": "number", "bool": "true or false"}
    for field in dataclasses.fields(PoolSettings):
        takes = words.get(hints[field.name], '"block", "reject", "caller_runs"')
        yield _row(field.name, takes, "" if field.default is None else _json(field.default), said[field.name])


def _row(name: str, takes: str, default: str, meaning: str) -> str:
    meaning = " ".join(meaning.split()).replace("None:", "none:")
    return f"| `{name}` | {takes} | {default} | {meaning[:1].upper()}{meaning[1:]} |\n"


def _takes(field: FieldInfo) -> str:
    kinds = [kind for kind in members(field.annotation) if kind is not NoneType]
    words = " or ".join(filter(None, (_kind(kind) for kind in kinds)))
    metadata = [each for part in field.metadata for each in getattr(part, "metadata", [part])]
    for each in [*metadata, *(m for arg in get_args(field.annotation) for m in _metadata(arg))]:
        for bound, word in _BOUNDS.items():
            limit = getattr(each, bound, None)
            if limit is not None and limit < 1e9:  # there are no more seconds than that
                words += f" {word} {limit:g}"
    return words


def _metadata(annotation: Any) -> list[Any]:
    found = [
        each for part in getattr(annotation, "__metadata__", ()) for each in getattr(part, "metadata", [part])
    ]
    return found if get_origin(annotation) is not tuple else []


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f'"{value}"' for value in get_args(kind))
    if get_origin(kind) is tuple:
        return "list of two numbers" if get_args(kind)[-1] is not ... else "list of texts"
    if shape(kind) == "table":
        return "table"
    return "text" if hasattr(kind, "get_secret_value") else _KINDS[kind]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return "" if default in ((), {}) else _json(default)


def _json(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
        for inner in get_args(member) if get_origin(member) is not Literal else ():
            if inner is not ... and (found := _model_in(inner)) is not None:
                return found
    return None


def page_with(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
