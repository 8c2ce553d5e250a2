"""Calls from event loops: nothing holds the loop up, and a cancelled task costs nobody a worker."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from dspex.errors import CallTimeoutError, CommunicationError, LMError, PoolSaturated, ResourceError
from processes_tools import after, in_threads, is_alive, pool, until

T = TypeVar("T")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


def run(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Runs it as asyncio.run does, on a loop of that kind."""

    def factory() -> asyncio.AbstractEventLoop:
        if loop == "asyncio":
            return asyncio.new_event_loop()
        made: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
        return made

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def test_answers_and_errors(loop: str) -> None:
    async def main() -> None:
        assert await p.acall("echo", [1]) == [1]
        with pytest.raises(LMError):
            await p.acall("raise_own")
        with pytest.raises(CommunicationError, match="cannot be sent"):
            await p.acall("echo", object())
        with pytest.raises(CommunicationError, match="may have been begun"):
            await p.acall("exit", 3)
        assert await p.acall("echo", 2, deadline=after(10)) == 2

    with pool() as p:
        run(loop, main())


def test_many_tasks_share_few_workers(loop: str) -> None:
    async def main() -> None:
        answers = await asyncio.gather(*(p.acall("square", n) for n in range(300)))
        assert [answer[:2] for answer in answers] == [[n, n * n] for n in range(300)]

    with pool(size=3) as p:
        run(loop, main())
        assert p.stats()["calls"] == 300


def test_the_loop_is_never_held_up(loop: str) -> None:
    async def main() -> float:
        longest, last = 0.0, time.monotonic()
        calls = asyncio.gather(*(p.acall("sleep", 0.4) for _ in range(4)))
        while not calls.done():
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        await calls
        return longest

    with pool(size=2) as p:
        assert run(loop, main()) < 0.35


def test_calls_run_side_by_side(loop: str) -> None:
    async def main() -> float:
        start = time.monotonic()
        await asyncio.gather(*(p.acall("sleep", 0.4) for _ in range(4)))
        return time.monotonic() - start

    with pool(size=4) as p:
        assert run(loop, main()) < 1.3


def test_deadlines(loop: str) -> None:
    async def main() -> None:
        start = time.monotonic()
        with pytest.raises(CallTimeoutError) as caught:
            await p.acall("sleep", 60, deadline=after(0.1), program="p")
        assert caught.value.program == "p"
        assert time.monotonic() - start < 1
        held = asyncio.ensure_future(p.acall("sleep", 0.4, deadline=after(10)))
        await asyncio.sleep(0.05)
        with pytest.raises(CallTimeoutError, match="waiting for a worker"):
            await p.acall("echo", 1, deadline=after(0.1), program="p")
        await held

    with pool() as p:
        run(loop, main())
        assert p.stats()["timeouts"] == 1


def test_a_full_pool_refuses(loop: str) -> None:
    async def main() -> None:
        held = asyncio.ensure_future(p.acall("sleep", 0.3))
        await asyncio.sleep(0.05)
        waiting = asyncio.ensure_future(p.acall("echo", 1))
        await asyncio.sleep(0)
        with pytest.raises(PoolSaturated):
            await p.acall("echo", 2)
        assert await waiting == 1
        await held

    with pool(capacity=1) as p:
        run(loop, main())


def test_sessions(loop: str) -> None:
    async def main() -> None:
        pairs = await asyncio.gather(*(p.acall("count", "s", session="s") for _ in range(20)))
        assert len({pid for pid, _ in pairs}) == 1
        assert sorted(count for _, count in pairs) == list(range(1, 21))

    with pool(size=3) as p:
        run(loop, main())


def test_a_task_cancelled_while_it_waits_leaves_the_line(loop: str) -> None:
    async def main() -> None:
        held = asyncio.ensure_future(p.acall("sleep", 0.3))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(p.acall("echo", n)) for n in range(3)]
        await asyncio.sleep(0.05)
        waiting[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]
        assert p.stats()["waiting"] == 2
        assert [await waiting[0], await waiting[2]] == [0, 2]
        await held

    with pool() as p:
        run(loop, main())
        assert p.stats()["idle"] == 1


