"""Reads the configuration: from the program's arguments, the environment and a file, in this order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dspex.config import places
from dspex.config.base import names_at
from dspex.config.model import Config
from dspex.config.problems import Path, dotted, problem
from dspex.config.sources import Arguments, Environment, FromFile, Source
from dspex.errors import ConfigError

__all__ = ["Loaded", "load", "read"]


@dataclass(frozen=True)
class Loaded:
    """A configuration, and where it is from.

    Attributes:
        sources: those that say something; earlier ones count more.
    """

    config: Config
    sources: tuple[Source, ...]

    def origin(self, path: Path) -> str | None:
        """Where a setting was given: a file, a variable, "arguments"; None: it has its default."""
        return _origin(self.sources, path)


def load(path: str | os.PathLike[str] | None = None, **overrides: Any) -> Config:
    """The configuration, checked as a whole.

    Args:
        path: a TOML file, or a pyproject.toml with a table [tool.dspex]. By default what the variable
            DSPEX_CONFIG names, else `dspex.toml` in the working directory, else `pyproject.toml` there if it
            has the table, else none.
        overrides: settings by their names in `Config`, which count more than the environment variables
            DSPEX_*, and those more than the file. Tables are merged, lists are not.

    Raises:
        ConfigError: a named file does not exist or is no TOML; an unknown setting or variable; a value that
            does not fit. `field` is the setting's dotted path, and the message says where it was given.
    """
    return read(path, **overrides).config


def read(path: str | os.PathLike[str] | None = None, **overrides: Any) -> Loaded:
    """As `load`, with what is from where."""
    found = places.find_file(path)
    others: list[Source] = [Arguments(overrides)]
    if found is not None:
        others.append(FromFile(found))
    sources = [source for source in (others[0], Environment(others), *others[1:]) if source.values]
    return Loaded(_checked(sources), tuple(sources))


def _checked(sources: list[Source]) -> Config:
    if not sources:
        return Config()
    from dspex.config.merge import merged

    try:
        return Config.model_validate(merged(sources))
    except ValidationError as error:
        found = problem(error, lambda path: names_at(Config, path))
        origin = _origin(sources, found.path)
        message = found.message if origin is None else f"{found.message}, in {origin}"
        raise ConfigError(message, field=dotted(found.path) or None, hint=found.hint) from None


def _origin(sources: tuple[Source, ...] | list[Source], path: Path) -> str | None:
    for length in range(len(path), 0, -1):  # what is missing was not given, but its group was
        for source in sources:
            if source.holds(path[:length]):
                return source.call(path[:length])
    return None
