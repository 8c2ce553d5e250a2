"""Workers are killed at random while many threads and tasks call: no call hangs, none is answered wrongly,
every failed one says what it was, and the pool is soon whole again.

DSPEX_STRESS=10 makes it 200 kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest

from dspex.errors import CallTimeoutError, CommunicationError
from processes_tools import (
    after,
    children,
    descriptors,
    in_background,
    in_threads,
    linux,
    pool,
    scaled,
    until,
)

#: Seconds within which all workers are to be there again after the last kill; more where the first ones took
#: more, on a slow machine or beside other work.
AGAIN = 2.0


class Killer:
    """Kills random workers, one after another, in a thread."""

    def __init__(
        self, p: Any, kills: int, pause: float, signals: tuple[int, ...] = (signal.SIGKILL,)
    ) -> None:
        self.last = 0.0
        self.killed: set[int] = set()
        self._pool = p
        self._wanted = kills
        self._pause = pause
        self._signals = signals
        self.outcome = in_background(self._run)

    def _run(self) -> None:
        dice = random.Random(7)
        while len(self.killed) < self._wanted:
            time.sleep(self._pause * dice.random() * 2)
            pids = [pid for pid in self._pool.pids() if pid not in self.killed]
            if pids:
                victim = dice.choice(pids)
                with contextlib.suppress(ProcessLookupError):  # it has been replaced meanwhile
                    os.kill(victim, dice.choice(self._signals))
                    self.killed.add(victim)
        self.last = time.monotonic()

    @property
    def done(self) -> bool:
        return self.outcome.done


def checked(answer: Any, n: int) -> None:
    assert answer[:2] == [n, n * n]


def check_broken(error: CommunicationError) -> None:
    assert error.retryable
    assert "may have been begun" in error.message
    assert error.category == "communication"


@linux
def test_kill_9_of_random_workers_under_load() -> None:
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    before = descriptors(), children()
    start = time.monotonic()
    with pool(size=4) as p:
        again = max(AGAIN, 5 * (time.monotonic() - start))
        killer = Killer(p, scaled(20), 0.03)

        def work(number: int) -> None:
            dice = random.Random(number)
            n = 0
            while not killer.done:
                n += 1
                start = time.monotonic()
                session = dice.choice([None, None, "a", "b"])
                try:
                    checked(p.call("square", n, session=session, deadline=after(10)), n)
                    outcome = "answered"
                except CommunicationError as error:
                    check_broken(error)
                    outcome = "failed"
                assert time.monotonic() - start < 5
                with lock:
                    counts[outcome] += 1

        async def tasks() -> None:
            async def one(n: int) -> None:
                try:
                    checked(await p.acall("square", n, deadline=after(10)), n)
                except CommunicationError as error:
                    check_broken(error)

            while not killer.done:
                await asyncio.gather(*(one(n) for n in range(5)))

        in_threads(lambda number: asyncio.run(tasks()) if number == 0 else work(number), 7)
        killer.outcome.result()
        whole = {"lost": scaled(20), "workers": 4, "starting": 0}
        until(lambda: p.stats().items() >= whole.items(), again - (time.monotonic() - killer.last))
        stats = p.stats()
        assert counts["answered"] > 5 * counts["failed"]
        assert stats["waiting"] == 0
        assert p.health()
        for n in range(50):
            checked(p.call("square", n), n)
    assert (descriptors(), children()) == before


@linux
def test_stops_and_kills_with_deadlines() -> None:
    """A stopped worker costs the call its deadline, not more; pings find those that are idle."""
    with pool(size=3, ping_interval=0.1, ping_timeout=0.3) as p:
        killer = Killer(p, scaled(8), 0.08, (signal.SIGSTOP, signal.SIGKILL))
        late = []

        def work(number: int) -> None:
            n = 0
            while not killer.done:
                n += 1
                start = time.monotonic()
                with contextlib.suppress(CommunicationError, CallTimeoutError):
                    checked(p.call("square", n, deadline=after(0.4)), n)
                took = time.monotonic() - start
                if took > 0.5:
                    late.append(took)

        in_threads(work, 4)
        killer.outcome.result()
        until(lambda: p.stats()["workers"] == 3 and bool(p.health()), 10)
        assert max(late, default=0) < 1.4, late


@linux
@pytest.mark.parametrize("size", [1, 3])
def test_workers_that_kill_themselves(size: int) -> None:
    """Each call may be its worker's last: those that are not begun go on to another one."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    with pool(size=size) as p:

        def work(number: int) -> None:
            dice = random.Random(number)
            for n in range(scaled(12)):
                op = dice.choice(["square"] * 9 + ["exit", "kill"])
                if op == "square":
                    checked(p.call(op, n, deadline=after(20)), n)
                else:
                    with pytest.raises(CommunicationError, match="may have been begun"):
                        p.call(op, n, deadline=after(20))
                with lock:
                    counts[op] += 1

        in_threads(work, 4)
        assert sum(counts.values()) == 4 * scaled(12)
        assert p.stats()["broken"] == counts["exit"] + counts["kill"]
        until(lambda: p.stats()["workers"] == size)


@linux
def test_every_worker_at_once_again_and_again() -> None:
    start = time.monotonic()
    with pool(size=3) as p:
        again = max(AGAIN, 5 * (time.monotonic() - start))
        for _ in range(scaled(3)):
            for pid in p.pids():
                os.kill(pid, signal.SIGKILL)
            assert p.call("echo", 1, deadline=after(10)) == 1
            until(lambda: p.stats()["workers"] == 3, again)
