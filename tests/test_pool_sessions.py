"""Sessions: the order of their calls, one worker for each as long as it lives, a queue for each.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import InputError, InternalError, PoolSaturated, ResourceError
from dspex.pool import Future, Session
from test_pool_tools import hold, in_threads, let_go, run_script, scaled, settled, simple, still, texts, until

TEXT = texts(1)[0]


def probe(session: Session, **options: Any) -> Future:
    """A task of the session; gives the index of the worker that ran it."""
    made: Future = session._pool._probe(strand=session._strand, **options)
    return made


class Order:
    """In which order futures end that have not ended when they are watched: callbacks come in that order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.watched = 0

    def watch(self, future: Future, name: Any) -> None:
        self.watched += 1
        future.add_done_callback(lambda _: self.seen.append(name))

    def by_session(self) -> dict[Any, list[int]]:
        """(session, ...) -> numbers, once all have ended."""
        until(lambda: len(self.seen) == self.watched)
        numbers: dict[Any, list[int]] = {}
        for *session, number in self.seen:
            numbers.setdefault(tuple(session), []).append(number)
        return numbers


def never_overtaken(futures: list[Future]) -> bool:
    """Looked at from the last to the first: before one that has ended, all others have."""
    ended = [future.done() for future in reversed(futures)]
    return ended == sorted(ended)


# --- order


def test_calls_of_many_sessions_and_many_threads_end_in_the_order_of_each() -> None:
    calls = scaled(60)
    order = Order()
    with Pool(size=3, capacity=100_000) as pool:
        held = hold(pool)

        def work(number: int) -> None:
            sessions = [pool.session(f"s{number % 4}-{i}") for i in range(3)]
            for turn in range(calls):
                for i, session in enumerate(sessions):
                    future = session.submit(simple(), TEXT) if turn % 3 else probe(session)
                    order.watch(future, (session.id, number, turn))
                    if turn % 10 == i:
                        pool._probe()

        in_threads(work)
        assert still(held)
        let_go(held)
        seen = order.by_session()
    assert len(seen) == 24
    assert all(turns == [*range(calls)] for turns in seen.values())


def test_calls_of_a_session_run_one_at_a_time() -> None:
    with Pool(size=4) as pool:
        begin = time.monotonic()
        probes = [probe(pool.session("a"), sleep=0.02) for _ in range(10)]
        assert len({each.result() for each in probes}) == 1  # on one worker
        assert time.monotonic() - begin >= 0.2
        assert probes[0].result()[0] == pool.session("a").worker


def test_sessions_run_beside_each_other() -> None:
    """They are dealt out to the workers in turn."""
    with Pool(size=4) as pool:
        sessions = [pool.session(str(i)) for i in range(8)]
        assert sorted(session.worker for session in sessions) == [0, 0, 1, 1, 2, 2, 3, 3]
        one_each = {session.worker: session for session in sessions}.values()
        probes = [probe(session, sleep=0.3) for session in one_each]
        until(lambda: still(probes))  # all four at the same time
        assert {each.result() for each in probes} == {(0,), (1,), (2,), (3,)}


def test_other_calls_pass_a_session_that_is_busy_and_sessions_pass_a_long_queue() -> None:
    with Pool(size=1, capacity=10_000) as pool:
        order = Order()
        held = hold(pool)
        for i in range(200):
            order.watch(probe(pool.session("a")), ("session", i))
        for i in range(200):
            order.watch(pool._probe(), ("pool", i))
        assert still(held)
        assert order.by_session() == {("session",): [*range(200)], ("pool",): [*range(200)]}
        let_go(held)
        kinds = [kind for kind, _ in order.seen]
        assert set(kinds[:20]) == set(kinds[100:120]) == {"session", "pool"}


def test_an_error_or_a_cancelled_call_does_not_stop_the_session() -> None:
    with Pool(size=2) as pool:
        session = pool.session("a")
        first = probe(session, sleep=0.1)
        calls = [probe(session, fault="error"), session.submit(simple(), TEXT), probe(session, timeout=0)]
        calls += [session.submit(simple(), {"text": " "}), session.submit(simple(), TEXT)]
        assert calls[1].cancel()
        assert not first.done()
        assert isinstance(calls[0].exception(), InternalError)
        assert isinstance(calls[2].exception(), TimeoutError)
        assert isinstance(calls[3].exception(), InputError)
        assert calls[4].result() == simple().predict(TEXT)
        assert session.call(simple(), TEXT) == simple().predict(TEXT)
        until(lambda: session.pending == 0)
        assert session.calls == 4  # probes are not counted


