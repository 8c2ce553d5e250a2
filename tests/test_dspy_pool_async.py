"""Tasks, cancellation and batches, on all workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import InputError, LMError, PoolSaturated, ProgramError
from dspex.testing.lm_server import LMServer, Request
from dspy_pool_tools import SERVER, borrowed, echo, in_threads, over, settled, until

REPLY = "text -> reply"


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        SERVER.answers = echo
        yield adapter


@pytest.fixture
def pid(adapter: DspyPoolAdapter) -> str:
    return adapter.create_program({"signature": REPLY})


def row(n: Any) -> dict[str, str]:
    return {"text": f"row {n}"}


def replies(results: Any) -> list[str]:
    return [result.reply for result in results]


def expected(count: int, start: int = 0) -> list[str]:
    return [f"row {n}"[::-1] for n in range(start, start + count)]


def test_many_tasks_of_one_loop(adapter: DspyPoolAdapter, pid: str) -> None:
    SERVER.delay = 0.02

    async def main() -> None:
        ticks = 0
        calls = asyncio.gather(*(adapter.aexecute_program(pid, row(n)) for n in range(20)))
        before = time.monotonic()
        while not calls.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert replies(await calls) == expected(20)
        assert ticks > (time.monotonic() - before) / 0.05  # the loop was never held up for long

    asyncio.run(main())
    assert SERVER.max_in_flight == 2


def test_tasks_of_several_loops_and_threads(adapter: DspyPoolAdapter, pid: str) -> None:
    async def some(start: int) -> list[str]:
        return replies(
            await asyncio.gather(*(adapter.aexecute_program(pid, row(n)) for n in range(start, start + 5)))
        )

    def work(n: int) -> list[str]:
        if n % 2:
            return asyncio.run(some(5 * n))
        return [adapter.execute_program(pid, row(k)).reply for k in range(5 * n, 5 * n + 5)]

    assert in_threads(work, 6) == [expected(5, 5 * n) for n in range(6)]


def test_cancelled_tasks(adapter: DspyPoolAdapter, pid: str) -> None:
    """Those under way end by themselves, those that wait are never begun, and the workers stay."""
    SERVER.delay = 0.2
    workers = adapter.pool.pids()

    async def main() -> None:
        calls = [asyncio.create_task(adapter.aexecute_program(pid, row(n))) for n in range(6)]
        while SERVER.count < 2:
            await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
        before = time.monotonic()
        assert all(
            isinstance(e, asyncio.CancelledError)
            for e in await asyncio.gather(*calls, return_exceptions=True)
        )
        assert time.monotonic() - before < 0.18
        SERVER.delay = 0.0
        assert (await adapter.aexecute_program(pid, row(7))).reply == "row 7"[::-1]

    asyncio.run(main())
    assert SERVER.count == 3
    assert adapter.pool.pids() == workers
    until(lambda: adapter.get_stats()["pool"]["busy"] == 0)
    assert adapter.admissions._calls == {}


def test_a_timeout_around_a_task(adapter: DspyPoolAdapter, pid: str) -> None:
    SERVER.delay = 0.3

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(adapter.aexecute_program(pid, row(1)), 0.1)

    asyncio.run(main())
    assert adapter.execute_program(pid, row(2)).reply == "row 2"[::-1]


def test_a_loop_that_ends_in_the_middle(adapter: DspyPoolAdapter, pid: str) -> None:
    SERVER.delay = 0.2

    async def main() -> None:
        tasks = [asyncio.create_task(adapter.aexecute_program(pid, row(n))) for n in range(4)]
        while SERVER.count < 2:
            await asyncio.sleep(0.005)
        assert tasks

    asyncio.run(main())
    SERVER.delay = 0.0
    assert replies(adapter.execute_batch(pid, [row(n) for n in range(4)])) == expected(4)


def test_a_batch_is_in_order_and_on_all_workers(adapter: DspyPoolAdapter, pid: str) -> None:
    SERVER.delay = 0.05
    assert replies(adapter.execute_batch(pid, [row(n) for n in range(10)])) == expected(10)
    assert SERVER.max_in_flight == 2
    assert adapter.execute_batch(pid, []) == []


def test_the_first_error_of_a_batch_names_its_row(adapter: DspyPoolAdapter, pid: str) -> None:
    def answer(request: Request) -> Any:
        bad = request.fields["text"] in ("row 3", "row 4")
        return "no fields at all" if bad else echo(request)

    SERVER.answers = answer
    with pytest.raises(LMError, match="does not fit") as caught:
        adapter.execute_batch(pid, [row(n) for n in range(50)])
    assert (caught.value.row, caught.value.program) == (3, pid)
    assert SERVER.count < 20  # what had not begun was not sent
    SERVER.clear()
    with pytest.raises(InputError) as wrong:
        adapter.execute_batch(pid, [row(0), {"text": 3}, row(2)])
    assert (wrong.value.row, wrong.value.field) == (1, "text")
    assert SERVER.count == 0


def test_each_row_has_its_own_deadline(adapter: DspyPoolAdapter, pid: str) -> None:
    SERVER.delay = 0.2
    found = adapter.execute_batch(pid, [row(n) for n in range(6)], {"timeout": 0.6})
    assert replies(found) == expected(6)


def test_more_calls_than_may_wait(lm_server: LMServer) -> None:
    lm_server.answers = echo
    lm_server.delay = 0.3
    with over(lm_server, dspy_pool={"capacity": 1}) as adapter:
        pid = adapter.create_program({"signature": REPLY})
        settled(adapter)

        async def main() -> list[Any]:
            calls = [adapter.aexecute_program(pid, row(n)) for n in range(5)]
            return await asyncio.gather(*calls, return_exceptions=True)

        found = asyncio.run(main())
        refused = [error for error in found if isinstance(error, PoolSaturated)]
        assert len(refused) == 3
        assert all(error.retry_after and error.retryable and error.program == pid for error in refused)
        assert lm_server.count == 2
        assert adapter.get_stats()["lms"]["server"]["cancelled"] == 3  # their permits were given back


def test_calls_and_tasks_after_the_end(lm_server: LMServer) -> None:
    lm_server.answers = echo
    lm_server.delay = 0.2
    adapter = over(lm_server)
    pid = adapter.create_program({"signature": REPLY})

    async def main() -> None:
        call = asyncio.create_task(adapter.aexecute_program(pid, row(1)))
        while not lm_server.in_flight:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(adapter.close)
        assert (await call).reply == "row 1"[::-1]  # what was begun ends
        with pytest.raises(ProgramError, match="closed"):
            await adapter.aexecute_program(pid, row(2))

    asyncio.run(main())
    adapter.close()
    assert not adapter.health_check()
    for use in (
        lambda: adapter.execute_program(pid, row(1)),
        lambda: adapter.create_program({"signature": REPLY}),
        lambda: adapter.configure_lm(lm_server.lm_config()),
        lambda: adapter.delete_program(pid),
        lambda: adapter.available(pid),
        adapter.get_stats,
    ):
        with pytest.raises(ProgramError, match="closed") as caught:
            use()
        assert not caught.value.retryable
