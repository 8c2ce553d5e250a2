"""Threads and tasks that call without a pause, and what becomes of every call of theirs."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from benchmarks.rounds import Figures
from benchmarks.routes.programs import SQUARES
from dspex.result import Result

PROGRAM = "squares"
SPEC = {"id": PROGRAM, "signature": SQUARES}
_PATIENCE_S = 5.0
"""Beyond its deadline: who has not come back by then hangs."""


class Load:
    """Asks for the squares of 1, 2, 3 and so on, within a `with` statement. What stands in for an LM's answer
    is a native estimate, and cannot be wrong.

    Attributes:
        failed: errors by (category, whether trying again helps).
        latest_s: the most by which a call ended after its deadline.
    """

    def __init__(self, adapter: Any, *, timeout: float, threads: int = 8, tasks: int = 8) -> None:
        self.failed: Counter[tuple[str, bool]] = Counter()
        self.latest_s = 0.0
        self._adapter = adapter
        self._options = {"timeout": timeout}
        self._numbers = itertools.count(1)  # its next() is atomic
        self._counts: Counter[str] = Counter()
        self._ends: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._began = time.perf_counter()
        self._threads = [threading.Thread(target=self._one_by_one, daemon=True) for _ in range(threads)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._in_tasks(tasks)), daemon=True))

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        end = time.perf_counter() + self._options["timeout"] + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.perf_counter()))
        self._passed = time.perf_counter() - self._began

    def figures(self) -> Figures:
        """What became of the calls. Lost: without an end. Twice: with two. Miscounted: by how much the
        adapter's own counts differ from these.
        """
        calls, counts, stats = next(self._numbers) - 1, self._counts, self._adapter.get_stats()
        failed = sum(self.failed.values())
        miscounted = abs(stats["calls"] - calls) + abs(sum(stats["errors"].values()) - failed)
        return {
            "calls": float(calls),
            "calls/s": calls / self._passed,
            "answered": float(counts["answered"]),
            "instead": float(counts["instead"]),
            "failed": float(failed),
            "wrong": float(counts["wrong"]),
            "lost": float(calls - len(self._ends)),
            "twice": float(sum(count > 1 for count in self._ends.values())),
            "miscounted": float(miscounted),
            "late ms": self.latest_s * 1000,
        }

    def _one_by_one(self) -> None:
        execute = self._adapter.execute_program
        while not self._stop.is_set():
            number, begin = next(self._numbers), time.perf_counter()
            try:
                outcome: Any = execute(PROGRAM, {"number": number}, self._options)
            except Exception as error:
                outcome = error
            self._ended(number, begin, outcome)

    async def _in_tasks(self, count: int) -> None:
        async def one_by_one() -> None:
            execute = self._adapter.aexecute_program
            while not self._stop.is_set():
                number, begin = next(self._numbers), time.perf_counter()
                try:
                    outcome: Any = await execute(PROGRAM, {"number": number}, self._options)
                except Exception as error:
                    outcome = error
                self._ended(number, begin, outcome)

        await asyncio.gather(*(one_by_one() for _ in range(count)))

    def _ended(self, number: int, begin: float, outcome: Result | Exception) -> None:
        late = time.perf_counter() - begin - self._options["timeout"]
        with self._lock:
            self._ends[number] += 1
            self.latest_s = max(self.latest_s, late)
            if isinstance(outcome, Exception):
                category = getattr(outcome, "category", type(outcome).__name__)
                self.failed[category, getattr(outcome, "retryable", False)] += 1
            elif outcome.route.degraded:
                self._counts["instead"] += 1
            else:
                self._counts["answered" if outcome.square == number**2 else "wrong"] += 1


def told(failed: Counter[tuple[str, bool]]) -> str:
    """Errors in words."""
    ways = {True: "may be tried again", False: "not to be tried again"}
    said = [f"{count:,} {kind} ({ways[again]})" for (kind, again), count in failed.most_common()]
    return ", ".join(said) or "none"
