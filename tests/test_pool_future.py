"""Futures of calls: their results, and the ways in which they end."""

from __future__ import annotations

import concurrent.futures
import gc
import math
import time
from typing import Any

import pytest

import dspex
from dspex import Pool
from dspex.errors import CallTimeoutError, InputError, InternalError, ResourceError
from dspex.pool import Future
from test_pool_tools import (
    hold,
    in_threads,
    let_go,
    mixed_rows,
    of_all_kinds,
    scaled,
    settled,
    simple,
    still,
    texts,
)

TEXT = texts(1)[0]
CancelledError = concurrent.futures.CancelledError


def test_results_are_those_of_predict() -> None:
    with Pool(size=2) as pool:
        for program, rows in ((simple(), texts(300)), (of_all_kinds(), mixed_rows(300))):
            futures = [pool.submit(program, row) for row in rows]
            for future, row in zip(futures, rows, strict=True):
                ours, theirs = future.result(), program.predict(row)
                assert ours == theirs
                assert ours.confidence == theirs.confidence
                assert ours.route == theirs.route
                assert future.result() is ours  # made once
                assert future.exception() is None


@pytest.mark.parametrize(
    "text", ["", " ", "\u200d", "refund \ud800", "退款", "x" * 100_000, "é" * 5000, "👍"]
)
def test_texts_of_all_kinds_are_copied_whole(text: str) -> None:
    with Pool(size=1) as pool:
        future = pool.submit(simple(), {"text": text})
        if text.strip(" \u200d"):
            assert future.result() == simple().predict({"text": text})
            return
        with pytest.raises(InputError) as of_future:  # nothing to answer from: found out while it runs
            future.result()
        with pytest.raises(InputError) as of_program:
            simple().predict({"text": text})
        assert str(of_future.value) == str(of_program.value)
        assert isinstance(future.exception(), InputError)
        assert not future.cancelled()


def test_inputs_are_copied_when_they_are_submitted() -> None:
    with Pool(size=1) as pool:
        row: dict[str, Any] = mixed_rows(1)[0]
        expected = of_all_kinds().predict(row)
        held = hold(pool)
        future = pool.submit(of_all_kinds(), row)
        row["place"][0] = math.nan
        row.clear()
        assert still(held)
        let_go(held)
        gc.collect()
        assert future.result() == expected


# --- the ways of ending


def test_a_call_that_waits_can_be_cancelled() -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        future = pool.submit(simple(), TEXT)
        assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
        assert repr(future) == "<dspex.pool.Future waiting>"
        assert future.cancel()
        assert future.cancel()  # it is
        assert (future.done(), future.running(), future.cancelled()) == (True, False, True)
        for ask in (future.result, future.exception):
            with pytest.raises(CancelledError):
                ask()
        assert still(held)
        let_go(held)
        held[0].result()
        assert pool._probe().result() == (0,)
        total = settled(pool).total
        assert (total.cancelled, total.done) == (1, 2)


def test_a_call_that_runs_or_has_ended_cannot_be_cancelled() -> None:
    with Pool(size=1) as pool:
        (future,) = hold(pool, 0.1)
        assert not future.cancel()
        assert (future.done(), future.running(), future.cancelled()) == (False, True, False)
        assert repr(future) == "<dspex.pool.Future running>"
        assert future.result() == (0,)
        assert not future.cancel()
        assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
        assert repr(future) == "<dspex.pool.Future ended>"
        assert future.result() == (0,)


def test_cancelling_from_many_threads_against_a_worker() -> None:
    """Every call is either run or cancelled, and everybody is told the same."""
    with Pool(size=1, capacity=4096) as pool:
        told = []
        for _ in range(scaled(100)):
            futures = [pool.submit(simple(), TEXT) for _ in range(40)]
            verdicts: list[list[bool]] = [[] for _ in futures]

            def work(number: int, futures: Any = futures, verdicts: Any = verdicts) -> None:
                for future, verdict in zip(futures, verdicts, strict=True):
                    verdict.append(future.cancel())

            in_threads(work, 3)
            for future, verdict in zip(futures, verdicts, strict=True):
                future.exception() if not any(verdict) else None
                assert set(verdict) == {future.cancelled()}
                told.append(future.cancelled())
        total = settled(pool).total
        assert total.cancelled == sum(told)
        assert total.done == len(told) - sum(told)


def test_a_task_that_fails_and_one_whose_worker_dies() -> None:
    with Pool(size=1) as pool:
        failed, lost, after = pool._probe(fault="error"), pool._probe(fault="death"), pool._probe()
        error = failed.exception()
        assert isinstance(error, InternalError)
        assert "a probe that fails" in str(error)
        with pytest.raises(ResourceError, match="worker died") as caught:
            lost.result()
        assert caught.value.retryable
        assert after.result() == (0,)
        for future in (failed, lost):
            assert (future.done(), future.cancelled()) == (True, False)
            assert repr(future) == "<dspex.pool.Future ended>"
        stats = settled(pool)
        assert (stats.total.done, stats.total.failed, stats.deaths) == (1, 2, 1)


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, 1e-9])
def test_what_has_not_begun_by_its_deadline_is_not_run(timeout: float) -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        future = pool.submit(simple(), TEXT, timeout=timeout)
        assert still(held)
        let_go(held)
        with pytest.raises(CallTimeoutError, match="deadline") as caught:
            future.result()
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.retryable
        assert not future.cancelled()
        assert settled(pool).total.expired == 1


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_asking_in_vain_takes_as_long_as_allowed(ask: str) -> None:
    with Pool(size=1) as pool:
        (future,) = hold(pool, 0.5)
        for timeout in (0, -1, 0.02, 0.12):
            begin = time.monotonic()
            with pytest.raises(CallTimeoutError, match=r"no result within"):
                getattr(future, ask)(timeout)
            took = time.monotonic() - begin
            assert max(0, timeout) <= took < max(0, timeout) + 0.2
        assert future.running()
        assert getattr(future, ask)(30) == {"result": (0,), "exception": None}[ask]


def test_the_deadline_of_a_call_also_ends_the_waiting_for_it() -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        with pytest.raises(CallTimeoutError):
            pool.call(simple(), TEXT, timeout=0.02)
        assert still(held)
        let_go(held)


def test_many_threads_wait_for_one_future() -> None:
    with Pool(size=1) as pool:
        for seconds in (0, 1e-5, 1e-3, 0.1):
            future = pool._probe(sleep=seconds)
            seen: list[Any] = []
            in_threads(lambda number, future=future, seen=seen: seen.append(future.result()))
            assert seen == [(0,)] * 8


def test_results_cannot_be_set_from_outside() -> None:
    with Pool(size=1) as pool:
        future = pool._probe()
        assert isinstance(future, Future)
        assert isinstance(future, concurrent.futures.Future)
        for attempt in (
            lambda: future.set_result(1),
            lambda: future.set_exception(ValueError()),
            future.set_running_or_notify_cancel,
        ):
            with pytest.raises(concurrent.futures.InvalidStateError):
                attempt()
        assert future.result() == (0,)
        assert dspex.pool.Future is Future
