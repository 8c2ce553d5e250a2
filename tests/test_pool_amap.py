"""Streams of rows through the pool: order, a bound on what is under way, errors at their turn, early ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import CallTimeoutError, ConfigError, InputError, PoolSaturated, ResourceError
from test_pool_tools import LONG, hold, let_go, on_both_loops, run, scaled, settled, simple, still, texts

ROWS = texts(500)


def truth(rows: list[dict[str, Any]]) -> list[Any]:
    return [simple().predict(row) for row in rows]


class Source:
    """Rows that come one by one; knows how many were taken, and whether it was closed."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.taken = 0
        self.closed = False

    async def stream(self) -> AsyncIterator[Any]:
        try:
            for row in self.rows:
                self.taken += 1
                yield row
                if self.taken % 7 == 0:
                    await asyncio.sleep(0)
        finally:
            self.closed = True

    def plain(self) -> Iterator[Any]:
        try:
            for row in self.rows:
                self.taken += 1
                yield row
        finally:
            self.closed = True


@on_both_loops
@pytest.mark.parametrize("concurrency", [1, 2, 64, 10_000])
@pytest.mark.parametrize("kind", ["list", "stream", "plain", "iterator"])
def test_results_come_in_the_order_of_the_rows(loop: str, kind: str, concurrency: int) -> None:
    async def main(pool: Pool) -> None:
        source = Source(ROWS)
        rows: Any = {
            "list": ROWS,
            "stream": source.stream(),
            "plain": source.plain(),
            "iterator": iter(ROWS),
        }[kind]
        results = [each async for each in pool.amap(simple(), rows, concurrency=concurrency)]
        assert results == truth(ROWS)

    with Pool(size=2, capacity=100) as pool:
        run(loop, main(pool))


@on_both_loops
def test_no_rows_give_no_results(loop: str) -> None:
    async def main(pool: Pool) -> None:
        for rows in ([], iter([]), Source([]).stream()):
            assert [each async for each in pool.amap(simple(), rows)] == []

    with Pool(size=1) as pool:
        run(loop, main(pool))
        assert pool.stats().accepted == 0


@on_both_loops
@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_no_more_calls_than_allowed_are_under_way(loop: str, concurrency: int) -> None:
    """Whatever the pace of the consumer."""

    async def main(pool: Pool) -> None:
        source, got, most = Source(ROWS[:200]), 0, 0
        async for _ in pool.amap(simple(), source.stream(), concurrency=concurrency):
            most = max(most, source.taken - got)
            got += 1
            if got % 20 == 0:  # a slow consumer: the source has to wait
                await asyncio.sleep(0.001)
                assert source.taken - got <= concurrency
        assert 1 <= most <= concurrency
        assert got == 200

    with Pool(size=1) as pool:
        run(loop, main(pool))


@on_both_loops
def test_calls_are_under_way_at_the_same_time(loop: str) -> None:
    """While no worker is free, as many wait in the pool as are allowed."""

    async def main(pool: Pool) -> None:
        held = hold(pool)
        stream = pool.amap(simple(), ROWS, concurrency=20)
        first = asyncio.ensure_future(anext(stream))
        while pool.queued < 20 and still(held):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert pool.queued == 20  # and no more
        assert still(held)
        let_go(held)
        assert [await first, *[each async for each in stream]] == truth(ROWS)

    with Pool(size=1) as pool:
        run(loop, main(pool))


@on_both_loops
@pytest.mark.parametrize("way", ["break", "aclose", "error"])
def test_leaving_early_cancels_what_has_not_begun(loop: str, way: str) -> None:
    async def main(pool: Pool) -> None:
        source = Source([{"text": "refund"}, {"text": LONG}, *ROWS])
        stream = pool.amap(simple(), source.stream(), concurrency=30)

        async def consume() -> None:
            async for _ in stream:
                if way == "break":
                    break
                if way == "aclose":
                    await stream.aclose()
                    break
                raise ValueError("mine")

        outcome = (await asyncio.gather(consume(), return_exceptions=True))[0]
        assert type(outcome) is (ValueError if way == "error" else type(None))
        await stream.aclose()
        assert source.taken <= 31
        assert pool.stats().accepted <= 31

    with Pool(size=1) as pool:
        run(loop, main(pool))
        total = settled(pool).total
        assert total.cancelled + total.done == pool.stats().accepted
        assert total.done <= 30