def test_a_task_cancelled_during_its_call_leaves_a_worker_that_works(loop: str) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(p.acall("sleep", 0.2))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await p.acall("pid") == pid  # when the other call has ended

    with pool() as p:
        (pid,) = p.pids()
        run(loop, main())
        assert p.stats()["calls"] == 2


def test_a_cancelled_call_that_hangs_ends_at_its_deadline(loop: str) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(p.acall("sleep", 60, deadline=after(0.3)), 0.05)
        assert await p.acall("pid", deadline=after(10)) != pid

    with pool() as p:
        (pid,) = p.pids()
        run(loop, main())
        until(lambda: not is_alive(pid))


def test_a_worker_given_to_a_task_as_it_is_cancelled_is_not_lost(loop: str) -> None:
    async def main() -> None:
        for n in range(60):
            held = asyncio.ensure_future(p.acall("sleep", 0.002))
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(p.acall("echo", n))
            await asyncio.sleep(0.0001 * (n % 40))
            waiting.cancel()
            await asyncio.gather(held, waiting, return_exceptions=True)
        assert await p.acall("echo", 1, deadline=after(5)) == 1

    with pool() as p:
        run(loop, main())
        until(lambda: p.stats()["idle"] == 1)


def test_a_loop_that_is_closed_with_tasks_in_it_costs_no_worker() -> None:
    with pool() as p:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(p.acall("sleep", 0.1)) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0.05))
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        del task, tasks
        gc.collect()
        assert p.call("echo", 1, deadline=after(5)) == 1
        until(lambda: p.stats()["idle"] == 1)
        assert p.stats()["waiting"] == 0


def test_many_loops_in_many_threads() -> None:
    async def main(number: int) -> None:
        answers = await asyncio.gather(*(p.acall("square", n) for n in range(number, number + 40)))
        assert [answer[0] for answer in answers] == list(range(number, number + 40))

    with pool(size=2) as p:
        in_threads(lambda number: asyncio.run(main(number)), 5)
        assert p.stats()["calls"] == 200


def test_callbacks_see_the_context_of_the_task() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[Any] = []

    async def main() -> None:
        who.set("the caller")
        await p.acall("tell", 1)
        assert await p.acall("ask", None) == "the caller"

    with pool(on_tell=lambda op, payload: seen.append(who.get()), on_ask=lambda op, payload: who.get()) as p:
        asyncio.run(main())
    assert seen == ["the caller"]


def test_a_listener_that_raises_what_no_future_takes() -> None:
    def listen(op: str, payload: Any) -> None:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(p.acall("tell", 1, on_tell=listen), 5)

    with pool() as p:
        asyncio.run(main())
        assert p.call("echo", 1) == 1


def test_closing_fails_what_waits_and_ends_what_runs(loop: str) -> None:
    async def main() -> None:
        running = asyncio.ensure_future(p.acall("sleep", 60))
        await asyncio.sleep(0.05)
        waiting = asyncio.ensure_future(p.acall("echo", 1))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(p.close, 0.1)
        for task in (waiting, running):
            with pytest.raises(ResourceError, match="closed") as caught:
                await task
            assert not caught.value.retryable
        with pytest.raises(ResourceError):
            await p.acall("echo", 1)

    with pool() as p:
        run(loop, main())


def test_without_threads_a_call_is_refused_and_its_worker_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with pytest.raises(ResourceError, match="no thread"):
            await p.acall("echo", 1)

    with pool() as p:
        until(lambda: p._fleet.crew._idle)
        with p._fleet.crew._come:
            idle, p._fleet.crew._idle = p._fleet.crew._idle, 0
        monkeypatch.setattr(threading.Thread, "start", refuse)
        asyncio.run(main())
        monkeypatch.undo()
        with p._fleet.crew._come:
            p._fleet.crew._idle += idle
        assert p.call("echo", 1) == 1


def test_a_death_while_the_task_waits(loop: str) -> None:
    async def main() -> None:
        held = asyncio.ensure_future(p.acall("sleep", 60))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(p.acall("echo", 1, deadline=after(10)))
        os.kill(p.pids()[0], signal.SIGKILL)
        assert await waiting == 1
        with pytest.raises(CommunicationError):
            await held

    with pool() as p:
        run(loop, main())
