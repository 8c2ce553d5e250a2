"""Adapters by name: the built-in ones, those registered here, and those that other packages offer."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dspex.adapters.base import Adapter
from dspex.errors import ConfigError, DspexError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BUILTIN",
    "ENTRY_POINT_GROUP",
    "Factory",
    "Registry",
    "available",
    "create",
    "get",
    "register",
    "unregister",
]

#: Makes an adapter; called with that adapter's settings as keywords.
Factory = Callable[..., Adapter]

#: The entry-point group through which other packages offer adapters.
ENTRY_POINT_GROUP = "dspex.adapters"

#: Name to "module:attribute"; imported on first use.
BUILTIN = {
    "bridge_mock": "dspex.adapters.bridge_mock:BridgeMockAdapter",
    "dspy": "dspex.adapters.dspy:DspyAdapter",
    "dspy_pool": "dspex.adapters.dspy_pool:DspyPoolAdapter",
    "hybrid": "dspex.adapters.hybrid:HybridAdapter",
    "mock": "dspex.adapters.mock:MockAdapter",
    "native": "dspex.adapters.native:NativeAdapter",
    "native_pool": "dspex.adapters.native_pool:NativePoolAdapter",
}

#: Names that mean something other than one adapter.
_RESERVED = frozenset({"auto"})


def _installed() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    return entry_points(group=ENTRY_POINT_GROUP)


class Registry:
    """Adapter factories by name. There is no default: an unknown name is an error.

    Args:
        installed: gives the entry points; asked once, on the first name that is not known otherwise.
    """

    def __init__(self, installed: Callable[[], Iterable[EntryPoint]] = _installed) -> None:
        self._installed = installed
        self._registered: dict[str, Factory] = {}
        self._offers: dict[str, list[EntryPoint]] | None = None
        self._lock = threading.RLock()

    def register(self, name: str, factory: Factory, *, replace: bool = False) -> None:
        """Makes `factory` the adapter of that name.

        Raises:
            ConfigError: the name is taken and `replace` is not set, is reserved or not a string; or the
                factory cannot be called.
        """
        if not isinstance(name, str) or not name.strip() or name in _RESERVED:
            raise ConfigError(f"an adapter cannot be registered as {name!r}", hint="Choose another name")
        if not callable(factory):
            raise ConfigError(f"the factory of adapter {name!r} cannot be called")
        with self._lock:
            if not replace and (name in BUILTIN or name in self._registered or name in self._scan()):
                raise ConfigError(
                    f"an adapter {name!r} exists already",
                    hint="Choose another name, or say replace=True",
                )
            self._registered[name] = factory

    def unregister(self, name: str) -> None:
        """Takes back a registration; a built-in or installed adapter of that name is itself again.

        Raises:
            ConfigError: nothing was registered under the name.
        """
        with self._lock:
            if self._registered.pop(name, None) is None:
                raise ConfigError(
                    f"no adapter was registered as {name!r}", hint=nearest(name, self._registered)
                )

    def get(self, name: str) -> Factory:
        """The factory of that name.

        Raises:
            ConfigError: there is none, or it cannot be imported; for an adapter of another package
                the message names that package.
        """
        with self._lock:
            if not isinstance(name, str):
                raise ConfigError(f"an adapter name is a string, not {type(name).__name__}")
            if name in self._registered:
                return self._registered[name]
            if name in BUILTIN:
                module, attribute = BUILTIN[name].split(":")
                factory: Factory = getattr(importlib.import_module(module), attribute)
                return factory
            offers = self._scan().get(name)
            if not offers:
                raise ConfigError(f"unknown adapter {name!r}", hint=nearest(name, self.available()))
            self._registered[name] = _load(name, offers)
            return self._registered[name]

    def create(self, name: str, **settings: Any) -> Adapter:
        """A new adapter of that name.

        Raises:
            ConfigError: as `get`; or the settings do not fit, or what comes is not an Adapter.
        """
        factory = self.get(name)
        try:
            adapter = factory(**settings)
        except DspexError:
            raise
        except Exception as error:
            raise ConfigError(f"adapter {name!r} could not be made: {error}") from error
        if not isinstance(adapter, Adapter):
            raise ConfigError(
                f"the factory of adapter {name!r} gave a {type(adapter).__name__}",
                hint="It has to give a dspex.adapters.Adapter",
            )
        return adapter

    def available(self) -> list[str]:
        """Every known name, sorted; packages that offer one are not imported."""
        with self._lock:
            return sorted({*BUILTIN, *self._registered, *self._scan()})

    def _scan(self) -> dict[str, list[EntryPoint]]:
        if self._offers is None:
            offers: dict[str, list[EntryPoint]] = {}
            for point in self._installed():
                if point.name in BUILTIN or point.name in _RESERVED:
                    warnings.warn(
                        f"package {_owner(point)!r} offers an adapter {point.name!r}, which is dspex's own "
                        "name: it is not used",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                else:
                    offers.setdefault(point.name, []).append(point)
            self._offers = offers
        return self._offers


def _load(name: str, offers: list[EntryPoint]) -> Factory:
    owners = sorted({_owner(point) for point in offers})
    if len({point.value for point in offers}) > 1:
        raise ConfigError(
            f"more than one package offers an adapter {name!r}: {', '.join(owners)}",
            hint="Uninstall all but one, or register the one you mean",
        )
    try:
        factory = offers[0].load()
    except Exception as error:
        raise ConfigError(
            f"adapter {name!r} of package {owners[0]!r} cannot be imported: {type(error).__name__}: {error}",
            hint=f"Repair or uninstall {owners[0]}",
        ) from error
    if not callable(factory):
        raise ConfigError(
            f"adapter {name!r} of package {owners[0]!r} is a {type(factory).__name__}, not a factory",
            hint=f"Repair or uninstall {owners[0]}",
        )
    loaded: Factory = factory
    return loaded


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


_default = Registry()
register = _default.register
unregister = _default.unregister
get = _default.get
create = _default.create
available = _default.available
