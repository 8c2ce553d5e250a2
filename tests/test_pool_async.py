"""Calls on event loops, asyncio's and uvloop's: results, wake-ups, cancelling, deadlines.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dspex
from dspex import Pool, default_pool
from dspex.errors import CallTimeoutError, InputError, PoolSaturated
from dspex.pool import loops
from test_pool_tools import (
    LONG,
    hold,
    let_go,
    on_both_loops,
    run,
    scaled,
    settled,
    simple,
    started,
    still,
    texts,
    until,
)

TEXT = texts(1)[0]


@on_both_loops
def test_a_thousand_calls_at_once(loop: str) -> None:
    rows = texts(1000)

    async def main(pool: Pool) -> None:
        for _ in range(scaled(3)):
            results = await asyncio.gather(*(pool.acall(simple(), row) for row in rows))
            assert results == [simple().predict(row) for row in rows]

    with Pool(size=2) as pool:
        run(loop, main(pool))
        assert settled(pool).total.done == scaled(3) * 1000


@on_both_loops
def test_calls_that_end_together_wake_the_loop_once(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    read = loops._Reader._read

    def counted(reader: Any) -> None:
        nonlocal reads
        reads += 1
        read(reader)

    monkeypatch.setattr(loops._Reader, "_read", counted)  # before the loop's reader is made

    async def main(pool: Pool) -> None:
        tasks = await started(pool, texts(1000))
        settled(pool)  # the loop does nothing meanwhile
        assert reads == 0
        await asyncio.gather(*tasks)
        assert reads == 1

    with Pool(size=2) as pool:
        run(loop, main(pool))


@on_both_loops
def test_the_loop_goes_on_during_a_long_call(loop: str) -> None:
    async def main(pool: Pool) -> None:
        turns = 0
        (task,) = await started(pool, [{"text": LONG}])
        while not task.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 10
        assert await task == simple().predict({"text": LONG})

    with Pool(size=1) as pool:
        run(loop, main(pool))


@on_both_loops
@pytest.mark.parametrize(
    "inputs", [{}, {"text": 1}, {"text": "a", "b": 1}, {"text": ""}, {"text": " "}], ids=repr
)
def test_inputs_that_do_not_fit(loop: str, inputs: dict[str, Any]) -> None:
    async def main(pool: Pool) -> None:
        with pytest.raises(InputError) as of_pool:
            await pool.acall(simple(), inputs)
        with pytest.raises(InputError) as of_program:
            simple().predict(inputs)
        assert str(of_pool.value) == str(of_program.value)

    with Pool(size=1) as pool:
        run(loop, main(pool))


# --- cancelling


@on_both_loops
def test_cancelling_before_the_call_begins_cancels_the_work(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        tasks = await started(pool, texts(10))
        for task in tasks[::2]:
            assert task.cancel()
        await asyncio.sleep(0)
        assert still(held)
        let_go(held)
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in outcome] == [True, False] * 5
        assert outcome[1::2] == [simple().predict(row) for row in texts(10)[1::2]]

    with Pool(size=1) as pool:
        run(loop, main(pool))
        total = settled(pool).total
        assert (total.cancelled, total.done) == (5, 6)


@on_both_loops
def test_cancelling_a_call_that_runs_leaves_it_to_its_worker(loop: str) -> None:
    async def main(pool: Pool) -> None:
        (task,) = await started(pool, [{"text": LONG}])
        until(lambda: not pool.queued and pool.stats().parked == 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().total.ended == 0  # at once, and not when the worker has done it
        assert await pool.acall(simple(), TEXT) == simple().predict(TEXT)

    with Pool(size=1) as pool:
        run(loop, main(pool))
        assert (settled(pool).total.cancelled, pool.stats().total.done) == (0, 2)


@on_both_loops
def test_wait_for_gives_up_and_cancels(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.acall(simple(), TEXT), 0.02)
        assert still(held)
        let_go(held)

    with Pool(size=1) as pool:
        run(loop, main(pool))
        assert settled(pool).total.cancelled == 1


@on_both_loops
def test_cancelling_at_any_moment(loop: str) -> None:
    """Against a busy worker: each call is run or cancelled, and none is forgotten."""
    calls = scaled(3000)

    async def main(pool: Pool) -> int:
        cancelled = 0
        for _ in range(0, calls, 100):
            tasks = await started(pool, texts(100))
            for i, task in enumerate(tasks):
                if i % 3 == 0:
                    task.cancel()
                if i % 10 == 0:
                    await asyncio.sleep(0)
            outcome = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, (dspex.Result, asyncio.CancelledError)) for each in outcome)
            cancelled += sum(isinstance(each, asyncio.CancelledError) for each in outcome)
        return cancelled

    with Pool(size=1, spin=0) as pool:
        cancelled = run(loop, main(pool))
        stats = settled(pool)
        assert stats.accepted == stats.total.done + stats.total.cancelled
        assert stats.total.cancelled <= cancelled


# --- deadlines


@on_both_loops
@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_a_deadline_ends_the_waiting_and_the_call(loop: str, timeout: float) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        with pytest.raises(CallTimeoutError):
            await pool.acall(simple(), TEXT, timeout=timeout)
        assert still(held)
        let_go(held)
        assert await pool.acall(simple(), TEXT, timeout=30) == simple().predict(TEXT)

    with Pool(size=1) as pool:
        run(loop, main(pool))
        total = settled(pool).total
        assert (total.expired, total.cancelled, total.done) == (1, 0, 2)


@on_both_loops
def test_a_deadline_counts_while_there_is_no_room(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        tasks = await started(pool, texts(5), timeout=0.02)
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert still(held)
        let_go(held)
        assert {type(each) for each in outcome} <= {CallTimeoutError, PoolSaturated}
        assert all(each.retryable for each in outcome)

    with Pool(size=1, capacity=2) as pool:
        run(loop, main(pool))
        assert pool.close()
        assert pool.stats().total.done == 1  # what was too late was not run


# --- programs


@on_both_loops
def test_a_program_asks_the_pool_only_for_long_texts(loop: str) -> None:
    async def main() -> None:
        before = default_pool().stats().accepted
        short, long = {"text": "refund " * 10}, {"text": "refund " * 1000}
        assert await simple().acall(**short) == simple().predict(short)
        assert default_pool().stats().accepted == before
        assert await simple().acall(**long) == simple().predict(long)
        assert default_pool().stats().accepted == before + 1
        for bad in ({}, {"text": 1}, {"text": " " * 5000}, {"text": "a" * 5000, "more": 1}):
            with pytest.raises(InputError):
                await simple().acall(**bad)

    run(loop, main())


def test_a_call_needs_a_running_loop() -> None:
    with Pool(size=1) as pool:
        calling = pool.acall(simple(), TEXT)
        with pytest.raises(RuntimeError, match="no running event loop"):
            calling.send(None)
        assert pool.stats().accepted == 0
