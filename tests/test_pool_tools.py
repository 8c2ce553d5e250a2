"""What the tests of the pool share. Holds no tests: it proves nothing by itself.

A worker is held busy by a probe that sleeps; `hold` returns the probes: a test whose premise is that they
still run says so with `still`. Given a time, they sleep that long, and otherwise until `let_go`.

DSPEX_STRESS=20 multiplies the counts of the long tests by 20.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import dspex
from dspex import Pool, Program
from dspex.pool import Future, PoolStats
from fit_tools import MIXED, inputs_of, mixed, quick, topical

T = TypeVar("T")
STRESS = float(os.environ.get("DSPEX_STRESS", "1"))
TASKS = Path("/proc/self/task")
linux = pytest.mark.skipif(not TASKS.exists(), reason="looks into /proc")
LONG = "unknownword " * 400_000  # about 0.2 s of work


def scaled(count: int) -> int:
    return max(1, round(count * STRESS))


@functools.cache
def simple() -> Program:
    """One text in, one label out."""
    return quick()


@functools.cache
def of_all_kinds() -> Program:
    """Inputs of every kind; outputs too."""
    return quick(MIXED, mixed(60))


def texts(count: int, seed: int = 1) -> list[dict[str, Any]]:
    return [{"text": row["text"]} for row in topical(count, seed=seed)]


def mixed_rows(count: int, seed: int = 2) -> list[dict[str, Any]]:
    return [inputs_of(of_all_kinds(), row) for row in mixed(count, seed=seed)]


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Waits for what nothing announces."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come about")
        time.sleep(0.0002)


def hold(pool: Pool, seconds: float = 2) -> list[Future]:
    """Keeps every worker busy from here on, for so long."""
    held: list[Future] = []
    for _ in range(pool.workers):  # one by one: there need not be room for all of them
        held.append(pool._probe(sleep=seconds))
        until(lambda: not pool.queued)
    until(lambda: still(held))
    return held


def let_go(held: Iterable[Future]) -> None:
    """The workers are free again."""
    for future in held:
        future._let_go()


def still(held: Iterable[Future]) -> bool:
    """The premise of many tests: nobody could take what was submitted meanwhile."""
    return all(future.running() for future in held)


def settled(pool: Pool) -> PoolStats:
    """The counters once all is over: a task is counted a moment after its future has ended."""
    until(lambda: pool.stats().total.ended == pool.stats().accepted)
    return pool.stats()


def in_threads(work: Callable[[int], Any], count: int = 8) -> None:
    """Runs work(0..count-1) at once; the first error is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def guarded(number: int) -> None:
        try:
            start.wait(30)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def new_loop(loop: str) -> asyncio.AbstractEventLoop:
    """One of asyncio's own kind, or of uvloop's, where that is installed."""
    if loop == "asyncio":
        return asyncio.new_event_loop()
    made: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return made


def run(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Runs it as asyncio.run does, on a loop of its own."""
    with asyncio.Runner(loop_factory=lambda: new_loop(loop)) as runner:
        return runner.run(main)


async def started(pool: Pool, rows: list[dict[str, Any]], **options: Any) -> list[asyncio.Task[Any]]:
    """A task for each row, begun in this order."""
    tasks = [asyncio.ensure_future(pool.acall(simple(), row, **options)) for row in rows]
    await asyncio.sleep(0)
    return tasks


def thread_ids() -> set[int]:
    """All threads of the process, Python's and others."""
    return {int(each.name) for each in TASKS.iterdir()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(work: Callable[[], Any]) -> int:
    """Bytes that the process grows by when work is done a second time, as it does after the first warm-up."""
    work()
    gc.collect()
    before = resident()
    work()
    gc.collect()
    return resident() - before


def run_script(code: str, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """A process of its own, with the tests' tools at hand; it must end by itself, in time."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def clean_run(code: str, *arguments: str, timeout: float = 30.0) -> str:
    """As run_script: what it printed, after a clean end."""
    done = run_script(code, *arguments, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def route(text: str) -> dspex.Route:
    return dspex.Route(text, reason="a test")
