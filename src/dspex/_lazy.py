"""Names of a package that are imported when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, homes: Mapping[str, Iterable[str]], names: dict[str, Any]) -> Callable[[str], Any]:
    """A package's `__getattr__`.

    Args:
        package: its full name.
        homes: module of the package -> the names that it has.
        names: the package's `globals()`, which keep what was imported.
    """

    def get(name: str) -> Any:
        for module, known in homes.items():
            if name in known:
                value = names[name] = getattr(import_module(f"{package}.{module}"), name)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
