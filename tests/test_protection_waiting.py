"""Who waits for a turn, in threads and in tasks of several event loops: in which order, how long, and what
becomes of a turn whose owner has gone.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from dspex.errors import CallTimeoutError, DspexError, ResourceError
from dspex.protection import NEVER, Deadline, LMGuard, Permit
from test_pool_tools import in_threads, new_loop, on_both_loops, run, scaled, until
from test_protection_tools import Down, a_guard, fail


def waiting(guard: LMGuard) -> int:
    return int(guard.stats()["waiting"])


class Line:
    """Threads and tasks that ask for a turn one after another, each behind the one before."""

    def __init__(self, guard: LMGuard) -> None:
        self.guard = guard
        self.turns: list[str] = []
        self.threads: list[threading.Thread] = []

    def thread(self, name: str, deadline: Deadline = NEVER) -> None:
        self._start(lambda: self._wait(name, deadline))

    def task(self, name: str, loop: str = "asyncio", deadline: Deadline = NEVER) -> None:
        self._start(lambda: run(loop, self._await(name, deadline)))

    def _start(self, work: Callable[[], object]) -> None:
        before = waiting(self.guard)
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        until(lambda: waiting(self.guard) == before + 1)

    def _wait(self, name: str, deadline: Deadline) -> None:
        with self._told(name):
            self._had(name, self.guard.admit(deadline))

    async def _await(self, name: str, deadline: Deadline) -> None:
        with self._told(name):
            self._had(name, await self.guard.aadmit(deadline))

    def _had(self, name: str, permit: Permit) -> None:
        self.turns.append(name)
        permit.succeeded()

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except DspexError as error:
            self.turns.append(f"{name}: {type(error).__name__}")

    def join(self) -> list[str]:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        return self.turns


def test_turns_come_in_the_order_of_asking_whoever_asks() -> None:
    guard = a_guard(concurrency=1)
    held = guard.admit(NEVER)
    line = Line(guard)
    for name, loop in [
        ("a", None),
        ("b", "asyncio"),
        ("c", "uvloop"),
        ("d", None),
        ("e", "asyncio"),
        ("f", None),
    ]:
        line.task(name, loop) if loop else line.thread(name)
    assert line.turns == []
    held.succeeded()
    assert line.join() == list("abcdef")
    assert guard.stats()["succeeded"] == 7


def test_turns_by_rate_come_in_order_and_not_too_soon() -> None:
    guard = a_guard(requests_per_minute=1200, burst=1)  # one in 50 ms
    guard.admit(NEVER).succeeded()
    begin = time.monotonic()
    line = Line(guard)
    for name in "abcd":
        line.task(name) if name in "bc" else line.thread(name)
    assert line.join() == list("abcd")
    assert 0.18 < time.monotonic() - begin < 2


@on_both_loops
def test_waiting_does_not_hold_up_the_loop(loop: str) -> None:
    guard = a_guard(requests_per_minute=600, burst=1)  # one in 0.1 s

    async def main() -> int:
        (await guard.aadmit(NEVER)).succeeded()
        asked, beats = asyncio.ensure_future(guard.aadmit(NEVER)), 0
        while not asked.done():
            await asyncio.sleep(0.001)
            beats += 1
        (await asked).succeeded()
        return beats

    assert run(loop, main()) > 10


@on_both_loops
def test_a_cancelled_task_in_the_queue_lets_the_next_one_up(loop: str) -> None:
    guard = a_guard(concurrency=1)

    async def main() -> None:
        held = await guard.aadmit(NEVER)
        tasks = [asyncio.ensure_future(guard.aadmit(NEVER)) for _ in range(3)]
        await asyncio.sleep(0)
        assert waiting(guard) == 3
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert waiting(guard) == 1
        held.succeeded()
        (await asyncio.wait_for(tasks[2], 5)).succeeded()

    run(loop, main())
    assert guard.stats()["under_way"] == 0


@on_both_loops
def test_a_turn_that_has_come_to_a_cancelled_task_goes_to_the_next(loop: str) -> None:
    """It is cancelled before it can take its turn: a place that asyncio's semaphore once lost."""
    guard = a_guard(concurrency=1, requests_per_minute=60, burst=2, max_wait=5)

    async def main() -> None:
        held = await guard.aadmit(NEVER)
        first, second = (asyncio.ensure_future(guard.aadmit(NEVER)) for _ in range(2))
        await asyncio.sleep(0)
        held.succeeded()  # the first one's turn
        first.cancel()
        begin = time.monotonic()
        (await asyncio.wait_for(second, 5)).succeeded()  # with the request that was not sent: 2 in a burst
        assert time.monotonic() - begin < 0.5
        assert first.cancelled()

    run(loop, main())
    assert guard.stats()["under_way"] == 0
    assert guard.stats()["cancelled"] == 0