@on_both_loops
def test_cancelling_the_consumer_cancels_what_has_not_begun(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        stream = pool.amap(simple(), Source(ROWS).stream(), concurrency=30)
        consumer = asyncio.ensure_future(anext(stream))
        while pool.queued < 30:
            await asyncio.sleep(0.001)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert still(held)
        let_go(held)

    with Pool(size=1) as pool:
        run(loop, main(pool))
        assert (settled(pool).total.cancelled, pool.stats().total.done) == (30, 1)


@on_both_loops
def test_leaving_early_closes_the_source(loop: str) -> None:
    async def main(pool: Pool) -> None:
        source = Source(ROWS)
        stream = pool.amap(simple(), source.stream(), concurrency=5)
        await anext(stream)
        await stream.aclose()
        assert source.closed

    with Pool(size=1) as pool:
        run(loop, main(pool))


@on_both_loops
@pytest.mark.parametrize("bad", [{"text": 3}, {"text": " "}, {}], ids=repr)
def test_an_error_comes_at_its_turn(loop: str, bad: dict[str, Any]) -> None:
    async def main(pool: Pool) -> None:
        rows = [*ROWS[:40], bad, *ROWS[40:60], bad]
        results: list[Any] = []

        async def consume() -> None:
            async for each in pool.amap(simple(), rows, concurrency=16):
                results.append(each)

        with pytest.raises(InputError):
            await consume()
        assert results == truth(ROWS[:40])
        assert await pool.acall(simple(), ROWS[0]) == simple().predict(ROWS[0])

    with Pool(size=1) as pool:
        run(loop, main(pool))


@on_both_loops
def test_an_error_of_the_source_ends_the_stream(loop: str) -> None:
    async def source() -> AsyncIterator[Any]:
        for row in ROWS[:10]:
            yield row
        raise KeyError("no more rows")

    async def main(pool: Pool) -> None:
        with pytest.raises(KeyError, match="no more rows"):
            assert [each async for each in pool.amap(simple(), source(), concurrency=3)]

    with Pool(size=1) as pool:
        run(loop, main(pool))
        stats = settled(pool)
        assert stats.total.done + stats.total.cancelled == stats.accepted <= 10


@on_both_loops
def test_deadlines_are_those_of_the_calls(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool)
        with pytest.raises(CallTimeoutError):
            await anext(pool.amap(simple(), ROWS, concurrency=3, timeout=0.02))
        assert still(held)
        assert len([each async for each in pool.amap(simple(), ROWS, timeout=30)]) == 500
        let_go(held)

    with Pool(size=1) as pool:
        run(loop, main(pool))


@on_both_loops
def test_a_full_pool_makes_the_stream_wait_or_fail(loop: str) -> None:
    async def main(pool: Pool) -> None:
        held = hold(pool, 0.1)
        stream = pool.amap(simple(), ROWS, concurrency=50)
        if pool.policy == "reject":
            with pytest.raises(PoolSaturated):
                assert [each async for each in stream]
        else:
            assert [each async for each in stream] == truth(ROWS)
        assert not still(held)

    for policy in ("block", "reject"):
        with Pool(size=1, capacity=4, policy=policy) as pool:
            run(loop, main(pool))


@on_both_loops
def test_a_pool_that_ends_ends_the_stream(loop: str) -> None:
    async def main(pool: Pool) -> None:
        stream = pool.amap(simple(), ROWS, concurrency=8)
        assert await anext(stream)
        pool.close()
        with pytest.raises(ResourceError, match="closed"):
            assert [each async for each in stream]

    run(loop, main(Pool(size=1)))


@pytest.mark.parametrize("concurrency", [0, -1, True, 1.0, "4", None])
def test_a_bound_that_is_none_is_refused(concurrency: Any) -> None:
    async def main(pool: Pool) -> None:
        with pytest.raises(ConfigError) as caught:
            await anext(pool.amap(simple(), ROWS, concurrency=concurrency))
        assert caught.value.field == "concurrency"

    with Pool(size=1) as pool:
        asyncio.run(main(pool))


@pytest.mark.parametrize("rows", [{"text": "refund"}, "refund", b"refund", 3, None])
def test_what_is_no_stream_of_rows_is_refused(rows: Any) -> None:
    async def main(pool: Pool) -> None:
        with pytest.raises(InputError):
            await anext(pool.amap(simple(), rows))

    with Pool(size=1) as pool:
        asyncio.run(main(pool))


@on_both_loops
def test_streams_beside_each_other(loop: str) -> None:
    async def one(pool: Pool, first: int) -> list[Any]:
        rows = ROWS[first:] + ROWS[:first]
        return [each async for each in pool.amap(simple(), Source(rows).stream(), concurrency=7)]

    async def main(pool: Pool) -> None:
        firsts = range(0, 500, 50)
        results = await asyncio.gather(*(one(pool, first) for first in firsts))
        for first, ours in zip(firsts, results, strict=True):
            assert ours == truth(ROWS[first:] + ROWS[:first])

    with Pool(size=2, capacity=20) as pool:
        for _ in range(scaled(2)):
            run(loop, main(pool))


@on_both_loops
def test_a_stream_goes_as_fast_as_the_calls(loop: str) -> None:
    """Results are given when they are there: a source that pauses holds back nothing that has ended."""

    async def source() -> AsyncIterator[Any]:
        for row in ROWS[:5]:
            yield row
        await asyncio.sleep(0.5)
        yield ROWS[5]

    async def main(pool: Pool) -> None:
        begin, came = time.monotonic(), []
        async for _ in pool.amap(simple(), source(), concurrency=64):
            came.append(time.monotonic() - begin)
        assert len(came) == 6
        assert max(came[:5]) < 0.4

    with Pool(size=1) as pool:
        run(loop, main(pool))
