"""The life of a pool: drain, close, the with-block, deaths it survives, and that nothing stays behind.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import subprocess
import threading
import time
import weakref
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import DspexError, InternalError, ResourceError
from test_pool_tools import (
    descriptors,
    growth,
    hold,
    in_threads,
    let_go,
    linux,
    run_script,
    scaled,
    settled,
    simple,
    still,
    texts,
    thread_ids,
    until,
)

TEXT = texts(1)[0]
ROWS = texts(100)


# --- drain


def test_draining_waits_for_what_was_accepted_and_refuses_the_rest() -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        session = pool.session("a")
        futures = [pool.submit(simple(), row) for row in ROWS] + [
            session.submit(simple(), row) for row in ROWS
        ]
        assert not pool.drain(0.02)
        assert still(held)
        assert pool.closed
        with pytest.raises(ResourceError):
            pool.submit(simple(), TEXT)
        assert not pool.drain(0)
        let_go(held)
        assert pool.drain()
        assert all(future.done() for future in futures)
        assert pool.drain(0)
        assert pool.workers == 1  # they are there still
        assert [f.result() for f in futures] == 2 * [simple().predict(row) for row in ROWS]


def test_many_threads_drain_and_submit_at_once() -> None:
    """What is let in, is run; the others are refused."""
    for _ in range(scaled(30)):
        pool = Pool(size=2, capacity=10_000)
        futures: list[list[Any]] = [[] for _ in range(8)]

        def work(number: int, pool: Pool = pool, futures: Any = futures) -> None:
            if number < 2:
                time.sleep(0.0005)
                assert pool.drain(20)
                return
            for row in ROWS:
                try:
                    futures[number].append(pool.submit(simple(), row))
                except ResourceError:
                    break

        in_threads(work)
        got = [future for each in futures for future in each]
        assert pool.close()
        assert all(future.exception() is None for future in got)
        assert pool.stats().accepted == pool.stats().total.done == len(got)


# --- close


def test_closing_with_a_timeout_cancels_what_has_not_begun() -> None:
    pool = Pool(size=2, capacity=1000)
    held = hold(pool, 0.4)
    session = pool.session("a")
    waiting = [pool.submit(simple(), row) for row in ROWS] + [session.submit(simple(), row) for row in ROWS]
    begin = time.monotonic()
    assert not pool.close(0.05)
    assert 0.05 <= time.monotonic() - begin < 1
    assert [future.result() for future in held]  # what ran has ended
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[0].result()
    stats = pool.stats()
    assert (stats.workers, stats.queued) == (0, 0)
    assert (stats.total.done, stats.total.cancelled, stats.accepted) == (2, 200, 202)
    assert stats.sessions["active"] == 0


def test_closing_without_one_runs_everything_first() -> None:
    pool = Pool(size=2, capacity=1000)
    hold(pool, 0.05)
    futures = [pool.submit(simple(), row) for row in ROWS]
    assert pool.close()
    assert [future.result() for future in futures] == [simple().predict(row) for row in ROWS]
    assert pool.workers == 0


def test_closing_twice_is_harmless() -> None:
    pool = Pool(size=1)
    assert pool.close()
    assert pool.close()
    assert pool.close(0)
    with pool:
        assert pool.closed
    assert pool.stats().started == pool.stats().retired == 1


def test_closing_from_many_threads_at_once() -> None:
    for _ in range(scaled(20)):
        pool = Pool(size=3)
        futures = [pool.submit(simple(), row) for row in ROWS]
        in_threads(lambda number, pool=pool: pool.close(), 4)
        assert all(future.exception() is None for future in futures)
        assert pool.workers == 0


def test_closing_while_others_submit() -> None:
    """Every future that was handed out ends, run or cancelled."""
    for turn in range(scaled(40)):
        pool = Pool(size=2, capacity=64, policy=("block", "reject", "caller_runs")[turn % 3])
        futures: list[list[Any]] = [[] for _ in range(5)]

        def work(number: int, pool: Pool = pool, futures: Any = futures, turn: int = turn) -> None:
            if number == 0:
                time.sleep(0.0003 * (turn % 5))
                pool.close(0)
                return
            session = None
            for row in ROWS * 10:
                try:
                    if number == 1:
                        session = session or pool.session("a")
                        futures[number].append(session.submit(simple(), row))
                    else:
                        futures[number].append(pool.submit(simple(), row))
                except DspexError:
                    if pool.closed:
                        return

        in_threads(work, 5)
        got = [future for each in futures for future in each]
        ended, not_ended = concurrent.futures.wait(got, 20)
        assert not not_ended
        ran = sum(not future.cancelled() for future in ended)
        stats = pool.stats()
        assert ran == stats.total.done + stats.caller_runs
        assert stats.accepted == stats.total.ended == len(got) - stats.caller_runs
        assert stats.total.cancelled == len(got) - ran


@pytest.mark.parametrize(
    "handler", ["pool.close(0)", "pool.close()", "pool.drain(0)", "pool._probe().cancel()"]
)
def test_a_signal_handler_may_end_the_pool_while_it_is_being_closed(handler: str) -> None:
    """As a service does on SIGTERM."""
    done = run_script(f"""
