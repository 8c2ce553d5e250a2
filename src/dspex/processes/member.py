"""What a pool knows of one of its workers."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from dspex.errors import DspexError
from dspex.processes.process import WorkerProcess

if TYPE_CHECKING:
    from dspex.processes.waiters import Waiter

__all__ = ["Entry", "Member"]


class Entry(NamedTuple):
    """An operation that every worker has to have done.

    Attributes:
        key: under which it is remembered for workers to come; None: it is not.
        op: the operation.
        payload: packed ahead.
    """

    key: str | None
    op: str
    payload: Any


class Member:
    """One worker of a pool. Changed under the pool's lock, its process used by whoever has checked it out.

    Attributes:
        number: counted from 1 as workers are started.
        process: None while it is being made.
        pending: operations that it has to do before its next call.
        failed: what of them failed, by key.
        queue: calls of sessions that have to wait for this worker.
        sessions: the sessions that stick to it.
        calls: that it has ended.
        idle: whether it waits for work.
        died: the process was seen to have ended.
        retiring: it goes on until its replacement is ready.
        leaving: it goes as soon as it is idle.
        idle_since, answered_at: on the monotonic clock.
    """

    def __init__(self, number: int, pending: deque[Entry]) -> None:
        self.number = number
        self.process: WorkerProcess | None = None
        self.pending = pending
        self.failed: dict[str, DspexError] = {}
        self.queue: deque[Waiter] = deque()
        self.sessions: set[str] = set()
        self.calls = 0
        self.idle = self.died = self.retiring = self.leaving = False
        self.idle_since = self.answered_at = time.monotonic()

    @property
    def running(self) -> WorkerProcess:
        """The process of a worker that has been started."""
        assert self.process is not None
        return self.process
