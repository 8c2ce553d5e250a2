"""The places that settings come from: each is a nested mapping, and knows what it calls a setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from types import NoneType
from typing import Any, ClassVar

from dspex.config import places
from dspex.config.base import OFF, members, names_at, shape, step
from dspex.config.model import Config
from dspex.config.problems import Path, dotted
from dspex.errors import ConfigError, nearest

__all__ = ["Arguments", "Environment", "FromFile", "Source"]

_DELIMITER = "__"
_BOOLS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class Source:
    """Settings of one origin.

    Attributes:
        values: nested, still to be checked.
    """

    kind: ClassVar[str]

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def holds(self, path: Path) -> bool:
        """Whether it gives a setting, or something within it."""
        inner: Any = self.values
        for part in path:
            try:
                inner = inner[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def call(self, path: Path) -> str:
        """What is to be looked at for a setting that it holds: a file, a variable."""
        return f"the {self.kind}"


class Arguments(Source):
    """What the program says. A `Settings` object in it stands with all it holds, its defaults included."""

    kind = "arguments"

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(_plain(values))


class FromFile(Source):
    """A TOML file.

    Attributes:
        path: of the file.

    Raises:
        ConfigError: it cannot be read.
    """

    kind = "file"

    def __init__(self, path: File) -> None:
        super().__init__(places.read_file(path))
        self.path = path

    def call(self, path: Path) -> str:
        return str(self.path)


class Environment(Source):
    """The variables DSPEX_*. Names of LMs are in lower case, unless another source writes them otherwise.

    Args:
        others: the other sources, for their names of LMs.

    Raises:
        ConfigError: a variable that is no setting, or is not written as its setting is to be; or two that
            say different things of one.
    """

    kind = "environment"

    def __init__(self, others: Sequence[Source]) -> None:
        super().__init__({})
        self.variables: dict[Path, str] = {}
        self._others = others
        for variable, text in places.variables().items():
            path, annotation = self._place(variable)
            self._put(variable, path, _value(variable, text, annotation))
            self.variables[path] = variable

    def call(self, path: Path) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.variables:
                return self.variables[path[:length]]
        return next(name for at, name in self.variables.items() if at[: len(path)] == path)

    def _place(self, variable: str) -> tuple[Path, Any]:
        """The path that a variable means, and the type of what is there."""
        annotation: Any = Config
        path: Path = ()
        for part in variable.removeprefix(places.PREFIX).lower().split(_DELIMITER):
            inner = None if shape(annotation) == "list" else step(annotation, part)
            if inner is None:
                raise _unknown(variable, path, annotation)
            path = (*path, part if shape(annotation) == "group" else self._spelt(path, part))
            annotation = inner
        return path, annotation

    def _spelt(self, path: Path, part: str) -> str:
        """A name as other sources write it: a variable's name has neither small letters nor dashes."""
        found = {
            name
            for source in self._others
            for name in _names(source.values, path)
            if _folded(str(name)) == part
        }
        if len(found) > 1:
            names = " and ".join(repr(name) for name in sorted(found))
            raise ConfigError(f"in the environment {names} have the same name", field=dotted(path))
        return found.pop() if found else part

    def _put(self, variable: str, path: Path, value: Any) -> None:
        inner = self.values
        for part in path[:-1]:
            inner = inner.setdefault(str(part), {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{variable} contradicts {self.call(path)}", field=dotted(path))
        if path[-1] in inner:
            raise ConfigError(f"{variable} and {self.call(path)} are the same setting", field=dotted(path))
        inner[str(path[-1])] = value


def _unknown(variable: str, path: Path, annotation: Any) -> ConfigError:
    if shape(annotation) == "list":
        hint = f"Give the whole list as JSON: {_named(path)}='[...]'"
        return ConfigError(f"the variable {variable} is within a list", field=dotted(path), hint=hint)
    if shape(annotation) == "value":
        hint = f"{_named(path)} is one setting and holds no others"
        return ConfigError(f"unknown setting: the variable {variable}", field=dotted(path), hint=hint)
    known = [_named((*path, name)) for name in names_at(Config, path)]
    hint = nearest(variable, known if path else [*known, *places.RESERVED])
    return ConfigError(f"unknown setting: the variable {variable}", field=dotted(path) or None, hint=hint)


def _named(path: Path) -> str:
    return places.PREFIX + _DELIMITER.join(_folded(str(part)) for part in path).upper()


def _folded(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name.lower())


def _names(values: Mapping[str, Any], path: Path) -> list[str]:
    inner: Any = values
    for part in path:
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return list(inner) if isinstance(inner, Mapping) else []


def _value(variable: str, text: str, annotation: Any) -> Any:
    """A variable's text as its setting is written elsewhere; what does not fit is left for the check."""
    kinds = members(annotation)
    if text == OFF and NoneType in kinds:
        return text
    if shape(annotation) in ("group", "table", "list"):
        try:
            return json.loads(text)
        except ValueError as error:
            hint = "A list is written as '[...]', a table as '{...}'"
            raise ConfigError(f"the variable {variable} is not JSON: {error}", hint=hint) from None
    if shape(annotation) == "any":
        try:
            return json.loads(text)
        except ValueError:
            return text
    if bool in kinds:
        return _BOOLS.get(text.lower(), text)
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _plain(value: Any) -> Any:
    """Mappings as dicts, all the way down, so that sources can be laid over one another."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