import signal
import dspex
pool = dspex.Pool(size=1)
probes = [pool._probe(sleep=0.1) for _ in range(6)]
def handle(*_):
    try:
        {handler}
    except dspex.DspexError:
        print("refused")
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.15)
pool.close()
assert pool.workers == 0 and all(probe.done() for probe in probes)
""")
    assert (done.returncode, done.stderr) == (0, "")


# --- the with-block


def test_the_end_of_a_with_block_runs_everything() -> None:
    with Pool(size=1) as pool:
        hold(pool, 0.05)
        futures = [pool.submit(simple(), row) for row in ROWS]
    assert pool.closed
    assert all(future.done() and not future.cancelled() for future in futures)


def test_an_error_in_a_with_block_cancels_what_waits() -> None:
    futures: list[Any] = []

    def fail(pool: Pool) -> None:
        with pool:
            hold(pool, 0.2)
            futures.extend(pool.submit(simple(), row) for row in ROWS)
            raise ValueError("mine")

    pool = Pool(size=1)
    with pytest.raises(ValueError, match="mine"):
        fail(pool)
    assert len(futures) == 100
    assert all(future.cancelled() for future in futures)
    assert pool.stats().total.done == 1  # what ran has ended


def test_a_pool_that_nobody_holds_any_more_goes() -> None:
    """Its threads end; what has not begun is cancelled; futures stay."""
    before = thread_ids() if os.path.isdir("/proc/self/task") else set()
    pool = Pool(size=2)
    held = hold(pool, 0.1)
    futures = [pool.submit(simple(), row) for row in ROWS]
    alive = weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is None
    assert all(future.result() for future in held)
    assert all(future.cancelled() for future in futures)
    if before:
        assert thread_ids() <= before


# --- what a pool survives


def test_a_task_that_fails_harms_nobody() -> None:
    with Pool(size=2) as pool:
        for _ in range(scaled(200)):
            failing, good = pool._probe(fault="error"), pool.submit(simple(), TEXT)
            assert isinstance(failing.exception(), InternalError)
            assert good.result() == simple().predict(TEXT)
        stats = settled(pool)
        assert (stats.total.failed, stats.total.done) == (scaled(200), scaled(200))
        assert (stats.deaths, stats.started) == (0, 2)


def test_workers_that_die_are_replaced() -> None:
    """One task is lost with each; all others are run."""
    deaths = scaled(100)
    with Pool(size=2, capacity=10_000) as pool:
        dying, others = [], []
        for i in range(deaths):
            dying.append(pool._probe(fault="death"))
            others += [pool.submit(simple(), row) for row in ROWS[i % 90 : i % 90 + 5]]
        for future in dying:
            error = future.exception()
            assert isinstance(error, ResourceError)
            assert error.retryable
        assert all(future.exception() is None for future in others)
        stats = settled(pool)
        assert (stats.deaths, stats.started) == (deaths, deaths + 2)
        assert (stats.total.failed, stats.total.done) == (deaths, 5 * deaths)
        assert pool.workers == pool.size == 2
        assert {probe.result() for probe in hold(pool, 0.05)} == {(0,), (1,)}


def test_all_workers_die_at_once_again_and_again() -> None:
    with Pool(size=4) as pool:
        for _ in range(scaled(10)):
            dying = [pool._probe(sleep=0.005, fault="death") for _ in range(4)]
            assert all(isinstance(future.exception(), ResourceError) for future in dying)
            assert pool.call(simple(), TEXT) == simple().predict(TEXT)
        until(lambda: pool.workers == 4)
        assert settled(pool).deaths == 4 * scaled(10)


@linux
def test_workers_that_died_leave_no_threads_behind() -> None:
    before = thread_ids()
    with Pool(size=2) as pool:
        for _ in range(scaled(50)):
            assert pool._probe(fault="death").exception()
        until(lambda: pool.workers == 2)
        until(lambda: len(thread_ids() - before) <= 2)
    assert thread_ids() <= before


# --- nothing stays behind


@linux
def test_a_thousand_pools_come_and_go() -> None:
    def life(turn: int) -> None:
        with Pool(size=1 + turn % 3, max_size=4, capacity=16) as pool:
            futures = [pool.submit(simple(), row) for row in ROWS[:5]]
            futures[0].add_done_callback(lambda future: None)
            pool.session("a").submit(simple(), TEXT)
            if turn % 50 == 0:
                pool._probe(fault="death")
            concurrent.futures.wait(futures[:2])

    def lives() -> None:
        for turn in range(500):
            life(turn)

    life(0)
    with Pool(size=1) as pool:
        pool._probe(sleep=0.01).add_done_callback(id)  # what callbacks need is made once
    until(lambda: not any(thread.name == "dspex-notifier" for thread in threading.enumerate()))
    threads, open_files = thread_ids(), descriptors()
    for _ in range(scaled(1)):
        assert growth(lives) < 2 << 20  # twice five hundred
    until(lambda: thread_ids() <= threads)
    assert descriptors() == open_files


@linux
def test_calls_leave_nothing_behind() -> None:
    def calls() -> None:
        for _ in range(scaled(10)):
            futures = [pool.submit(simple(), row) for row in ROWS * 10]
            futures += [pool._probe(fault="error"), pool._probe(timeout=0)]
            for future in futures[::7]:
                future.add_done_callback(lambda future: None)
            futures[-3].cancel()
            for future in futures:
                try:
                    future.result()
                except (DspexError, concurrent.futures.CancelledError):
                    continue
            for row in ROWS * 10:
                pool.submit(simple(), row)  # and dropped

    with Pool(size=2) as pool:
        assert growth(calls) < 1 << 20


@linux
def test_other_processes_do_not_inherit_the_pool() -> None:
    """A subprocess may be started while workers run: signals and descriptors stay with the pool."""
    with Pool(size=2) as pool:
        probes = [pool._probe(busy=0.001) for _ in range(300)]
        pool._probe().add_done_callback(lambda future: None)
        listing = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, check=True)
        assert len(listing.stdout.split()) <= 4
        assert all(probe.exception() is None for probe in probes)


@linux
def test_signals_are_left_to_python() -> None:
    """A handler runs in the main thread although native threads are there to receive the signal."""
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(threading.get_ident()))
    try:
        with Pool(size=4) as pool:
            for turn in range(1, 51):
                probe = pool._probe(sleep=0.001)
                os.kill(os.getpid(), signal.SIGUSR1)
                assert probe.exception() is None
                until(lambda turn=turn: len(got) == turn)  # type: ignore[misc]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(got) == {threading.main_thread().ident}
