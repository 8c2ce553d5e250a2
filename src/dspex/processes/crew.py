"""Threads for what must not hold up anybody: they come when there is work, and stay until the end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Crew"]

_LINGER = 10.0  # seconds that an idle thread waits for more work


class Crew:
    """As many daemon threads as there is work at once. Daemons, because the interpreter's end must not wait
    for a call that another process is working on: it ends the process instead.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: deque[Callable[[], None]] = deque()
        self._come = threading.Condition()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def submit(self, work: Callable[[], None]) -> None:
        """Has it called in some thread, at once; it is to raise nothing.

        Raises:
            RuntimeError: no thread can be started.
        """
        with self._come:
            self._work.append(work)
            if self._idle >= len(self._work):
                self._come.notify()
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                self._threads.discard(thread)
                self._work.remove(work)
                raise

    def close(self, seconds: float) -> None:
        """Ends the threads, when their work has ended; waits for that, but not for longer."""
        with self._come:
            self._closed = True
            self._come.notify_all()
            threads = list(self._threads)
        end = time.monotonic() + seconds
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # what it holds is not to live until the next one comes

    def _next(self) -> Callable[[], None] | None:
        with self._come:
            self._idle += 1
            try:
                self._come.wait_for(lambda: self._work or self._closed, _LINGER)
            finally:
                self._idle -= 1
            if self._work:
                return self._work.popleft()
            self._threads.discard(threading.current_thread())
            return None
