"""Full pools: what becomes of one task more, and that overload loses and invents nothing.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import CallTimeoutError, PoolSaturated
from dspex.pool import Future
from test_pool_tools import (
    hold,
    in_threads,
    let_go,
    of_all_kinds,
    scaled,
    settled,
    simple,
    still,
    texts,
    until,
)

TEXT = texts(1)[0]


# --- block


def test_under_block_a_submission_waits_for_room() -> None:
    with Pool(size=1, capacity=2) as pool:
        held = hold(pool)
        waiting = [pool._probe(), pool._probe()]
        late: list[Future] = []
        thread = threading.Thread(target=lambda: late.append(pool.submit(simple(), TEXT)))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert still(held)
        assert not late
        let_go(held)
        thread.join(20)
        assert late[0].result() == simple().predict(TEXT)
        assert [probe.result() for probe in waiting]
        assert (pool.stats().rejected, settled(pool).accepted) == (0, 4)


@pytest.mark.parametrize("timeout", [0, -1, 0.03])
def test_it_waits_no_longer_than_the_calls_timeout(timeout: float) -> None:
    with Pool(size=1, capacity=1) as pool:
        held = hold(pool)
        pool._probe()
        begin = time.monotonic()
        with pytest.raises(PoolSaturated) as caught:
            pool.submit(simple(), TEXT, timeout=timeout)
        assert max(timeout, 0) <= time.monotonic() - begin < 0.2
        assert caught.value.retryable
        assert still(held)
        assert (pool.stats().rejected, pool.stats().accepted) == (1, 2)
        let_go(held)


def test_the_timeout_of_a_call_covers_both_its_waits() -> None:
    """For room, and then for a worker."""
    with Pool(size=1, capacity=1) as pool:
        first = hold(pool, 0.1)
        second = pool._probe(sleep=0.4)
        begin = time.monotonic()
        future = pool.submit(simple(), TEXT, timeout=0.25)  # there is room after 0.1 s
        assert not still(first)
        with pytest.raises(CallTimeoutError):
            future.result()
        assert 0.25 <= time.monotonic() - begin < 0.45
        assert not second.done()
        assert pool.drain(20)
        assert settled(pool).total.expired == 1


def test_all_who_wait_for_room_get_in() -> None:
    """Through a queue of one, by many threads: nobody is forgotten asleep."""
    calls = scaled(300)
    with Pool(size=2, capacity=1) as pool:

        def work(number: int) -> None:
            for row in texts(calls, seed=number):
                assert pool.call(simple(), row) == simple().predict(row)

        in_threads(work)
        stats = settled(pool)
        assert stats.total.done == stats.accepted == 8 * calls
        assert (stats.rejected, stats.caller_runs) == (0, 0)


@pytest.mark.parametrize("end", ["drain", "close"])
def test_who_waits_for_room_learns_of_the_end(end: str) -> None:
    pool = Pool(size=1, capacity=1)
    hold(pool, 0.3)
    pool._probe()
    outcome: list[Any] = []

    def submit(number: int) -> None:
        try:
            outcome.append(pool.submit(simple(), TEXT))
        except Exception as error:
            outcome.append(error)

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)  # they wait by now, or will be told at once
    assert getattr(pool, end)()
    for thread in threads:
        thread.join(20)
    assert [type(each).__name__ for each in outcome] == ["ResourceError"] * 4
    assert pool.stats().accepted == 2
    pool.close()


# --- reject


def test_under_reject_a_full_pool_says_when_to_come_again() -> None:
    """The more that waits, and the fewer the workers, the later; never now."""
    with Pool(size=1, capacity=400, policy="reject") as pool:
        for _ in range(20):
            pool._probe(busy=0.002).result()
        after = []
        for capacity in (10, 100, 400):
            held = hold(pool, 0.3)
            probes = [pool._probe() for _ in range(capacity)]
            after.append(pool._saturated().retry_after)
            assert still(held)
            assert [probe.result() for probe in probes]
            settled(pool)
        assert 0 < after[0] < after[1] < after[2]
        assert 0.001 < after[0] < 10
    with Pool(size=1, capacity=1, policy="reject") as pool:
        hold(pool, 0.1)
        pool._probe()
        with pytest.raises(PoolSaturated) as caught:
            pool.submit(simple(), TEXT)
        assert caught.value.retryable
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after < 10  # although nothing has been measured yet
        assert caught.value.to_dict()["retry_after"] == caught.value.retry_after


def test_coming_again_after_a_while_succeeds() -> None:
    with Pool(size=1, capacity=3, policy="reject") as pool:
        for _ in range(30):
            while True:
                try:
                    pool._probe(busy=0.001)
                    break
                except PoolSaturated as error:
                    time.sleep(error.retry_after or 60)
        assert settled(pool).total.done == 30


# --- caller_runs


def test_under_caller_runs_the_caller_runs_what_finds_no_room() -> None:
    with Pool(size=1, capacity=2, policy="caller_runs") as pool:
        held = hold(pool)
        waiting = [pool._probe(), pool._probe()]
        assert pool._probe().result() == (None,)  # no worker's index: the caller's thread
        mine = pool.submit(simple(), TEXT)
        assert mine.done()
        assert mine.result() == simple().predict(TEXT)
        assert not mine.cancel()
        failed = pool._probe(fault="error")
        assert "a probe that fails" in str(failed.exception())
        assert still(held)
        let_go(held)
        assert [probe.result() for probe in waiting] == [(0,), (0,)]
        stats = settled(pool)
        assert (stats.caller_runs, stats.accepted, stats.rejected) == (3, 3, 0)
        assert pool._probe().result() == (0,)  # there is room again


def test_under_caller_runs_sessions_wait_all_the_same() -> None:
    """Order counts more."""
    with Pool(size=1, capacity=1, policy="caller_runs") as pool:
        session = pool.session("a")
        probes = [pool._probe(sleep=0.02, strand=session._strand) for _ in range(5)]
        assert [probe.result() for probe in probes] == [(0,)] * 5
        assert pool.stats().caller_runs == 0


def test_callbacks_of_what_the_caller_ran_are_called() -> None:
    with Pool(size=1, capacity=1, policy="caller_runs") as pool:
        held = hold(pool)
        pool._probe()
        called: list[Any] = []
        mine = pool._probe()
        mine.add_done_callback(called.append)
        until(lambda: called)
        assert called == [mine]
        assert still(held)
        let_go(held)


# --- deadlines


def test_what_is_too_late_is_dropped_unrun_and_counted() -> None:
    """A queue of tasks that nobody wants any more costs next to nothing."""
    with Pool(size=1, capacity=5000) as pool:
        held = hold(pool)
        late = [pool._probe(busy=0.05, timeout=0.01) for _ in range(2000)]
        wanted = [pool._probe(), pool.submit(simple(), TEXT, timeout=60)]
        time.sleep(0.02)  # their time is up
        assert still(held)
        let_go(held)
        begin = time.monotonic()
        assert wanted[1].result() == simple().predict(TEXT)
        assert time.monotonic() - begin < 5  # and not 100 s
        for probe in late:
            assert isinstance(probe.exception(), CallTimeoutError)
        total = settled(pool).total
        assert (total.expired, total.done, total.ended) == (2000, 3, 2003)
        assert pool.stats().service.count == 3  # they were never run


# --- overload


def flood(pool: Pool, threads: int, seconds: float, pause: float) -> tuple[int, int]:
    """(let in, turned away) of what many threads submit as fast as they can, or with pauses."""
    let_in, turned_away = [0] * threads, [0] * threads
    row = {"text": "refund " * 2000}

    def work(number: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                pool.submit(simple(), row)
                let_in[number] += 1
            except PoolSaturated:
                turned_away[number] += 1
                time.sleep(pause)

    in_threads(work, threads)
    return sum(let_in), sum(turned_away)


def test_overload_is_accounted_for_exactly_and_goodput_stays() -> None:
    with Pool(size=1, capacity=64, policy="reject") as pool:
        calm, _ = flood(pool, 1, 0.5, 1e-4)  # one submitter, who yields: the most that can be had
        settled(pool)
        before = pool.stats()
        let_in, turned_away = flood(pool, 4, 0.5 * scaled(1), 1e-4)
        assert pool.drain(60)
        stats = pool.stats()
        assert stats.accepted - before.accepted == let_in
        assert stats.rejected - before.rejected == turned_away > 0
        assert stats.total.ended == stats.total.done == stats.accepted
        assert let_in > 0.4 * calm * scaled(1)  # loose: the machine does other things too
        assert pool.close()


@pytest.mark.parametrize("policy", ["block", "reject", "caller_runs"])
def test_every_submission_is_let_in_turned_away_or_run_by_its_caller(policy: Any) -> None:
    calls = scaled(1000)
    program = of_all_kinds()
    row: dict[str, Any] = {
        "subject": "urgent",
        "body": "refund",
        "amount": 3.0,
        "items": 2,
        "vip": True,
        "place": [1.0, 2.0, 3.0],
    }
    with Pool(size=2, capacity=8, policy=policy) as pool:
        futures: list[list[Future]] = [[] for _ in range(4)]

        def work(number: int) -> None:
            for _ in range(calls):
                try:
                    futures[number].append(pool.submit(program, row))
                except PoolSaturated:
                    continue

        in_threads(work, 4)
        got = [future for each in futures for future in each]
        truth = program.predict(row)
        assert all(future.result() == truth for future in got)
        stats = settled(pool)
        assert stats.accepted + stats.caller_runs == len(got)
        assert stats.accepted + stats.caller_runs + stats.rejected == 4 * calls
        assert stats.total.done == stats.accepted
        assert not stats.rejected or policy == "reject"
        assert not stats.caller_runs or policy == "caller_runs"
