"""Event loops and pools that are full, that end, or that lose a worker; many loops, and loops that end.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import PoolSaturated, ResourceError
from test_pool_tools import (
    LONG,
    descriptors,
    hold,
    in_threads,
    let_go,
    linux,
    new_loop,
    on_both_loops,
    route,
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
Tasks = list[asyncio.Task[Any]]


# --- full pools


@on_both_loops
@pytest.mark.parametrize("policy", ["block", "caller_runs"])
@pytest.mark.parametrize("capacity", [1, 4, 64])
def test_calls_wait_for_room_without_holding_up_the_loop(loop: str, policy: str, capacity: int) -> None:
    ended: list[int] = []

    async def one(pool: Pool, number: int, row: dict[str, Any]) -> Any:
        result = await pool.acall(simple(), row)
        ended.append(number)
        return result

    async def main(pool: Pool) -> None:
        held = hold(pool)
        calls = asyncio.gather(*(one(pool, i, row) for i, row in enumerate(texts(200))))
        await asyncio.sleep(0.01)
        assert still(held)  # and so this loop was free to go on
        assert pool.queued == capacity
        let_go(held)
        assert await calls == [simple().predict(row) for row in texts(200)]
        assert ended == [*range(200)]

    with Pool(size=1, capacity=capacity, policy=policy) as pool:
        run(loop, main(pool))
        assert (pool.stats().rejected, pool.stats().caller_runs) == (0, 0)


@on_both_loops
def test_under_reject_a_full_pool_turns_calls_away(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        tasks = await started(pool, texts(10))
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in outcome[4:]] == [PoolSaturated] * 6
        assert all(each.retry_after > 0 and each.retryable for each in outcome[4:])
        assert outcome[:4] == [simple().predict(row) for row in texts(4)]
        assert not still(held)

    with Pool(size=1, capacity=4, policy="reject") as pool:
        run(loop, main(pool))
        assert (pool.stats().rejected, settled(pool).accepted) == (6, 5)


@on_both_loops
def test_who_stops_waiting_for_room_is_never_let_in(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        tasks = await started(pool, texts(10))
        await asyncio.sleep(0.01)
        for task in tasks[2:]:
            task.cancel()
        await asyncio.sleep(0)
        assert still(held)
        let_go(held)
        assert len(await asyncio.gather(*tasks[:2])) == 2
        assert all(task.cancelled() for task in tasks[2:])

    with Pool(size=1, capacity=2) as pool:
        run(loop, main(pool))
        assert settled(pool).accepted == 3


@on_both_loops
@pytest.mark.parametrize("capacity", [4, 1000])
def test_when_the_pool_ends_nobody_believes_to_have_been_cancelled(loop: str, capacity: int) -> None:
    """Those in the queue, and those in line before it, learn that the pool was closed."""

    async def main(pool: Pool) -> None:
        held = hold(pool, 0.2)
        tasks = await started(pool, texts(20))
        await asyncio.to_thread(pool.close, 0)
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in outcome] == [ResourceError] * 20
        assert not any(each.retryable for each in outcome)
        assert held[0].result() == (0,)

    run(loop, main(Pool(size=1, capacity=capacity)))


@on_both_loops
def test_a_call_whose_worker_dies(loop: str) -> None:
    """Those run together with it are lost with it, and told so; the next ones are answered."""

    async def main(pool: Pool) -> None:
        hold(pool, 0.05)
        pool._probe(fault="death", batchable=True)
        tasks = await started(pool, texts(5))
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in outcome} == {ResourceError}
        assert all(each.retryable for each in outcome)
        assert await pool.acall(simple(), TEXT) == simple().predict(TEXT)

    with Pool(size=1, window=500e-6) as pool:
        run(loop, main(pool))
        assert pool.stats().deaths == 1


# --- many loops, and loops that end


@on_both_loops
def test_loops_in_many_threads_share_a_pool(loop: str) -> None:
    rows = texts(300)
    truth = [simple().predict(row) for row in rows]

    async def main(pool: Pool) -> None:
        for _ in range(scaled(3)):
            assert await asyncio.gather(*(pool.acall(simple(), row) for row in rows)) == truth

    with Pool(size=2, capacity=100) as pool:
        in_threads(lambda number: run(loop, main(pool)), 4)
        assert settled(pool).total.done == 4 * scaled(3) * 300


@on_both_loops
@pytest.mark.parametrize("tidy", [True, False])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_while_calls_are_under_way_leaves_nothing_behind(loop: str, tidy: bool) -> None:
    """Calls that run, wait, and stand in line; their tasks cancelled, as asyncio.run does, or not."""
    alive: list[Any] = []

    async def leave(pool: Pool) -> None:
        program = simple().with_route(route("left"))
        alive.append(weakref.ref(program))
        for row in [{"text": LONG[:1_000_000]}, *texts(20)]:
            kept.append(asyncio.ensure_future(pool.acall(program, row)))
        await asyncio.sleep(0.001)

    async def call(pool: Pool) -> None:
        assert await pool.acall(simple(), TEXT) == simple().predict(TEXT)

    with Pool(size=1, capacity=5) as pool:
        run(loop, call(pool))
        before = descriptors()
        for _ in range(10):
            kept: Tasks = []
            if tidy:
                run(loop, leave(pool))
            else:
                its = new_loop(loop)
                its.run_until_complete(leave(pool))
                its.close()
                for task in kept:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                del its, task
            kept.clear()
        gc.collect()
        until(lambda: settled(pool).queued == 0)
        for _ in range(2):  # what is over is let go of when the next loop comes
            run(loop, call(pool))
            gc.collect()
        assert [each() for each in alive] == [None] * 10
        assert descriptors() <= before + 4


@linux
@on_both_loops
def test_many_short_loops_leave_nothing_behind(loop: str) -> None:
    async def main(pool: Pool) -> None:
        assert await pool.acall(simple(), TEXT) == simple().predict(TEXT)

    with Pool(size=1) as pool:
        run(loop, main(pool))
        gc.collect()
        before, counts = descriptors(), []
        for _ in range(scaled(100)):
            run(loop, main(pool))
            counts.append(descriptors())
        gc.collect()
        assert descriptors() <= before + 4
        assert max(counts) <= before + 20


@on_both_loops
def test_calls_of_a_session_keep_their_order_even_where_there_is_no_room(loop: str) -> None:
    ended: list[int] = []

    async def one(session: Any, number: int) -> None:
        await session.acall(simple(), TEXT)
        ended.append(number)

    async def main(pool: Pool) -> None:
        session = pool.session("a")
        pool._probe(sleep=0.02, strand=session._strand)
        others = [pool._probe() for _ in range(20)]
        await asyncio.gather(*(one(session, i) for i in range(100)))
        assert ended == [*range(100)]
        assert all(other.done() for other in others)
        assert session.calls == 100

    with Pool(size=2, capacity=4) as pool:
        run(loop, main(pool))


def test_a_waiting_loop_costs_next_to_nothing() -> None:
    """Two thousand calls that wait for room: the loop and the processor stay free."""

    async def main(pool: Pool) -> None:
        held = hold(pool)
        tasks = await started(pool, texts(2000))
        computed, begin = time.thread_time(), time.monotonic()
        await asyncio.sleep(0.3)
        assert still(held)
        assert time.thread_time() - computed < 0.2 * (time.monotonic() - begin)
        let_go(held)
        assert len(await asyncio.gather(*tasks)) == 2000

    with Pool(size=1, capacity=8) as pool:
        asyncio.run(main(pool))
