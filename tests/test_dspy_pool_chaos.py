"""Workers that run DSPy are killed at random under load: no call hangs, no answer is wrong, and every failed
call says what it was. DSPEX_STRESS=14 makes it 200 kills.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from typing import Any

from dspex.errors import CommunicationError
from dspex.testing.lm_server import LMServer
from dspy_pool_tools import (
    SERVER,
    borrowed,
    echo,
    error_of,
    in_background,
    in_threads,
    over,
    running,
    scaled,
    until,
)
from processes_tools import children, descriptors, linux

#: Seconds within which all workers are to be there again after the last kill. More where the first ones took
#: more, because other work goes on: a start is half a second of CPU.
AGAIN = 2.0
WORKERS = 4
LOAD = {"lm": {"limits": {"concurrency": 16}}, "dspy_pool": {"size": WORKERS}}


class Killer:
    """Kills random workers, one after another, and notes how long they took to be replaced."""

    def __init__(self, adapter: Any, kills: int, pause: float) -> None:
        self.killed: set[int] = set()
        self.took = 0.0
        self._adapter = adapter
        self._wanted = kills
        self._pause = pause
        self.outcome = in_background(self._run)

    def _run(self) -> None:
        dice = random.Random(11)
        while len(self.killed) < self._wanted:
            time.sleep(self._pause * dice.random() * 2)
            living = sorted({*self._adapter.pool.pids()} - self.killed)
            if living:
                pid = dice.choice(living)
                os.kill(pid, signal.SIGKILL)
                self.killed.add(pid)
        last = time.monotonic()
        until(lambda: running(self._adapter) == WORKERS, 60)
        self.took = time.monotonic() - last

    @property
    def done(self) -> bool:
        return self.outcome.done


def check(error: Exception, pid: str) -> None:
    assert isinstance(error, CommunicationError), error
    assert error.category == "communication"
    assert error.retryable
    assert error.program == pid
    assert "may have been begun" in error.message or "was not begun" in error.message


@linux
def test_kill_9_of_random_workers_under_load(lm_server: LMServer) -> None:
    lm_server.answers = echo
    counts: Counter[str] = Counter()
    before = descriptors(), children()
    start = time.monotonic()
    with over(lm_server, **LOAD) as adapter:
        again = max(AGAIN, 2 * (time.monotonic() - start))
        pid = adapter.create_program({"signature": "text -> reply", "kind": "chain_of_thought"})
        killer = Killer(adapter, scaled(15), 0.15)

        def work(number: int) -> int:
            dice, n, longest = random.Random(number), 0, 0.0
            while not killer.done:
                n += 1
                text = f"{number} {n} {dice.random()}"
                options = dice.choice([None, {"session": dice.choice("abc")}, {"timeout": 30.0}])
                start = time.monotonic()
                try:
                    reply = adapter.execute_program(pid, {"text": text}, options).reply
                except CommunicationError as error:
                    check(error, pid)
                    counts["failed"] += 1
                else:
                    assert reply == text[::-1]
                    counts["answered"] += 1
                longest = max(longest, time.monotonic() - start)
            assert longest < 10 * again
            return n

        async def one(n: int) -> None:
            try:
                assert (await adapter.aexecute_program(pid, {"text": f"task {n}"})).reply == f"task {n}"[::-1]
            except CommunicationError as error:
                check(error, pid)

        async def tasks() -> None:
            while not killer.done:
                await asyncio.gather(*map(one, range(5)))

        in_threads(
            lambda number: asyncio.run(tasks()) if number == 7 else work(number), 8, 60 + 3 * scaled(15)
        )
        killer.outcome.result()
        print(f"{counts}, all back after {killer.took:.2f} s; a start took {again / 2:.2f} s")
        assert killer.took < again, killer.took
        assert counts["answered"] > counts["failed"]
        stats = adapter.get_stats()
        assert stats["pool"]["lost"] == scaled(15)
        assert stats["pool"]["waiting"] == stats["lms"]["server"]["under_way"] == 0
        assert adapter.admissions._calls == {}
        for n in range(20):
            assert adapter.execute_program(pid, {"text": str(n)}).reply == str(n)[::-1]
    assert (descriptors(), children()) == before


@linux
def test_a_pool_whose_workers_are_all_gone_comes_back() -> None:
    with borrowed() as adapter:
        SERVER.answers, SERVER.delay = echo, 0.3
        pid = adapter.create_program({"signature": "text -> reply"})
        calls = [
            in_background(lambda: error_of(lambda: adapter.execute_program(pid, {"text": "x"})))
            for _ in range(2)
        ]
        until(lambda: SERVER.in_flight == 2)
        for worker in adapter.pool.pids():
            os.kill(worker, signal.SIGKILL)
        for call in calls:
            check(call.result(), pid)
        SERVER.delay = 0.0
        assert adapter.execute_program(pid, {"text": "abc"}).reply == "cba"
