"""What pydantic found wrong with settings, in words of ours: what stands there, and what has to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from dspex.errors import nearest

__all__ = ["Misfit", "Path", "Problem", "dotted", "problem"]

#: Where a setting stands: names, and places in lists.
Path = tuple[str | int, ...]

_KINDS = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "mapping_type": "a table",
    "model_type": "a table of settings",
    "string_type": "text",
    "tuple_type": "a list",
}
_NUMBERS = ("float_type", "int_from_float", "int_type")
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_NAMES = {
    bool: "true or false", dict: "a table", float: "a number", int: "a number", list: "a list", str: "text",
    tuple: "a list", type(None): "nothing",
}  # fmt: skip


class Misfit(ValueError):
    """What a validator raises to name a setting within its group, or to give a hint."""

    def __init__(self, message: str, *path: str | int, hint: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.hint = hint


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        path: of the setting.
        message: never holds a value that could be a secret.
        unknown: whether there is no such setting.
    """

    path: Path
    message: str
    hint: str | None = None
    unknown: bool = False


def dotted(path: Path) -> str:
    """The path as one writes it: "lms.fast.model", "routing.rules.0.use"."""
    return ".".join(str(part) for part in path)


def problem(error: ValidationError, names_at: Callable[[Path], list[str]]) -> Problem:
    """The first of a validation's problems, unknown names first: a missing setting may be one misspelt.

    Args:
        names_at: the settings that there are at a place.
    """
    found = error.errors(include_url=False)
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    path, kind, given = first["loc"], first["type"], first["input"]
    limits = first.get("ctx", {})
    cause = limits.get("error")
    if isinstance(cause, Misfit):
        return Problem((*path, *cause.path), str(cause), cause.hint)
    if kind == "extra_forbidden":
        name = str(path[-1])
        return Problem(path, f"unknown setting {name!r}", nearest(name, names_at(path[:-1])), unknown=True)
    name = _subject(path)
    if name == "[key]":
        return Problem(path[:-1], f"a name is text, not {_named(path[-2], True)}")
    if kind == "missing":
        return Problem(path, f"{name!r} is missing")
    if kind == "literal_error":
        return Problem(path, f"{name!r} cannot be {_shown(given)}", nearest(str(given), _options(limits)))
    if kind in _KINDS:
        return Problem(path, f"{name!r} takes {_KINDS[kind]}, not {_named(given, kind in _NUMBERS)}")
    for key, words in _BOUNDS.items():
        if key in limits:
            return Problem(path, f"{name!r} has to be {words} {limits[key]:g}, and is {given}")
    if kind == "finite_number":
        return Problem(path, f"{name!r} has to be a finite number")
    if kind == "string_pattern_mismatch":
        return Problem(path, f"{name!r} is empty")
    return Problem(path, f"{name!r}: {first['msg'].removeprefix('Value error, ')}")


def _subject(path: Path) -> str:
    """The setting's own name, and its place where it is one of a list."""
    names = [at for at, part in enumerate(path) if isinstance(part, str)]
    return dotted(path[names[-1] if names else 0 :])


def _options(limits: Mapping[str, Any]) -> list[str]:
    """The values of a Literal, which pydantic gives as "'a', 'b' or 'c'"."""
    return [part.strip("'") for part in str(limits["expected"]).replace(" or ", ", ").split(", ")]


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else _named(value)


def _named(value: Any, is_number: bool = False) -> str:
    if is_number and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _NAMES.get(type(value), f"a {type(value).__name__}")
