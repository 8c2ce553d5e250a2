"""The one background thread of a live program: it does what is not to hold up a call."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from dspex.distill.hooks import log

__all__ = ["Auditor", "Job"]

#: What is done once a reply has gone out. Its errors are logged.
Job = Callable[[], object]


class Auditor:
    """Runs jobs in the order in which they came, and a tick at intervals; a daemon thread of its own.

    It starts with the first job or with `start`.

    Args:
        tick: what is done about every `interval` seconds, and last of all at the end.
        interval: seconds.
        room: jobs that may wait.

    Attributes:
        errors: jobs and ticks that raised.
    """

    def __init__(self, tick: Job, *, interval: float, room: int) -> None:
        self._tick, self._interval, self._room = tick, interval, room
        self._jobs: deque[Job] = deque()
        self._taken = 0  # places: jobs that wait, run, or have been promised
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._wanted = False
        self.errors = 0

    def start(self) -> None:
        """Starts the thread, unless it runs."""
        with self._changed:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="dspex-distill", daemon=True)
                self._thread.start()

    def reserve(self) -> bool:
        """Takes a place for a job that may come; False when all are taken. `release` or `add` follows."""
        with self._changed:
            if self._closing or self._taken >= self._room:
                return False
            self._taken += 1
            return True

    def release(self) -> None:
        """Gives back a place for which no job came."""
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    def add(self, job: Job) -> None:
        """Adds a job for which a place was reserved."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def offer(self, job: Job) -> bool:
        """Adds a job if there is a place."""
        if not self.reserve():
            return False
        self.add(job)
        return True

    def wake(self) -> None:
        """Asks for a tick now."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Waits until no job is left; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._taken == 0, timeout)

    def end(self) -> None:
        """Takes no more jobs; those that wait, and a last tick, come before the thread ends by itself."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, timeout: float) -> int:
        """Takes no more jobs, runs those that wait, ticks a last time, and ends the thread.

        Args:
            timeout: seconds after which jobs that wait are dropped; the one that runs ends by itself.

        Returns:
            jobs that were dropped.
        """
        self.end()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return 0
        thread.join(timeout)
        with self._changed:
            dropped = len(self._jobs)
            self._jobs.clear()
            self._taken -= dropped
            self._changed.notify_all()
        if thread.is_alive():
            thread.join(min(timeout, 1.0))
        return dropped

    def _run(self) -> None:
        due = time.monotonic() + self._interval
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._jobs or self._closing or self._wanted, max(0.0, due - time.monotonic())
                )
                job = self._jobs.popleft() if self._jobs else None
                ends = self._closing and job is None
                ticks = ends or self._wanted or time.monotonic() >= due
                self._wanted = False
            if job is not None:
                self._do(job)
                with self._changed:
                    self._taken -= 1
                    self._changed.notify_all()
            if ticks:
                self._do(self._tick)
                due = time.monotonic() + self._interval
            if ends:
                return

    def _do(self, job: Job) -> None:
        try:
            job()
        except Exception:
            self.errors += 1
            log.exception("a background job of a live program raised")
