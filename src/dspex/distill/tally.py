"""What the calls of one plan came to, in numbers."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Iterable

from dspex.distill.coins import Coins

__all__ = ["Costs", "Tally"]


class Tally:
    """Counters of one version in one stage.

    Native answers are not counted, which would cost each of them: every call takes one coin, so they are the
    coins that were taken less the calls that went to the teacher.
    """

    def __init__(self, coins: Coins) -> None:
        self._coins = coins
        self._lock = threading.Lock()
        self._values: dict[str, float] = {"asked": 0}
        self._flushed: dict[str, float] = {}

    def note(self, **amounts: float) -> None:
        """Adds to counters."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] = self._values.get(name, 0) + amount

    def values(self) -> dict[str, float]:
        """name -> sum so far, with "native"."""
        taken = self._coins.taken  # first: what is asked meanwhile takes its coin before it is counted
        with self._lock:
            values = dict(self._values)
        values["native"] = max(0, taken - values["asked"])
        return values

    def unflushed(self) -> dict[str, float]:
        """What came since the last call of this method."""
        values = self.values()
        new = {name: value - self._flushed.get(name, 0) for name, value in values.items()}
        new = {name: value for name, value in new.items() if value > 0}
        for name, value in new.items():
            self._flushed[name] = self._flushed.get(name, 0) + value
        return new


class Costs:
    """What the teacher took of late; the medians say what a native answer saves."""

    def __init__(self, size: int = 500) -> None:
        self._usd: deque[float] = deque(maxlen=size)
        self._seconds: deque[float] = deque(maxlen=size)

    def add(self, usd: float | None, seconds: float | None) -> None:
        """Takes in one answer."""
        if usd is not None:
            self._usd.append(usd)
        if seconds is not None:
            self._seconds.append(seconds)

    def medians(self) -> tuple[float | None, float | None]:
        """(US dollars, seconds) of an answer; None where not known."""
        return _median(self._usd), _median(self._seconds)


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