@on_both_loops
def test_the_next_one_looks_sooner_when_the_first_has_gone(loop: str) -> None:
    guard = a_guard(requests_per_minute=300, burst=1)  # one in 0.2 s

    async def main() -> float:
        (await guard.aadmit(NEVER)).succeeded()
        tasks = [asyncio.ensure_future(guard.aadmit(NEVER)) for _ in range(10)]
        begin = time.monotonic()
        await asyncio.sleep(0)
        for task in tasks[:-1]:
            task.cancel()
        (await asyncio.wait_for(tasks[-1], 5)).succeeded()
        return time.monotonic() - begin

    assert 0.15 < run(loop, main()) < 1


def test_no_turn_within_max_wait() -> None:
    guard = a_guard(concurrency=1, max_wait=0.05)
    held = guard.admit(NEVER)
    begin = time.monotonic()
    with pytest.raises(ResourceError, match=r"within 0\.05 s: 1 requests are under way and 0 wait"):
        guard.admit(NEVER)
    with pytest.raises(ResourceError):
        asyncio.run(guard.aadmit(NEVER))
    assert 0.1 <= time.monotonic() - begin < 2
    held.succeeded()
    guard.admit(NEVER).succeeded()
    assert guard.stats()["refused"]["turn"] == 2


def test_max_wait_is_for_waiting_only() -> None:
    guard = a_guard(concurrency=1, max_wait=10)
    held = guard.admit(NEVER)
    line = Line(guard)
    line.thread("a")
    time.sleep(0.05)
    held.succeeded()
    assert line.join() == ["a"]


def test_a_deadline_ends_the_wait() -> None:
    guard = a_guard(concurrency=1)
    held = guard.admit(NEVER)
    line = Line(guard)
    line.thread("a", Deadline.after(0.05))
    line.task("b", deadline=Deadline.after(0.1))
    line.thread("c")
    until(lambda: len(line.turns) == 2)
    held.succeeded()
    assert line.join() == ["a: CallTimeoutError", "b: CallTimeoutError", "c"]
    assert guard.stats()["refused"]["deadline"] == 2


def test_all_who_wait_are_refused_when_the_circuit_opens() -> None:
    guard = a_guard(concurrency=1, breaker={"min_calls": 1, "cooldown": 60})
    held = guard.admit(NEVER)
    line = Line(guard)
    for name in "abc":
        line.task(name) if name == "b" else line.thread(name)
    held.failed(Down("down"), counts=True)
    assert sorted(line.join()) == ["a: LMError", "b: LMError", "c: LMError"]
    assert guard.stats()["refused"]["circuit"] == 3


def test_a_probe_waits_for_its_turn_and_those_behind_it_are_refused_then() -> None:
    guard = a_guard(requests_per_minute=300, burst=1, breaker={"min_calls": 1, "cooldown": 0.01})
    fail(guard)
    until(lambda: guard.peek() is None)  # a probe may go, but not before 0.2 s have passed
    line = Line(guard)
    for name in "abc":
        line.thread(name)
    assert sorted(line.join()) == ["a", "b: LMError", "c: LMError"]


