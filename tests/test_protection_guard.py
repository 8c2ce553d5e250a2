"""Permits, what a guard tells of itself, and what a forked child makes of it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable

import pytest

from dspex.errors import LMError, ResourceError
from dspex.protection import NEVER, Deadline, LMGuard, Permit
from test_pool_tools import clean_run, in_threads, scaled
from test_protection_tools import Clock, Down, a_guard, admitted, fail

ENDS: list[Callable[[Permit], None]] = [
    lambda permit: permit.succeeded(5),
    lambda permit: permit.failed(Down(), counts=True),
    lambda permit: permit.failed(Down(), counts=False),
    lambda permit: permit.cancelled(),
]


def ended(guard: LMGuard) -> tuple[int, int, int]:
    stats = guard.stats()
    return stats["succeeded"], stats["failed"], stats["cancelled"]


@pytest.mark.parametrize("limits", [{}, {"concurrency": 5}], ids=["unlimited", "limited"])
@pytest.mark.parametrize("first", range(4))
def test_a_permit_ends_once(first: int, limits: dict[str, int]) -> None:
    guard = a_guard(breaker={"min_calls": 100}, **limits)
    permit = guard.admit(NEVER)
    ENDS[first](permit)
    expected = ended(guard)
    assert sum(expected) == 1
    assert expected[{0: 0, 1: 1, 2: 1, 3: 2}[first]] == 1
    for end in ENDS:
        end(permit)
    del permit
    assert ended(guard) == expected
    assert guard.stats()["under_way"] in (None, 0)


def test_a_permit_that_is_dropped_counts_as_cancelled() -> None:
    guard = a_guard(concurrency=1)
    guard.admit(NEVER)
    assert ended(guard) == (0, 0, 1)
    cycle: list[object] = [guard.admit(NEVER)]
    cycle.append(cycle)
    assert guard.stats()["under_way"] == 1
    del cycle
    gc.collect()
    assert guard.stats()["under_way"] == 0


def test_a_permit_may_be_collected_in_the_midst_of_what_its_guard_does() -> None:
    """The collector runs anywhere, also in a thread that holds the guard's lock: it must not wait for it."""
    guard = a_guard(concurrency=3)
    cycle: list[object] = [guard.admit(NEVER)]
    cycle.append(cycle)
    del cycle
    with guard._backlog:
        gc.collect()
        assert guard._limits is not None
        assert guard._limits.under_way == 1
    assert guard._limits.under_way == 0
    cycle = [guard.admit(NEVER)]
    cycle.append(cycle)
    permit = guard.admit(NEVER)
    clock, guard._clock = guard._clock, lambda: (gc.collect(), clock())[1]
    del cycle
    permit.succeeded()
    assert guard.stats()["under_way"] == 0


def test_permits_that_many_threads_end_at_once_end_once() -> None:
    count = scaled(200)
    guard = a_guard(concurrency=count)
    permits = admitted(guard, count)
    in_threads(lambda number: [ENDS[number % 4](permit) for permit in permits] and None, 8)
    assert sum(ended(guard)) == len(permits)
    assert guard.stats()["under_way"] == 0


def test_while_all_is_well_nobody_looks_for_the_lock() -> None:
    guard = a_guard(breaker={})
    with guard._lock:  # another thread is in the midst of counting
        for deadline in (NEVER, Deadline.after(10)):
            permit = guard.admit(deadline)
            assert guard.peek() is None
    permit.succeeded()
    assert ended(guard)[0] == 1


def test_peek_tells_what_admit_would_and_changes_nothing() -> None:
    clock = Clock()
    guard = a_guard(clock, requests_per_minute=60, concurrency=1, max_wait=2, breaker={"min_calls": 3})
    for _ in range(5):
        assert guard.peek() is None
    held = guard.admit(NEVER)
    assert guard.peek() is None  # it would wait
    held.failed(Down(), counts=True)
    before = guard.stats()
    guard._settings = guard._settings.model_copy(update={"max_wait": 0.5})
    assert isinstance(guard.peek(), ResourceError)
    assert guard.stats() == before
    clock.sleep(60)
    fail(guard)
    clock.sleep(60)
    fail(guard)
    clock.sleep(60)
    assert guard.peek() is None
    for _ in range(3):
        clock.sleep(1)
        fail(guard)
    for _ in range(3):
        error = guard.peek()
        assert isinstance(error, LMError)
        assert (error.retryable, error.retry_after) == (True, 5)
    assert guard.stats()["refused"]["circuit"] == 0
    clock.sleep(5)
    for _ in range(3):
        assert guard.peek() is None  # the probe's place is not taken
    assert guard.stats()["circuit"] == "open"


