"""Sleeping until somebody nudges, for threads and for tasks; a lock that finalizers can use; forks."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

__all__ = ["Backlog", "Sleeper", "TaskSleeper", "ThreadSleeper", "forget_in_child"]

T = TypeVar("T")
_LONGEST: Final = 3600.0  # seconds of one sleep: a clock may overflow


class Sleeper(Protocol):
    """Somebody who sleeps now and then. Nudges that come while awake end the next sleep at once."""

    def nudge(self) -> bool:
        """From any thread, one at a time: wakes. False: nobody is there any more."""


class ThreadSleeper:
    """The thread that made it."""

    __slots__ = ("_bed",)

    def __init__(self) -> None:
        self._bed = threading.Lock()
        self._bed.acquire()

    def nudge(self) -> bool:
        if self._bed.locked():
            self._bed.release()
        return True

    def sleep(self, seconds: float) -> None:
        """Until a nudge, or so many seconds, or an hour."""
        self._bed.acquire(timeout=max(0.0, min(seconds, _LONGEST)))


class TaskSleeper:
    """The task that made it, on the loop that runs there."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def nudge(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed
            return False
        return True

    async def sleep(self, seconds: float) -> None:
        """As for threads."""
        timer = None if seconds == math.inf else self._loop.call_later(min(seconds, _LONGEST), self._wake)
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()
            self._future = self._loop.create_future()

    def _wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class Backlog(Generic[T]):
    """A lock, and what has to be done under it for those who must not wait for it.

    These are finalizers, of permits and of coroutines: the garbage collector may run them anywhere, also in a
    thread that holds the lock. Whoever holds it works off, after letting go of it, what came meanwhile.

    Args:
        work: does one item, with the lock held.

    Attributes:
        lock: taken by `with backlog`. Who takes it directly calls `work_off` afterwards if there are `items`.
    """

    __slots__ = ("_work", "items", "lock")

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self.lock = threading.Lock()
        self.items: deque[T] = deque()

    def put(self, item: T) -> None:
        """Has it done now, or soon by whoever holds the lock."""
        self.items.append(item)
        self.work_off()

    def work_off(self) -> None:
        """Does what there is. If the lock is held, that is left to the holder."""
        while self.items and self.lock.acquire(blocking=False):
            try:
                while self.items:
                    self._work(self.items.popleft())
            finally:
                self.lock.release()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.items:
            self.work_off()


class Forgetful(Protocol):
    """Holds locks, or counts what is under way: neither means anything in a forked child."""

    def _after_fork(self) -> None: ...


_forgetful: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def forget_in_child(each: Forgetful) -> None:
    """Has `each._after_fork()` called in every child that this process forks: other threads are not there."""
    _forgetful.add(each)


def _after_fork() -> None:
    for each in list(_forgetful):
        each._after_fork()


os.register_at_fork(after_in_child=_after_fork)
