"""Calls that wait for a worker: in a thread, or in a task of an event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.processes.member import Member

__all__ = ["TaskWaiter", "ThreadWaiter", "Waiter"]


class Waiter:
    """One call in the line.

    Attributes:
        session: the session it belongs to.
        number: its place among all that ever waited.
        member: the worker it was given.
        error: what it is told in place of one.
    """

    __slots__ = ("error", "member", "number", "session")

    def __init__(self, session: str | None) -> None:
        self.session = session
        self.number = 0
        self.member: Member | None = None
        self.error: Exception | None = None

    def grant(self, member: Member) -> bool:
        """Gives it a worker; False: nobody is there to take it."""
        self.member = member
        if self._wake():
            return True
        self.member = None
        return False

    def fail(self, error: Exception) -> None:
        """Tells it that there will be no worker."""
        self.error = error
        self._wake()

    def _wake(self) -> bool:
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """Waits in a thread."""

    __slots__ = ("_gate",)

    def __init__(self, session: str | None) -> None:
        super().__init__(session)
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, seconds: float | None) -> None:
        """Until it is given a worker or an error, or the time is up."""
        self._gate.acquire(timeout=-1 if seconds is None else min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def _wake(self) -> bool:
        self._gate.release()
        return True


class TaskWaiter(Waiter):
    """Waits in a task, without holding up its event loop."""

    __slots__ = ("_loop", "_woken")

    def __init__(self, session: str | None) -> None:
        super().__init__(session)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    async def wait(self, seconds: float | None) -> None:
        """As `ThreadWaiter.wait`."""
        timer = None if seconds is None else self._loop.call_later(seconds, self._end)
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()

    def _end(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    def _wake(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop was closed with the task in it
            return False
        return True