@pytest.mark.parametrize("way", ["callback", "wait", "acall", "acall with a deadline"])
def test_cancelling_a_call_that_is_listened_to_leaves_the_queue_whole(way: str) -> None:
    """In a process of its own: it used to end with a crash, or with calls that never ran."""
    done = run_script(f"""
import asyncio, concurrent.futures, threading
import dspex
from test_pool_tools import hold, simple, texts, until
way, row = {way!r}, texts(1)[0]
pool = dspex.Pool(size=1)
session = pool.session("a")
for turn in range(5 if way.startswith("acall") else 20):
    held = hold(pool, 0.1 if way.startswith("acall") else 0.02)
    if way.startswith("acall"):
        async def main():
            late = [0.001 if i % 3 == 1 and "deadline" in way else None for i in range(9)]
            calls = [asyncio.ensure_future(session.acall(simple(), row, timeout=each)) for each in late]
            await asyncio.sleep(0)
            for call in calls[1::3]:
                call.cancel() if way == "acall" else None
            outcome = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(each, dspex.Result) for each in outcome] == [True, False, True] * 3, outcome
        asyncio.run(asyncio.wait_for(main(), 10))
    else:
        futures = [session.submit(simple(), row) for _ in range(9)]
        if way == "callback":
            for future in futures:
                future.add_done_callback(id)
        else:
            threads = [threading.Thread(target=concurrent.futures.wait, args=(futures,)) for _ in range(2)]
            for thread in threads:
                thread.start()
        cancelled = [future.cancel() for future in futures[1::3]]
        assert not concurrent.futures.wait(futures, 10).not_done
        assert [future.cancelled() for future in futures[1::3]] == cancelled
        assert not any(future.cancelled() for future in futures[::3] + futures[2::3])
    until(lambda: session.pending == 0, 5)
assert pool.close(5)
""")
    assert (done.returncode, done.stderr) == (0, "")


# --- where they run


def test_a_session_moves_when_its_worker_is_no_longer_there() -> None:
    with Pool(size=4, capacity=1000) as pool:
        sessions = [pool.session(str(i)) for i in range(4)]
        order = Order()
        held = hold(pool)
        for size in (4, 2, 1):  # what waits moves as well
            pool.resize(size)
            for i in range(100):
                for session in sessions:
                    order.watch(probe(session), (session.id, size, i))
        assert still(held)
        assert all(numbers == [*range(100)] for numbers in order.by_session().values())
        assert [size for name, size, _ in order.seen if name == "3"] == [4] * 100 + [2] * 100 + [1] * 100
        let_go(held)
        until(lambda: pool.workers == 1)
        assert [probe(session).result() for session in sessions] == [(0,)] * 4
        assert {session.worker for session in sessions} == {0}
        pool.resize(4)
        assert {pool.session(f"new {i}").worker for i in range(8)} == {0, 1, 2, 3}


def test_a_session_outlives_its_worker() -> None:
    """A worker that dies loses the one call it was at; the session goes on, in order."""
    turns = scaled(40)
    with Pool(size=2, capacity=10_000) as pool:
        order = Order()
        sessions = [pool.session(str(i)) for i in range(4)]
        held = hold(pool)
        probes = []
        for turn in range(turns):
            for session in sessions:
                probes.append(probe(session, fault="death" if turn % 4 == 3 else "none"))
                order.watch(probes[-1], (session.id, turn))
        assert still(held)
        assert order.by_session() == {(session.id,): [*range(turns)] for session in sessions}
        assert [session.call(simple(), TEXT) for session in sessions] == [simple().predict(TEXT)] * 4
        let_go(held)
        lost = [isinstance(each.exception(), ResourceError) for each in probes]
        assert lost == [turn % 4 == 3 for turn in range(turns) for _ in sessions]
        stats = settled(pool)
        assert stats.deaths == stats.total.failed == sum(lost)
        assert pool.workers == 2


def test_sessions_while_sizes_change_and_workers_die_all_the_time() -> None:
    stop = threading.Event()
    calls = scaled(1500)
    with Pool(size=3, capacity=100_000) as pool:

        def disturb() -> None:
            for turn in itertools.count():
                if stop.is_set():
                    return
                pool.resize(1 + turn % 4, 4)
                pool._probe(fault="death" if turn % 3 == 0 else "none").exception()

        thread = threading.Thread(target=disturb)
        thread.start()
        try:

            def work(number: int) -> None:
                session = pool.session(str(number))
                probes: list[Future] = []
                for turn in range(calls):
                    probes.append(probe(session, busy=1e-6 * (turn % 5)))
                    if turn % 50 == 0:
                        assert never_overtaken(probes[-300:])
                while not probes[-1].done():
                    assert never_overtaken(probes)
                assert all(each.done() for each in probes)

            in_threads(work, 4)
        finally:
            stop.set()
            thread.join()
        stats = settled(pool)
        assert stats.total.failed == stats.deaths > 0


# --- a bound for each


def test_each_session_has_a_queue_of_its_own() -> None:
    with Pool(size=1, capacity=5, policy="reject") as pool:
        held = hold(pool)
        for name in ("a", "b"):
            session = pool.session(name)
            for _ in range(5):
                session.submit(simple(), TEXT)
            with pytest.raises(PoolSaturated) as caught:
                session.submit(simple(), TEXT)
            assert caught.value.retry_after is not None
            assert session.pending == 5
        assert pool.queued == 0
        assert [pool._probe() for _ in range(5)]
        assert still(held)
        assert pool.stats().sessions["pending"] == 10
        let_go(held)
        assert settled(pool).total.done == 16
        assert pool.stats().sessions["pending"] == 0


def test_a_full_session_says_when_to_come_again() -> None:
    with Pool(size=1, capacity=50, policy="reject") as pool:
        for _ in range(20):
            pool._probe(busy=0.01).result()
        session = pool.session("a")
        held = hold(pool)
        for _ in range(50):
            session.submit(simple(), TEXT)
        with pytest.raises(PoolSaturated) as caught:
            session.submit(simple(), TEXT)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 0.1  # 50 calls of 10 ms, as far as is known
        assert still(held)
        let_go(held)
