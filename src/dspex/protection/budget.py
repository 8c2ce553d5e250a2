"""What a program may spend on language models in a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dspex.errors import ResourceError
from dspex.protection.waiting import forget_in_child
from dspex.protection.window import RollingWindow

if TYPE_CHECKING:
    from dspex.config import BudgetSettings

__all__ = ["Budget"]

_SLOTS: Final = 97  # an amount counts for the window, and up to a 96th of it longer: never for less


class Budget:
    """Tokens and US dollars of one program over a sliding window. Safe to use from many threads.

    What a request costs is known when it has ended: those under way when a budget is used up still end, and
    are charged. Counts in this process, from 0.
    """

    def __init__(self, settings: BudgetSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._spent = RollingWindow(settings.window / (_SLOTS - 1), _SLOTS)  # tokens, US dollars
        self._refused = 0
        forget_in_child(self)

    def check(self, program: str | None) -> None:
        """Nothing, while some of each is left.

        Raises:
            ResourceError: a limit is reached; `retry_after` says when that is over.
        """
        limits, spent = self._settings, self._spent
        now = self._clock()
        with self._lock:
            wait = spent.seconds_until(now, limits.tokens, limits.usd)
            tokens, usd = spent.first, spent.second
            self._refused += wait > 0
        if wait == 0:
            return
        used_up = {}
        if limits.tokens is not None and tokens >= limits.tokens:
            used_up["budget.tokens"] = f"{tokens:.0f} of {limits.tokens} tokens"
        if limits.usd is not None and usd >= limits.usd:
            used_up["budget.usd"] = f"{usd:.6g} of {limits.usd:.6g} US dollars"
        raise ResourceError(
            f"the budget is used up: {' and '.join(used_up.values())} in {limits.window:g} s",
            program=program,
            field=next(iter(used_up)),
            hint="Try again later, or raise the budget",
            retry_after=wait,
        )

    def charge(self, tokens: int | None, usd: float | None) -> None:
        """Counts what a request used; None: not known, and not counted."""
        now = self._clock()
        with self._lock:
            self._spent.add(now, tokens or 0, usd or 0.0)

    def stats(self) -> dict[str, Any]:
        """What was spent in the window and what is allowed, JSON-able."""
        with self._lock:
            self._spent.roll(self._clock())
            return {
                "tokens": int(self._spent.first),
                "usd": float(self._spent.second),
                "limits": {"tokens": self._settings.tokens, "usd": self._settings.usd},
                "window": self._settings.window,
                "refused": self._refused,
            }

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
