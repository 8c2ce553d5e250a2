"""Counts of one hybrid program's routes."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

__all__ = ["Tally", "summary"]


class Tally:
    """What became of a program's calls. The native path counts nothing but the call: its answers are what is
    left when all others are taken off.

    Attributes:
        failed: calls that ended with an error.
    """

    __slots__ = ("_counts", "_lock", "_main", "_routes", "_taken", "failed")

    def __init__(self) -> None:
        self.failed = 0
        self._routes: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._main: tuple[str, bool] = ("native", False)
        self._taken = 0  # calls that are counted here, or will be when they end
        self._lock = threading.Lock()

    def take(self, rows: int = 1) -> None:
        """These calls will be counted by `answered`, or given back."""
        with self._lock:
            self._taken += rows

    def give_back(self, rows: int = 1) -> None:
        """The opposite of `take`."""
        self.take(-rows)

    def answered(self, backend: str, *, degraded: bool = False, rows: int = 1) -> None:
        """Counts answers to calls that were taken."""
        with self._lock:
            self._routes[backend] += rows
            if degraded:
                self._counts["degraded"] += rows

    def answered_at_once(self, backend: str, *, degraded: bool = False) -> None:
        """`take` and `answered` in one."""
        with self._lock:
            self._taken += 1
            self._routes[backend] += 1
            if degraded:
                self._counts["degraded"] += 1

    def note(self, what: str, rows: int = 1) -> None:
        """Counts "deferred", "fallbacks", "hedges", "hedges_won" or "hedges_lost"."""
        with self._lock:
            self._counts[what] += rows

    def error(self, rows: int = 1) -> None:
        """Counts calls that ended with an error, and were not taken or have been given back."""
        with self._lock:
            self.failed += rows
            self._taken += rows

    def settle(self, calls: int, backend: str, *, degraded: bool = False) -> None:
        """Writes down the calls that nothing was counted of; from here on such calls go to another backend.

        Args:
            calls: how many there were in all.
        """
        with self._lock:
            self._routes, self._counts = self._settled(calls)
            self._taken = max(calls, self._taken)
            self._main = backend, degraded

    def totals(self, calls: int) -> Counter[str]:
        """All counts, given how many calls there were."""
        with self._lock:
            routes, counts = self._settled(calls)
            named = {f"route {name}": count for name, count in routes.items() if count}
            return Counter({**named, **counts, "failed": self.failed})

    def _settled(self, calls: int) -> tuple[Counter[str], Counter[str]]:
        (backend, degraded), rest = self._main, max(calls - self._taken, 0)
        more = Counter({"degraded": rest}) if degraded else Counter[str]()
        return self._routes + Counter({backend: rest}), self._counts + more


def summary(totals: Counter[str]) -> dict[str, Any]:
    """Counts as they are shown, with the coverage: the share of answers that native programs gave, those that
    stood in for a better backend left out.
    """
    routes = {key.removeprefix("route "): n for key, n in totals.items() if key.startswith("route ")}
    answers = sum(routes.values())
    own = sum(count for name, count in routes.items() if name.startswith("native")) - totals["degraded"]
    return {
        "routes": routes,
        "deferred": totals["deferred"],
        "fallbacks": totals["fallbacks"],
        "degraded": totals["degraded"],
        "hedges": {
            "started": totals["hedges"],
            "won": totals["hedges_won"],
            "lost": totals["hedges_lost"],
        },
        "coverage": own / answers if answers else None,
    }