@on_both_loops
def test_a_loop_that_was_closed_with_tasks_waiting_holds_nobody_up(loop: str) -> None:
    guard = a_guard(concurrency=1)
    held = guard.admit(NEVER)
    dead = new_loop(loop)
    tasks = [dead.create_task(guard.aadmit(NEVER)) for _ in range(2)]
    dead.run_until_complete(asyncio.sleep(0.01))
    assert waiting(guard) == 2
    dead.close()
    line = Line(guard)
    line.thread("a")
    held.succeeded()
    assert line.join() == ["a"]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del tasks, task
    gc.collect()
    assert guard.stats()["under_way"] == 0


def test_a_loop_that_is_held_up_does_not_hold_up_the_others() -> None:
    """By rate, where time itself brings the turns: the first in the queue would have to look, and cannot."""
    guard = a_guard(requests_per_minute=1200, burst=1)  # one in 50 ms
    guard.admit(NEVER).succeeded()
    begun, end = threading.Event(), threading.Event()

    async def main() -> None:
        asked = asyncio.ensure_future(guard.aadmit(NEVER))
        await asyncio.sleep(0)
        begun.set()
        end.wait(20)  # blocks the loop, as it should not
        (await asked).succeeded()

    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(asyncio.run, main())
        begun.wait(20)
        begin = time.monotonic()
        guard.admit(Deadline.after(10)).succeeded()
        assert time.monotonic() - begin < 1
        end.set()
        blocked.result()


def test_nobody_stands_behind_one_whose_time_is_over() -> None:
    guard = a_guard(requests_per_minute=300, burst=1)  # one in 0.2 s
    guard.admit(NEVER).succeeded()
    with asyncio.Runner() as runner:
        task = runner.get_loop().create_task(guard.aadmit(Deadline.after(0.25)))
        runner.run(asyncio.sleep(0))
        assert waiting(guard) == 1
        time.sleep(0.3)  # its loop does not run any more
        guard.admit(Deadline.after(0.15)).succeeded()
        with pytest.raises(CallTimeoutError):
            runner.run(asyncio.wait_for(task, 5))


def test_ctrl_c_gives_the_place_in_the_queue_back() -> None:
    guard = a_guard(concurrency=1)
    held = guard.admit(NEVER)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            guard.admit(NEVER)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert waiting(guard) == 0
    held.succeeded()
    guard.admit(NEVER).succeeded()


def test_places_under_load_from_threads_and_loops() -> None:
    """Never more under way than there are places, and everybody gets a turn, while some give up."""
    places, rounds = 3, scaled(40)
    guard = a_guard(concurrency=places, requests_per_minute=6e6)
    now = most = done = 0
    lock = threading.Lock()

    def enter() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)

    def leave() -> None:
        nonlocal now, done
        with lock:
            now -= 1
            done += 1

    def in_thread() -> None:
        for turn in range(rounds):
            permit = guard.admit(NEVER)
            enter()
            time.sleep(0.0001)
            leave()
            if turn % 3 == 0:
                permit.failed(Down(), counts=False)
            elif turn % 3 == 1:
                permit.succeeded()
            del permit  # a third of them are only dropped

    async def one() -> None:
        permit = await guard.aadmit(NEVER)
        enter()
        await asyncio.sleep(0.0001)
        leave()
        permit.succeeded()

    async def on_loop() -> None:
        tasks = [asyncio.ensure_future(one()) for _ in range(rounds)]
        quitters = [asyncio.ensure_future(guard.aadmit(NEVER)) for _ in range(rounds)]
        for quitter in quitters:
            await asyncio.sleep(0)
            quitter.cancel()
        await asyncio.gather(*quitters, return_exceptions=True)
        await asyncio.gather(*tasks)

    def work(number: int) -> None:
        in_thread() if number < 4 else run("uvloop" if number == 4 else "asyncio", on_loop())

    in_threads(work, 7)
    assert (most, done) == (places, 7 * rounds)
    stats = guard.stats()
    assert (stats["under_way"], stats["waiting"]) == (0, 0)
