"""Who is told of the end of a call: callbacks, each once; and that nobody need look at a future at all."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from typing import Any

import pytest

from dspex import Pool
from test_pool_tools import (
    LONG,
    hold,
    in_threads,
    let_go,
    route,
    run_script,
    scaled,
    settled,
    simple,
    still,
    texts,
    until,
)

TEXT = texts(1)[0]


class Calls:
    """Counts calls, and says when there are enough."""

    def __init__(self, expected: int) -> None:
        self.seen: list[Any] = []
        self.expected = expected
        self.enough = threading.Event()

    def __call__(self, future: Any) -> None:
        self.seen.append(future)
        if len(self.seen) >= self.expected:
            self.enough.set()


def test_each_callback_is_called_once_whenever_it_was_added() -> None:
    with Pool(size=1) as pool:
        (future,) = hold(pool, 0.3)
        ended = pool._probe(strand=None)
        calls = Calls(6)
        for each in (future, future, ended):
            each.add_done_callback(calls)
        ended.result()
        for each in (future, ended, ended):
            each.add_done_callback(calls)
        assert calls.enough.wait(10)
        marker = Calls(1)  # callbacks are called in the order of ends: this one comes last
        pool._probe().add_done_callback(marker)
        assert marker.enough.wait(10)
        assert sorted(map(id, calls.seen)) == sorted(map(id, [future] * 3 + [ended] * 3))


def test_a_callback_of_an_ended_future_is_called_at_once() -> None:
    """As concurrent.futures has it."""
    with Pool(size=1) as pool:
        for _ in range(50):
            future = pool._probe()
            future.result()
            calls = Calls(1)
            future.add_done_callback(calls)
            assert calls.seen == [future]


def test_callbacks_that_are_added_by_many_threads_while_calls_end() -> None:
    with Pool(size=2, capacity=4096) as pool:
        for _ in range(scaled(20)):
            futures = [pool._probe(busy=1e-6 * (i % 20)) for i in range(50)]
            calls = Calls(8 * len(futures))

            def work(number: int, futures: Any = futures, calls: Any = calls) -> None:
                for future in futures:
                    future.add_done_callback(calls)

            in_threads(work)
            assert calls.enough.wait(20)
            assert {id(f): calls.seen.count(f) for f in futures} == {id(f): 8 for f in futures}


def test_callbacks_see_how_calls_ended() -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        futures = [
            pool._probe(),
            pool._probe(fault="error"),
            pool._probe(fault="death"),
            pool._probe(timeout=0),
        ]
        futures += [pool._probe() for _ in range(2)]
        calls = Calls(len(futures))
        for future in futures:
            future.add_done_callback(lambda f: calls((f, f.done(), f.cancelled())))
        cancelled = futures[4]
        assert cancelled.cancel()
        until(lambda: calls.seen)  # at once: it need not wait for a worker
        assert calls.seen == [(cancelled, True, True)]
        assert still(held)
        assert calls.enough.wait(10)
        assert calls.seen[1:] == [(f, True, False) for f in futures if f is not cancelled]  # as they ended
        let_go(held)


def test_what_callbacks_raise_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(size=1) as pool, caplog.at_level(logging.ERROR, "dspex.pool"):
        held = hold(pool)
        future, calls = pool._probe(), Calls(3)
        for raises in (True, False, True, False):

            def callback(f: Any, raises: bool = raises) -> None:
                if raises:
                    raise ValueError("mine")
                calls(f)

            future.add_done_callback(callback)
        assert still(held)
        let_go(held)
        pool._probe().add_done_callback(calls)
        assert calls.enough.wait(10)
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError] * 2


def test_a_callback_that_ends_its_thread_stops_nobody() -> None:
    done = run_script("""
import concurrent.futures, sys, threading
import dspex
with dspex.Pool(size=1) as pool:
    for raised in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        def callback(future, raised=raised):
            raise raised
        pool._probe().add_done_callback(callback)
        called = threading.Event()
        pool._probe(sleep=0.05).add_done_callback(lambda future: called.set())
        assert called.wait(3), raised
        probes = [pool._probe(sleep=0.05) for _ in range(3)]
        assert len(concurrent.futures.wait(probes, 3).done) == 3
""")
    assert done.returncode == 0, done.stderr


def test_callbacks_may_use_the_pool() -> None:
    """Calls, callbacks of further calls, and the end of the pool, from within a callback."""
    pool, ended = Pool(size=1), threading.Event()

    def last(future: Any) -> None:
        assert pool.close()
        ended.set()

    def first(future: Any) -> None:
        assert pool.call(simple(), TEXT) == simple().predict(TEXT)
        pool._probe().add_done_callback(last)

    pool._probe().add_done_callback(first)
    assert ended.wait(10)
    assert pool.closed


def test_the_thread_that_calls_callbacks_is_there_only_while_there_are_some() -> None:
    def there() -> bool:
        return any(thread.name == "dspex-notifier" for thread in threading.enumerate())

    until(lambda: not there())
    with Pool(size=1) as pool:
        pool._probe().result()
        assert not there()
        pool._probe(sleep=0.05).add_done_callback(lambda future: None)
        assert there()
        until(lambda: not there())
        calls = Calls(1)
        pool._probe().add_done_callback(calls)
        assert calls.enough.wait(10)


# --- futures that nobody looks at


def test_a_future_that_is_dropped_still_runs_and_keeps_its_program() -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        program = simple().with_route(route("dropped"))
        alive = weakref.ref(program)
        for _ in range(20):
            pool.submit(program, {"text": LONG[:1000]})
        del program
        gc.collect()
        assert alive() is not None
        assert still(held)
        let_go(held)
        assert settled(pool).total.done == 21


def test_the_program_of_a_dropped_future_goes_when_the_call_has_ended() -> None:
    with Pool(size=1) as pool:
        programs = [simple().with_route(route(str(i))) for i in range(5)]
        alive = [weakref.ref(program) for program in programs]
        hold(pool, 0.02)
        while programs:
            pool.submit(programs.pop(), TEXT)
    gc.collect()
    assert [each() for each in alive] == [None] * 5


def test_a_future_keeps_its_program_and_not_its_pool() -> None:
    program = simple().with_route(route("kept"))
    with Pool(size=1) as pool:
        future = pool.submit(program, TEXT)
    alive, pool_alive = weakref.ref(program), weakref.ref(pool)
    del program, pool
    gc.collect()
    assert pool_alive() is None
    assert future.result().route == route("kept")
    kept = future.result()
    del future
    gc.collect()
    assert alive() is None
    assert kept == simple().predict(TEXT)


def test_results_of_ended_futures_hold_no_inputs() -> None:
    class Text(str):
        """A string that can be watched."""

    text = Text("refund")
    before = sys.getrefcount(text)
    with Pool(size=1) as pool:
        future = pool.submit(simple(), {"text": text})
        future.result()
        gc.collect()
        assert sys.getrefcount(text) == before
