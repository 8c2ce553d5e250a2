"""Sums over the last so many seconds."""

from __future__ import annotations

__all__ = ["RollingWindow"]


class RollingWindow:
    """Two sums over the time just past, kept in slots. Not locked.

    Holds the current slot, which is partly filled, and the `slots - 1` before it: an amount is forgotten when
    it is between `(slots - 1) * width` and `slots * width` seconds old.

    Attributes:
        first, second: the sums.
    """

    __slots__ = ("_firsts", "_now", "_seconds", "first", "second", "slots", "width")

    def __init__(self, width: float, slots: int) -> None:
        self.width = width
        self.slots = slots
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._now = 0  # the number of the current slot
        self._firsts: list[float] = [0] * self.slots
        self._seconds: list[float] = [0] * self.slots
        self.first: float = 0
        self.second: float = 0

    def add(self, now: float, first: float, second: float) -> None:
        """Adds amounts at a time."""
        slot = int(now / self.width)
        if slot > self._now:
            self._roll(slot)
        at = self._now % self.slots
        self._firsts[at] += first
        self._seconds[at] += second
        self.first += first
        self.second += second

    def roll(self, now: float) -> None:
        """Forgets what is too old by then."""
        slot = int(now / self.width)
        if slot > self._now:
            self._roll(slot)

    def seconds_until(self, now: float, first: float | None, second: float | None) -> float:
        """Seconds until each sum is below its limit, if nothing is added; None: it has no limit."""
        self.roll(now)
        sum1, sum2, until = self.first, self.second, now
        for slot in range(self._now - self.slots + 1, self._now + 1):
            if (first is None or sum1 < first) and (second is None or sum2 < second):
                break
            sum1 -= self._firsts[slot % self.slots]
            sum2 -= self._seconds[slot % self.slots]
            until = (slot + self.slots) * self.width  # then this slot is forgotten
        return max(0.0, until - now)

    def _roll(self, slot: int) -> None:
        for passed in range(max(self._now + 1, slot - self.slots + 1), slot + 1):
            self._firsts[passed % self.slots] = self._seconds[passed % self.slots] = 0
        self._now = slot
        self.first, self.second = sum(self._firsts), sum(self._seconds)  # anew: floats do not drift
