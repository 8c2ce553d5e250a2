"""Hedging: the second way starts when the first is slow, and the first good answer counts."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dspex.routing import Hedge, Race, hedge

#: Seconds: before the hedge, where it is to come; of a way that it overtakes; before one that is not to come.
SHORT, LONG, NEVER = 0.03, 0.6, 20.0


def way(answer: Any, delay: float = 0.0, log: list[str] | None = None) -> Callable[[], Any]:
    def go() -> Any:
        if log is not None:
            log.append(str(answer))
        time.sleep(delay)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return go


def away(answer: Any, delay: float = 0.0, log: list[str] | None = None) -> Callable[[], Awaitable[Any]]:
    async def go() -> Any:
        if log is not None:
            log.append(str(answer))
        await asyncio.sleep(delay)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return go


def race(
    first: tuple[Any, float],
    second: tuple[Any, float],
    *,
    after: float = SHORT,
    at_once: bool = False,
    is_async: bool,
    **more: Any,
) -> tuple[Race[Any], list[str]]:
    log: list[str] = []
    ways: Hedge[Any] = Hedge(after, starts_at_once=lambda error: at_once, **more)
    if is_async:
        return asyncio.run(ways.arun(away(*first, log), away(*second, log))), log  # type: ignore[arg-type]
    return ways.run(way(*first, log), way(*second, log)), log


both = pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
BROKEN, WORSE = ValueError("broken"), KeyError("worse")


@both
def test_a_fast_first_way_is_alone(is_async: bool) -> None:
    found, log = race(("one", 0), ("two", 0), after=NEVER, is_async=is_async)
    assert found == Race("one")
    assert log == ["one"]


@both
def test_the_second_way_wins(is_async: bool) -> None:
    found, log = race(("one", LONG), ("two", 0), is_async=is_async)
    assert found == Race("two", hedged=True, won=True)
    assert log == ["one", "two"]


@both
def test_the_second_way_loses(is_async: bool) -> None:
    found, _ = race(("one", 8 * SHORT), ("two", LONG), is_async=is_async)
    assert found == Race("one", hedged=True)


@both
def test_an_error_of_the_first_way(is_async: bool) -> None:
    with pytest.raises(ValueError, match="broken"):
        race((BROKEN, 0), ("two", 0), after=NEVER, is_async=is_async)
    found, log = race((BROKEN, 0), ("two", 0), after=NEVER, at_once=True, is_async=is_async)
    assert found == Race("two", hedged=True, won=True)
    assert log == ["broken", "two"]


@both
def test_an_error_is_no_answer(is_async: bool) -> None:
    found, _ = race(("one", 8 * SHORT), (BROKEN, 0), is_async=is_async)
    assert found == Race("one", hedged=True, lost_by=BROKEN)
    found, _ = race((BROKEN, 8 * SHORT), ("two", 9 * SHORT), is_async=is_async)
    assert found == Race("two", hedged=True, won=True)
    with pytest.raises(ValueError, match="broken"):
        race((BROKEN, 8 * SHORT), (WORSE, 0), is_async=is_async)
    with pytest.raises(ValueError, match="broken"):
        race((BROKEN, 8 * SHORT), (WORSE, 9 * SHORT), is_async=is_async)


@both
def test_an_answer_that_is_not_good(is_async: bool) -> None:
    def good(answer: str) -> bool:
        return answer != "poor"

    found, log = race(("poor", 0), ("two", 0), after=NEVER, is_async=is_async, is_good=good)
    assert found == Race("poor")  # what to do with it is not the hedge's business
    assert log == ["poor"]
    found, _ = race(("poor", 8 * SHORT), ("two", 12 * SHORT), is_async=is_async, is_good=good)
    assert found == Race("two", hedged=True, won=True)
    found, _ = race(("poor", 8 * SHORT), (BROKEN, 0), is_async=is_async, is_good=good)
    assert found == Race("poor", hedged=True, lost_by=BROKEN)
    found, _ = race(("good", 8 * SHORT), (BROKEN, 12 * SHORT), is_async=is_async, is_good=good)
    assert found == Race("good", hedged=True)


def test_the_loser_is_cancelled() -> None:
    seen: list[str] = []

    async def first() -> str:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "one"

    async def main() -> Race[str]:
        found = await Hedge[str](SHORT, starts_at_once=lambda e: False).arun(first, away("two"))
        await asyncio.sleep(0)
        return found

    assert asyncio.run(main()).answer == "two"
    assert seen == ["cancelled"]


def test_a_cancelled_race_cancels_both() -> None:
    seen: list[str] = []

    def waiting(name: str) -> Callable[[], Awaitable[str]]:
        async def go() -> str:
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                seen.append(name)
                raise
            return name

        return go

    async def main() -> None:
        task = asyncio.ensure_future(
            Hedge[str](SHORT, starts_at_once=lambda e: False).arun(waiting("one"), waiting("two"))
        )
        await asyncio.sleep(3 * SHORT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(main())
    assert sorted(seen) == ["one", "two"]


def test_ways_see_the_callers_context() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    name.set("caller")
    found = Hedge[str](SHORT, starts_at_once=lambda e: False).run(
        lambda: time.sleep(LONG) or "", lambda: name.get()
    )
    assert found.answer == "caller"


def test_too_many_threads_go_without_a_hedge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedge, "_threads", threading.BoundedSemaphore(1))
    here = threading.get_ident()
    ways: Hedge[Any] = Hedge(SHORT, starts_at_once=lambda e: False)
    # one thread: the first way has it, and the second cannot be started
    assert ways.run(way("one", 8 * SHORT), way("two")) == Race("one")
    hedge._threads.acquire()
    assert ways.run(threading.get_ident, way("two")) == Race(here)  # none: in the caller's own
    hedge._threads.release()
    assert ways.run(threading.get_ident, way("two")).answer != here  # given back
