"""Hedging: a second way is started when the first has not come back, and the first good answer counts."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Hedge", "Race"]

T = TypeVar("T")

#: Threads that all hedges of this process may have at once. When they are used up, calls go without a hedge.
MOST_THREADS = 128
_threads = threading.BoundedSemaphore(MOST_THREADS)


class Race(NamedTuple, Generic[T]):
    """How two ways to one answer ended.

    Attributes:
        answer: the answer that counts.
        hedged: whether the second way was started.
        won: whether the second way gave the answer.
        lost_by: what went wrong on the second way, where the first gave an answer that is not good.
    """

    answer: T
    hedged: bool = False
    won: bool = False
    lost_by: BaseException | None = None


class Hedge(Generic[T]):
    """Runs one way to an answer, and another beside it when the first is slow.

    Args:
        after: seconds, at least 0, until the second way is started.
        starts_at_once: whether an error of the first way starts the second at once; otherwise it is raised.
        is_good: whether an answer of the first way ends the race. One that is not good is the answer all the
            same when the second way was not started, or failed.
    """

    def __init__(
        self,
        after: float,
        *,
        starts_at_once: Callable[[BaseException], bool],
        is_good: Callable[[T], bool] = lambda answer: True,
    ) -> None:
        self._after = after
        self._starts_at_once = starts_at_once
        self._is_good = is_good

    def run(self, first: Callable[[], T], second: Callable[[], T]) -> Race[T]:
        """The race with threads, in which both ways see the caller's context variables.

        A thread cannot be stopped: the loser goes on until its own deadline, and nobody looks at its answer.

        Raises:
            What the first way raised, when the second was not started or failed too.
        """
        ended: queue.SimpleQueue[_End[T]] = queue.SimpleQueue()
        if not _start(first, ended, second=False):
            return Race(first())
        try:
            end = ended.get(timeout=self._after)
        except queue.Empty:
            end = None
        if end is not None and self._settles(end):
            return Race(end.answer())
        if not _start(second, ended, second=True):
            return Race((end or ended.get()).answer())
        one = end or ended.get()
        if self._wins(one):
            return Race(one.answer(), hedged=True, won=one.second)
        return _judged(one, ended.get())

    async def arun(self, first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[T]]) -> Race[T]:
        """The race with tasks; the loser is cancelled.

        Raises:
            As `run`.
        """
        tasks = [asyncio.ensure_future(_ended(first, second=False))]
        try:
            await asyncio.wait(tasks, timeout=self._after)
            if tasks[0].done() and self._settles(tasks[0].result()):
                return Race(tasks[0].result().answer())
            tasks.append(asyncio.ensure_future(_ended(second, second=True)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            early, late = tasks if tasks[0].done() else tasks[::-1]
            if not self._wins(early.result()):
                return _judged(early.result(), await late)
            return Race(early.result().answer(), hedged=True, won=early.result().second)
        finally:
            for task in tasks:
                task.cancel()

    def _settles(self, end: _End[T]) -> bool:
        """Whether the first way has ended so that the second need not be started."""
        return end.error is None or not self._starts_at_once(end.error)

    def _wins(self, end: _End[T]) -> bool:
        return end.error is None and (end.second or self._is_good(end.answer()))


class _End(Generic[T]):
    """How one way ended."""

    __slots__ = ("_answer", "error", "second")

    def __init__(self, second: bool, answer: Any, error: BaseException | None) -> None:
        self.second = second
        self._answer: T = answer
        self.error = error

    def answer(self) -> T:
        if self.error is not None:
            raise self.error
        return self._answer


def _judged(one: _End[T], other: _End[T]) -> Race[T]:
    """The first to end was not good: what the two come to."""
    first, second = (other, one) if one.second else (one, other)
    if second.error is None and (first.error is not None or not one.second):
        return Race(second.answer(), hedged=True, won=True)
    return Race(first.answer(), hedged=True, lost_by=second.error)


def _start(way: Callable[[], T], ended: queue.SimpleQueue[_End[T]], *, second: bool) -> bool:
    """Starts a way on a thread of its own; False when there are too many threads."""
    if not _threads.acquire(blocking=False):
        return False
    context = contextvars.copy_context()

    def work() -> None:
        try:
            ended.put(_End(second, context.run(way), None))
        except BaseException as error:
            ended.put(_End(second, None, error))
        finally:
            _threads.release()

    threading.Thread(target=work, name="dspex-hedge", daemon=True).start()
    return True


async def _ended(way: Callable[[], Awaitable[T]], *, second: bool) -> _End[T]:
    try:
        return _End(second, await way(), None)
    except Exception as error:  # a cancellation goes on its way
        return _End(second, None, error)
