"""Every setting has an effect: how many workers there are, how they sleep, what they run together."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import PoolSaturated
from dspex.pool import Future
from test_pool_tools import (
    TASKS,
    hold,
    in_threads,
    let_go,
    linux,
    scaled,
    settled,
    simple,
    still,
    texts,
    thread_ids,
    until,
)

TEXTS = texts(60)


def asleep(pool: Pool) -> bool:
    return pool.stats().parked == pool.workers


# --- size


@linux
@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_so_many_threads_work_at_the_same_time(size: int) -> None:
    before = thread_ids()
    with Pool(size=size) as pool:
        names = {int(t): (TASKS / str(t) / "comm").read_text().strip() for t in thread_ids() - before}
        assert sorted(names.values()) == sorted(f"dspex-{i}" for i in range(size))
        held = hold(pool, 0.1)
        assert {probe.result()[0] for probe in held} == set(range(size))
        assert len(pool.stats().by_worker) == pool.stats().started == size
    assert thread_ids() <= before


# --- max_size: overflow workers


def crowd(pool: Pool, seconds: float = 0.15) -> list[Future]:
    """Submits until all overflow workers are there."""
    probes = []

    def one_more() -> bool:
        probes.append(pool._probe(sleep=seconds))
        return pool.workers == pool.max_size

    until(one_more)
    return probes


def test_overflow_workers_come_while_all_are_busy_and_no_more_than_allowed() -> None:
    with Pool(size=1, max_size=4, idle_timeout=1000) as pool:
        assert pool.workers == 1
        probes = crowd(pool, 0.1)
        extra = [pool._probe(sleep=0.002) for _ in range(50)]
        assert pool.workers == 4
        ran_on = {probe.result()[0] for probe in [*probes, *extra]}
        assert ran_on == {0, 1, 2, 3}
        until(lambda: asleep(pool))
        assert pool.workers == 4  # idle, but not for long enough
        assert (pool.stats().started, pool.stats().retired) == (4, 0)


def test_overflow_workers_go_when_idle_and_come_again() -> None:
    with Pool(size=1, max_size=3, idle_timeout=0.02) as pool:
        for turn in range(1, 4):
            for probe in crowd(pool, 0.02):
                probe.result()
            until(lambda: pool.workers == 1)
            until(lambda turn=turn: pool.stats().retired == 2 * turn)  # type: ignore[misc]
        assert pool._probe().result() == (0,)
        stats = settled(pool)
        assert stats.started == 7
        assert stats.total.done == stats.accepted  # those of workers that are gone are counted


def test_a_worker_more_is_not_worth_it_for_a_task_or_two() -> None:
    """Three busy workers, one task that waits: the next one is free soon."""
    with Pool(size=3, max_size=6) as pool:
        held = hold(pool)
        waiting = pool._probe()
        assert pool.workers == 3
        assert still(held)
        let_go(held)
        waiting.result()


def test_without_overflow_workers_none_come() -> None:
    with Pool(size=2, capacity=4096) as pool:
        probes = [pool._probe(busy=1e-5) for _ in range(3000)]
        assert pool.workers == 2
        for probe in probes:
            probe.result()
        assert pool.stats().started == 2


# --- resize


@pytest.mark.parametrize("sizes", [(1, 4, 2, 6, 1), (8, 1, 8, 1), (3, 3, 2, 2)])
def test_resizing_changes_the_number_of_workers_and_loses_nothing(sizes: tuple[int, ...]) -> None:
    rows = texts(200)
    with Pool(size=2, capacity=10_000) as pool:
        for size in sizes:
            futures = [pool.submit(simple(), row) for row in rows]
            pool.resize(size)
            futures += [pool.submit(simple(), row) for row in rows]
            assert (pool.size, pool.max_size) == (size, size)
            assert [f.result() for f in futures] == 2 * [simple().predict(row) for row in rows]
            until(lambda size=size: pool.workers == size)  # type: ignore[misc]
            assert {probe.result()[0] for probe in hold(pool, 0.01)} == set(range(size))


def test_a_worker_that_is_too_many_ends_after_the_task_it_is_at() -> None:
    with Pool(size=3) as pool:
        held = hold(pool)
        pool.resize(1)
        assert still(held)
        let_go(held)
        assert sorted(probe.result()[0] for probe in held) == [0, 1, 2]
        until(lambda: pool.workers == 1)
        assert pool.stats().retired == 2


def test_resizing_from_many_threads_at_once() -> None:
    with Pool(size=2, capacity=10_000) as pool:

        def work(number: int) -> None:
            for turn in range(15):
                pool.resize(1 + (number + turn) % 4, 5)
                assert [pool.submit(simple(), row).result() for row in TEXTS[:5]]

        in_threads(work, 4)
        pool.resize(2)
        until(lambda: pool.workers == 2)
        stats = settled(pool)
        assert stats.accepted == stats.total.ended == 4 * 15 * 5


# --- capacity


def test_the_capacity_is_exact() -> None:
    pools = [Pool(size=s, capacity=c, policy="reject") for s in (1, 2, 3) for c in (1, 2, 3, 7, 64, 1000)]
    held = [hold(pool, 0.8) for pool in pools]
    for pool in pools:
        for _ in range(pool.settings.capacity):
            pool._probe()
        for _ in range(3):
            with pytest.raises(PoolSaturated):
                pool._probe()
        stats = pool.stats()
        assert stats.queued == pool.queued == pool.settings.capacity
        assert stats.saturation == 1
        assert stats.rejected == 3
    assert all(still(each) for each in held)
    for pool in pools:
        assert pool.close()
        assert pool.stats().accepted == pool.size + pool.settings.capacity == pool.stats().total.done


def test_the_capacity_is_exact_for_many_threads_at_once() -> None:
    for capacity in (5, 37, 500):
        with Pool(size=2, capacity=capacity, policy="reject") as pool:
            held = hold(pool)
            let_in = [0] * 8

            def work(number: int, pool: Pool = pool, let_in: list[int] = let_in) -> None:
                for _ in range(200):
                    try:
                        pool._probe()
                    except PoolSaturated:
                        continue
                    let_in[number] += 1

            in_threads(work)
            assert still(held)
            assert sum(let_in) == capacity
            assert pool.stats().rejected == 8 * 200 - capacity
            let_go(held)


# --- spin


def test_a_worker_that_does_not_spin_sleeps_after_each_call() -> None:
    with Pool(size=1, spin=0) as pool:
        for turn in range(1, 51):
            until(lambda: asleep(pool))
            assert pool.stats().total.parks == turn
            pool._probe().result()


def test_a_worker_that_spins_for_long_does_not_sleep_between_calls() -> None:
    with Pool(size=1, spin=1.0) as pool:
        for _ in range(50):
            pool._probe().result()
        assert pool.stats().total.parks == 0


# --- window, max_batch


@pytest.mark.parametrize(
    ("window", "most", "groups"), [(500e-6, 8, 5), (500e-6, 64, 1), (1e-6, 1, 40), (0, 8, 0)]
)
def test_calls_that_wait_together_are_run_together(window: float, most: int, groups: int) -> None:
    rows = texts(40)
    with Pool(size=1, window=window, max_batch=most) as pool:
        held = hold(pool)
        futures = [pool.submit(simple(), row) for row in rows]
        assert still(held)
        let_go(held)
        assert [future.result() for future in futures] == [simple().predict(row) for row in rows]
        total = settled(pool).total
        assert (total.groups, total.grouped) == (groups, 40 if groups else 0)
        assert total.done == 41  # each counted on its own


def test_concurrent_callers_are_grouped() -> None:
    with Pool(size=1, window=500e-6) as pool:

        def work(number: int) -> None:
            for turn in range(100):
                row = TEXTS[(number + turn) % 60]
                assert pool.call(simple(), row) == simple().predict(row)

        in_threads(work)
        total = settled(pool).total
        assert total.grouped == 800
        assert total.groups < 500


def median_call(pool: Pool) -> float:
    """The usual time of a call that is made alone, in seconds."""
    took = []
    for turn in range(600):
        begin = time.perf_counter()
        pool.call(simple(), TEXTS[turn % 60])
        took.append(time.perf_counter() - begin)
    return sorted(took)[300]


def test_a_lone_caller_is_not_delayed_by_the_window() -> None:
    with Pool(size=1, window=500e-6) as pool:
        assert min(median_call(pool) for _ in range(3)) < 100e-6


def test_what_a_group_holds_that_is_cancelled_or_too_late_is_not_run() -> None:
    with Pool(size=1, window=500e-6) as pool:
        held = hold(pool)
        futures = [
            pool.submit(simple(), row, timeout=0.05 if i % 4 == 1 else None) for i, row in enumerate(TEXTS)
        ]
        dropped = [future for i, future in enumerate(futures) if i % 4 == 2 and future.cancel()]
        assert still(held)
        assert pool.drain(20)
        assert len(dropped) == 15
        let_go(held)
        total = pool.stats().total
        assert (total.cancelled, total.expired, total.done) == (15, 15, 31)
        for i in (0, 3):
            assert futures[i].result() == simple().predict(TEXTS[i])


@pytest.mark.parametrize("other", ["probe", "batch"])
def test_a_call_is_not_held_up_by_what_is_no_call(other: str) -> None:
    """Only calls are run together; the others come on their own."""
    with Pool(size=2, window=500e-6) as pool:
        held = hold(pool, 0.3)
        if other == "probe":
            calls = [pool.submit(simple(), TEXTS[0]) for _ in range(3)]
            pool._probe(sleep=0.6)
            pool._probe(sleep=0.6)
            calls += [pool.submit(simple(), TEXTS[0])]
            assert still(held)
            let_go(held)
            for call in calls[:3]:
                call.result(0.5)
            return
        batch = threading.Thread(target=simple().batch, args=(TEXTS * 5000,), kwargs={"pool": pool})
        batch.start()
        longest = 0.0
        while batch.is_alive():
            begin = time.monotonic()
            pool.call(simple(), TEXTS[0])
            if not still(held):
                longest = max(longest, time.monotonic() - begin)
        batch.join()
        assert longest < 0.4


# --- pin


def cpus_of_new_threads(before: set[int]) -> list[set[int]]:
    return [os.sched_getaffinity(thread) for thread in thread_ids() - before]


@linux
def test_pinned_workers_have_a_cpu_each() -> None:
    allowed, before = os.sched_getaffinity(0), thread_ids()
    with Pool(size=len(allowed), pin=True):
        own = cpus_of_new_threads(before)
        assert all(len(each) == 1 for each in own)
        assert set().union(*own) == allowed
        assert os.sched_getaffinity(0) == allowed  # the caller stays as it was
    before = thread_ids()
    with Pool(size=2 * len(allowed), pin=True):  # more workers than CPUs: they share
        assert sorted(len(each) for each in cpus_of_new_threads(before)) == [1] * 2 * len(allowed)
    before = thread_ids()
    with Pool(size=2):
        assert all(each == allowed for each in cpus_of_new_threads(before))


@linux
def test_workers_are_pinned_within_what_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    one, result = {min(allowed)}, []

    def confined() -> None:
        os.sched_setaffinity(0, one)  # of this thread; those it starts inherit it
        before = thread_ids()
        with Pool(size=2, pin=True):
            result.extend(cpus_of_new_threads(before))

    thread = threading.Thread(target=confined)
    thread.start()
    thread.join()
    assert result == [one, one]


# --- counters


def test_durations_say_how_long_tasks_waited_and_ran() -> None:
    with Pool(size=1) as pool:
        probes = [pool._probe(busy=0.01) for _ in range(10)]
        stats = settled(pool)
        assert len(probes) == stats.total.done
        assert stats.service.count == stats.wait.count == 10
        assert 0.009 < stats.service.percentile(0) <= stats.service.mean <= stats.service.percentile(100)
        assert stats.wait.percentile(100) > 0.08  # behind nine others
        assert stats.wait.percentile(50) > 0.03
        assert stats.total.busy > 0.09
        together = stats.service + stats.service
        assert together.count == 20
        assert together.percentile(50) == stats.service.percentile(50)
        for q in (-1, 101):
            with pytest.raises(ValueError, match="percentile"):
                stats.wait.percentile(q)
        as_data: dict[str, Any] = stats.to_dict()
        assert as_data["service"]["count"] == 10
        assert as_data["total"]["done"] == as_data["accepted"] == 10


def test_what_workers_take_from_each_other_is_counted() -> None:
    """One thread submits to its own lane; the other workers help themselves."""
    with Pool(size=4, capacity=8192) as pool:
        probes = [pool._probe(busy=2e-5) for _ in range(scaled(2000))]
        stats = settled(pool)
        assert stats.total.steals > 0
        assert sum(worker.done for worker in stats.by_worker) == len(probes)
        assert sum(worker.steals for worker in stats.by_worker) == stats.total.steals
