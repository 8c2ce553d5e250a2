"""The adapters that the hybrid one drives: made when first needed, told of the LM, closed with it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspex.adapters import registry
from dspex.adapters.base import Adapter, check_lm_config, closed_error
from dspex.errors import ConfigError, nearest
from dspex.routing import BACKENDS
from dspex.spec import DSPY_KINDS, ProgramSpec

if TYPE_CHECKING:
    from dspex.adapters.native import NativeAdapter
    from dspex.config import Config

__all__ = ["Backends"]


class Backends:
    """Adapters by backend. Safe to use from many threads.

    Args:
        config: for those made here.
        given: adapters of the caller's, used in place of new ones; they stay open. A mapping whose
            `tells_lm` is true tells them of the LM itself.

    Raises:
        ConfigError: an adapter given for what is no backend.
    """

    def __init__(self, config: Config | None, given: Mapping[str, Adapter]) -> None:
        for name in given:
            if name not in BACKENDS:
                raise ConfigError(f"there is no backend {name!r}", hint=nearest(str(name), BACKENDS))
        self._config = config
        self._given = given
        self._used: dict[str, Adapter] = {}
        self._lm: dict[str, Any] | None = None
        self._closed = False
        self._lock = threading.RLock()

    def get(self, name: str) -> Adapter:
        """The adapter of that backend.

        Raises:
            ConfigError: it cannot be made, or is not fit for its place.
        """
        found = self._used.get(name)
        if found is not None:
            return found
        with self._lock:
            if self._closed:
                raise closed_error("the hybrid adapter")
            if name not in self._used:
                made = self._given[name] if name in self._given else self._make(name)
                self._check(name, made)
                if self._lm is not None and name not in self._given and not _is_native(name):
                    made.configure_lm(self._lm)
                self._used[name] = made
            return self._used[name]

    def native(self, name: str = "native") -> NativeAdapter:
        """The adapter of a native backend."""
        adapter: Any = self.get(name)
        native: NativeAdapter = adapter
        return native

    def in_use(self) -> dict[str, Adapter]:
        """Those that have been needed."""
        with self._lock:
            return dict(self._used)

    def stays(self, name: str) -> bool:
        """Whether it stays open after `close`."""
        return name in self._given

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        """Sets the LM of the DSPy backends, those to come included. Those given are told now, and only now:
        what their owner sets later stays.

        Raises:
            ConfigError: the settings are not those of an LM; nobody was told.
        """
        checked = check_lm_config(config)
        from dspex.config import LMSettings

        LMSettings.of(checked, at="lm")
        with self._lock:
            targets = {name: each for name, each in self._used.items() if name not in self._given}
            if not getattr(self._given, "tells_lm", False):
                targets |= self._given
            for name, adapter in targets.items():
                if not _is_native(name):
                    self._check(name, adapter)
                    adapter.configure_lm(checked)
            self._lm = checked

    def lm_of(self, spec: ProgramSpec) -> str | None:
        """Where a program's LM comes from, in words; None: none is known of."""
        if spec.lm is not None:
            return "the program has an LM of its own"
        if self._lm is not None:
            return "an LM is configured"
        if self._config is not None and self._config.default_lm is not None:
            return "an LM is configured"
        if _users_lm() is not None:
            return "dspy.settings has an LM"
        if spec.module is not None or spec.state is not None or spec.kind in DSPY_KINDS:
            return "the DSPy program may bring its LM"
        return None

    def close(self) -> None:
        """Closes the adapters made here."""
        with self._lock:
            self._closed = True
            used, self._used = self._used, {}
        for name, adapter in used.items():
            if name not in self._given:
                adapter.close()

    def _make(self, name: str) -> Adapter:
        if name == "native":
            return registry.create(name)
        if name == "native_pool":
            return registry.create(name, **(self._config.native_pool if self._config is not None else {}))
        from dspex.config import Config

        return registry.create(name, config=Config.of(self._config))

    @staticmethod
    def _check(name: str, adapter: Any) -> None:
        if _is_native(name):
            from dspex.adapters.native import NativeAdapter

            fits, wanted = isinstance(adapter, NativeAdapter), "a NativeAdapter"
        else:
            fits, wanted = isinstance(adapter, Adapter), "an Adapter"
        if not fits:
            raise ConfigError(
                f"a {type(adapter).__name__} cannot serve as backend {name!r}", hint=f"It has to be {wanted}"
            )


def _is_native(name: str) -> bool:
    return name.startswith("native")


def _users_lm() -> Any:
    """The LM of `dspy.settings`; who has set it has imported DSPy."""
    return getattr(getattr(sys.modules.get("dspy"), "settings", None), "lm", None)
