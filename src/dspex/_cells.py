"""The text of CSV cells as the values of signature fields. ``dspex.data`` says how each kind is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any

from dspex.errors import nearest

if TYPE_CHECKING:
    from dspex.signature import Field

__all__ = ["cell_reader", "class_finder"]

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def class_finder(field: Field) -> Callable[[Any], Any]:
    """What maps a value, or its text, to the class of this field, and returns what names none unchanged."""
    exact: dict[tuple[type, Any], Any] = {}
    for member in field.classes or ():
        plain = member.value if isinstance(member, Enum) else member
        exact |= {(type(plain), plain): member, (type(member), member): member}
    names = _class_names(field.classes or ())

    def find(value: Any) -> Any:
        if isinstance(value, Hashable) and (type(value), value) in exact:
            return exact[type(value), value]
        return names.get(value, value) if isinstance(value, str) else value

    return find


def cell_reader(field: Field) -> Callable[[str], Any]:
    """What turns a cell of this field's column into its value; it raises ValueError with the reason."""
    # Learned classes are those that were seen: rows to measure on may hold others.
    names = {} if field.learned else _class_names(field.classes or ())
    if field.kind == "class" or (field.kind == "text" and field.role == "output"):
        return _class_reader(names)
    if field.kind == "multilabel" or field.takes_learned_classes:
        return _labels_reader(names)
    readers: dict[str, Callable[[str], Any]] = {
        "bool": _bool_cell, "int": _int_cell, "float": _float_cell, "vector": _vector_cell,
    }  # fmt: skip
    return readers.get(field.kind, str)


def _filled(cell: str) -> str:
    if not cell.strip():
        raise ValueError("the cell is empty")
    return cell


def _bool_cell(cell: str) -> bool:
    value = _BOOLS.get(_filled(cell).strip().lower())
    if value is None:
        raise ValueError(f"{cell!r} is not a bool: write true or false")
    return value


def _int_cell(cell: str) -> int:
    text = _filled(cell).strip()
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"{cell!r} is not a whole number")
    return int(text)


def _float_cell(cell: str) -> float:
    text = _filled(cell).strip()
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{cell!r} is not a finite number (written like 1234.5)")
    return value


def _vector_cell(cell: str) -> list[float]:
    values = _json_list(cell)
    if values is None or any(type(value) not in (int, float) for value in values):
        raise ValueError("a vector is written as a JSON list of numbers, such as [0.1, 0.2]")
    return [float(value) for value in values]


def _json_list(cell: str) -> list[Any] | None:
    try:
        values = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None


def _class_names(classes: Iterable[Any]) -> dict[str, Any]:
    """How classes can be written in a file: values before names, as in DSPy."""
    names: dict[str, Any] = {}
    for value in classes:
        if isinstance(value, Enum):
            names[str(value.value)] = value
        elif value is None or isinstance(value, bool):
            names |= {str(value): value, json.dumps(value): value}
        else:
            names[str(value)] = value
    for value in classes:
        if isinstance(value, Enum):
            names.setdefault(value.name, value)
    return names


def _class_reader(names: dict[str, Any]) -> Callable[[str], Any]:
    def read(cell: str) -> Any:
        if cell in names:
            return names[cell]
        text = _filled(cell).strip()
        if names and text not in names:
            raise ValueError(f"{text!r} is not one of the {len(names)} classes. {nearest(text, names)}")
        return names.get(text, text)

    return read


def _labels_reader(names: dict[str, Any]) -> Callable[[str], Any]:
    read_one = _class_reader(names)

    def read(cell: str) -> list[Any]:
        if not cell.strip():
            return []
        if not cell.lstrip().startswith("["):
            return [read_one(part.strip()) for part in cell.split("|")]
        labels = _json_list(cell)
        if labels is None:
            raise ValueError("not a JSON list of labels")
        return [read_one(label) if isinstance(label, str) else label for label in labels]

    return read
