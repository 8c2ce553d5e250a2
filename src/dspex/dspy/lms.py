"""The LMs of one adapter: made once from their settings, each with its guard, asked through a chain."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import dspy

from dspex.config import BreakerSettings, Config, LimitSettings, LMSettings, RetrySettings
from dspex.dspy.failures import judge
from dspex.dspy.making import digest, made_lm
from dspex.dspy.protect import disconnect, is_protected, observed, protect
from dspex.errors import ConfigError, DspexError, ProgramError, nearest
from dspex.protection import Chain, Link, LMGuard
from dspex.protection.waiting import forget_in_child

__all__ = ["DEFAULT", "Guarding", "LMs"]

#: The name of the LM that `configure_lm` sets.
DEFAULT = "default"

_RECENT = 32  # LMs made from the settings of a call that are kept, with their connections


class Guarding(Protocol):
    """Makes what lets requests of one LM through; in a worker process that asks the parent's."""

    def __call__(self, name: str, limits: LimitSettings, breaker: BreakerSettings, /) -> LMGuard: ...


class LMs:
    """LMs by name. Safe to use from many threads; an LM that is replaced serves the calls under way.

    Args:
        config: names and settings.
        guarding: makes the guards.
    """

    def __init__(self, config: Config, guarding: Guarding = LMGuard) -> None:
        self._guarding = guarding
        self._settings: dict[str, LMSettings] = dict(config.lms)
        self._default = config.default_lm
        self._guards: dict[str, LMGuard] = {}
        self._lock = threading.RLock()
        self._closed = False
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        """No LM is made yet."""
        self._plain: dict[str, Any] = {}  # name -> observed LM
        self._asked: dict[str, Any] = {}  # name -> protected LM
        # Made from settings that are no name's, by digest: shared while a program or a recent call has them.
        self._own: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Any] = OrderedDict()
        self._foreign: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        for lms in (self._plain, self._asked, self._own, self._foreign):
            for lm in list(lms.values()):
                disconnect(lm)

    def configure(self, settings: Mapping[str, Any] | LMSettings) -> None:
        """Makes an LM of these settings the default.

        Raises:
            ConfigError: a setting that does not exist or does not fit.
        """
        checked = LMSettings.of(settings, at="lm")
        self._check_fallbacks(checked, DEFAULT)
        lm = observed(DEFAULT, made_lm(checked), checked.prices)
        with self._lock:
            self._require_open()
            self._settings[DEFAULT] = checked
            self._default = DEFAULT
            self._guards.pop(DEFAULT, None)
            self._plain[DEFAULT] = lm
            self._asked[DEFAULT] = self._chained(DEFAULT, checked, lm, self._guard(DEFAULT))
            for made in [*self._asked.values(), *self._own.values()]:  # those that fall back to it
                if DEFAULT in [link.name for link in made._dspex_links[1:]]:
                    self._chain(made, made._dspex_links[0], made._dspex_fallbacks)

    def get(self, wanted: Any, program: str | None = None) -> Any:
        """The protected LM that is meant by a name, by settings, by an LM of DSPy's, or by None: the default.

        Without a default it is the one of `dspy.settings`. Equal settings mean one LM, with one guard.

        Raises:
            ConfigError: there is none of that name, or none at all; or the settings do not fit.
        """
        if wanted is None:
            wanted = self._default
            if wanted is None:
                return self._users(program)
        if isinstance(wanted, str):
            return self._asked.get(wanted) or self._named(wanted, program)
        if isinstance(wanted, Mapping):
            return self._of_settings(LMSettings.of(wanted, at="lm"))
        if isinstance(wanted, dspy.BaseLM):
            return self._wrapped(wanted)
        raise ConfigError(
            f"an LM is a name, settings or a dspy.BaseLM, not {type(wanted).__name__}",
            field="lm",
            program=program,
        )

    @staticmethod
    def refusal(lm: Any) -> DspexError | None:
        """What a protected LM and all it falls back to would say at once; None: one would be asked."""
        first = None
        for link in getattr(lm, "_dspex_links", ()):  # a decision client has none
            refusal: DspexError | None = link.guard.peek()
            if refusal is None:
                return None
            first = first or refusal
        return first

    @property
    def default(self) -> str | None:
        """The name of the default LM."""
        return self._default

    def stats(self) -> dict[str, Any]:
        """What the guards have counted, by LM. LMs without a name have their model's."""
        with self._lock:
            guards = dict(self._guards)
            for made in [*self._own.values(), *self._foreign.values()]:
                link = made._dspex_links[0]
                guards[_unused(link.name.partition("#")[0], guards)] = link.guard
        return {name: guard.stats() for name, guard in guards.items()}

    def close(self) -> None:
        """Closes the connections of the LMs made here. No LM can be had any more."""
        with self._lock:
            self._closed = True
            made = [*self._plain.values(), *self._own.values()]
            self._begin()
        for lm in made:
            close = getattr(lm, "close", None)
            if close is not None:
                close()

    def _require_open(self) -> None:
        if self._closed:
            raise ProgramError("the LMs are closed with their adapter")

    def _require(self, name: str, field: str, program: str | None = None) -> LMSettings:
        try:
            return self._settings[name]
        except KeyError:
            hint = nearest(name, self._settings) if self._settings else "No LM is configured"
            raise ConfigError(f"no LM is named {name!r}", field=field, program=program, hint=hint) from None

    def _check_fallbacks(self, settings: LMSettings, name: str) -> None:
        for other in settings.fallbacks:
            self._require(other, "lm.fallbacks")
            if other == name:
                raise ConfigError("an LM cannot stand in for itself", field="lm.fallbacks")

    def _guard(self, name: str) -> LMGuard:
        if name not in self._guards:
            settings = self._require(name, "lm")
            self._guards[name] = self._guarding(name, settings.limits, settings.breaker)
        return self._guards[name]

    def _named(self, name: str, program: str | None) -> Any:
        with self._lock:
            self._require_open()
            if name not in self._asked:
                settings = self._require(name, "lm", program)
                self._asked[name] = self._chained(name, settings, self._observed(name), self._guard(name))
            return self._asked[name]

    def _observed(self, name: str) -> Any:
        if name not in self._plain:
            settings = self._require(name, "lm")
            self._plain[name] = observed(name, made_lm(settings, f"lms.{name}"), settings.prices)
        return self._plain[name]

    def _chained(self, name: str, settings: LMSettings, lm: Any, guard: LMGuard) -> Any:
        made = lm.copy()
        self._chain(made, Link(name, guard, settings.retry), settings.fallbacks)
        return made

    def _chain(self, lm: Any, first: Link, fallbacks: tuple[str, ...]) -> None:
        """Has an observed LM ask through a chain from now on."""
        links = [Link(name, self._guard(name), self._require(name, "lm").retry) for name in fallbacks]
        others = {name: self._observed(name) for name in fallbacks}
        protect(lm, Chain([first, *links], classify=judge), others, fallbacks)

    def _of_settings(self, settings: LMSettings) -> Any:
        name = f"{settings.model}#{digest(settings)}"
        with self._lock:
            self._require_open()
            made = self._own.get(name)
            if made is None:
                self._check_fallbacks(settings, name)
                lm = observed(settings.model, made_lm(settings), settings.prices)
                guard = self._guarding(name, settings.limits, settings.breaker)
                made = self._own[name] = self._chained(name, settings, lm, guard)
            self._recent[name] = made
            self._recent.move_to_end(name)
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return made

    def _wrapped(self, lm: Any) -> Any:
        """An LM of the user's own, protected with the default settings."""
        if is_protected(lm):
            return lm
        with self._lock:
            self._require_open()
            made = self._foreign.get(lm)
            if made is None:
                settings = LMSettings(model=lm.model, retry=RetrySettings(attempts=1 + lm.num_retries))
                guard = self._guarding(lm.model, settings.limits, settings.breaker)
                made = self._chained(lm.model, settings, observed(lm.model, lm), guard)
                # What the user changes there later is meant here too.
                made.kwargs, made.callbacks, made.history = lm.kwargs, lm.callbacks, lm.history
                self._foreign[lm] = made
            return made

    def _users(self, program: str | None) -> Any:
        lm = dspy.settings.lm
        if isinstance(lm, dspy.BaseLM):
            return self._wrapped(lm)
        known = ", ".join(repr(name) for name in self._settings)
        raise ConfigError(
            "no language model is configured" if not known else f"none of the LMs {known} is the default",
            field="lm",
            program=program,
            hint="Call configure_lm({'model': 'openai/gpt-4o-mini'}), or name one in dspex.toml",
        )


def _unused(name: str, names: Mapping[str, Any]) -> str:
    number, unused = 1, name
    while unused in names:
        number += 1
        unused = f"{name} ({number})"
    return unused