def test_stats_are_json() -> None:
    guard = a_guard(concurrency=2, breaker={"min_calls": 1})
    held = guard.admit(NEVER)
    fail(guard)
    with pytest.raises(LMError):
        asyncio.run(guard.aadmit(NEVER))
    assert json.loads(json.dumps(guard.stats())) == {
        "succeeded": 0,
        "failed": 1,
        "cancelled": 0,
        "refused": {"circuit": 1, "turn": 0, "deadline": 0},
        "waiting": 0,
        "under_way": 1,
        "circuit": "open",
        "opened": 1,
        "last_failure": "Down",
    }
    held.succeeded()


def test_on_a_loop_as_in_a_thread() -> None:
    guard = a_guard(concurrency=1)

    async def main() -> None:
        permit = await guard.aadmit(Deadline.after(5), "p")
        assert guard.stats()["under_way"] == 1
        permit.succeeded()

    asyncio.run(main())
    assert ended(guard) == (1, 0, 0)


FORK = """
import os, threading, warnings
warnings.simplefilter("ignore")
from dspex.config import AnswerCacheSettings, BudgetSettings
from dspex.protection import NEVER, AnswerCache, Budget, Deadline, SingleFlight
from test_protection_tools import a_guard

guard = a_guard(concurrency=1, max_wait=5, breaker={"min_calls": 1, "cooldown": 0.01})
held = guard.admit(NEVER)
flight, entered, end = SingleFlight(), threading.Event(), threading.Event()
leader = threading.Thread(target=flight.run, args=("key", lambda: entered.set() or end.wait()))
leader.start()
entered.wait()
waiter = threading.Thread(target=lambda: guard.admit(NEVER).succeeded())
waiter.start()
while not guard.stats()["waiting"]:
    pass
budget, cache = Budget(BudgetSettings(tokens=9)), AnswerCache(AnswerCacheSettings(size=9))
for lock in (guard._lock, budget._lock, cache._lock):
    lock.acquire()  # as if other threads held them at the time
child = os.fork()
if child == 0:
    guard.admit(Deadline.after(1)).succeeded()
    held.succeeded()  # the parent's
    assert guard.stats()["under_way"] == 0
    assert flight.run("key", lambda: "mine", Deadline.after(1)) == "mine"
    budget.check(None)
    cache.put("key", 1)
    os._exit(0)
guard._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert guard.stats()["under_way"] == 1
held.succeeded()
end.set()
waiter.join()
leader.join()
print("well")
"""


def test_a_forked_child_begins_anew() -> None:
    """Those who hold places, wait, or lead are not there; nor is who holds the lock."""
    assert clean_run(FORK) == "well\n"


def test_a_forked_child_may_probe() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")
from dspex.protection import NEVER
from test_protection_tools import Clock, a_guard, fail
clock = Clock()
guard = a_guard(clock, breaker={"min_calls": 1, "probes": 2})
fail(guard)
clock.sleep(5)
probes = [guard.admit(NEVER) for _ in range(2)]
child = os.fork()
if child == 0:
    guard.admit(NEVER).succeeded()
    os._exit(0 if guard.stats()["circuit"] == "half_open" else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert guard.peek() is not None
print("well")
"""
    assert clean_run(code) == "well\n"


def test_counts_are_exact_under_load() -> None:
    guard = a_guard(breaker={"min_calls": 10**9})
    rounds = scaled(500)

    def work(number: int) -> None:
        for _ in range(rounds):
            ENDS[number % 4](guard.admit(NEVER))

    in_threads(work, 8)
    assert ended(guard) == (2 * rounds, 4 * rounds, 2 * rounds)
