"""Things by import path, "package.module:Name": how programs, tools and engines travel to other processes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from dspex.errors import ConfigError

__all__ = ["import_path", "imported"]


def imported(path: str, at: str | None = None) -> Any:
    """What stands at "package.module:Name".

    Args:
        at: the setting or the key that names it, for errors.

    Raises:
        ConfigError: nothing does, or its module cannot be imported.
    """
    module, _, name = path.partition(":")
    if module == "__main__":
        raise ConfigError(
            f"{path!r} cannot be imported by other processes",
            field=at,
            hint="Move it into a module of its own",
        )
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigError(
            f"{path!r} cannot be imported: {type(error).__name__}: {error}", field=at
        ) from error
    return found


def import_path(thing: Any) -> str | None:
    """The path under which another process finds the same class or function, or None."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module in (None, "__main__", "__mp_main__") or not name or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is thing else None
