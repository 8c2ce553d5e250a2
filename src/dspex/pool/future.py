"""Futures of pool calls, as `concurrent.futures` knows them."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspex._pool import Handle, LoopBox

if TYPE_CHECKING:
    from dspex._core import Result

    _Base = concurrent.futures.Future[Result]
else:
    _Base = concurrent.futures.Future

__all__ = ["Future"]

_log = logging.getLogger("dspex.pool")
_LINGER = 0.1  # seconds that the notifier's thread waits for more before it ends


class Future(Handle, _Base):
    """The result to come of one call. Works with `concurrent.futures.wait`, `as_completed` and
    `asyncio.wrap_future`. Callbacks run in a thread of their own, in the order in which calls end.
    """

    # concurrent.futures.Future.__init__ is not called: most futures need neither its lock nor its lists. What
    # is needed lies in __dict__: "callbacks" until they have been called; "condition", "waiters" and "told".

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Calls `fn(future)` when the call has ended, at once if it has. What `fn` raises is logged."""
        if not self.done():
            with _lock:
                self._expect(fn)
            return
        _run(fn, self)

    def _expect(self, fn: Callable[[Any], object]) -> None:
        """Has the notifier call `fn`. With `_lock` held."""
        callbacks = self.__dict__.get("callbacks")
        if callbacks:
            callbacks.append(fn)
            return
        self.__dict__["callbacks"] = [fn]
        try:
            _notifier().expect(self)
        except BaseException:
            del self.__dict__["callbacks"]
            raise

    def _ended(self) -> None:
        """By the notifier: tells everybody who waits."""
        with _lock:
            callbacks = self.__dict__.pop("callbacks", [])
        for fn in callbacks:
            _run(fn, self)

    # What concurrent.futures.wait and as_completed look at. They count on a state that changes only under the
    # condition: once somebody has asked for that, the end shows when it has been told.
    if not TYPE_CHECKING:

        @property
        def _state(self) -> str:
            if not self.__dict__.get("told", self.done()):
                return "PENDING"
            return "CANCELLED_AND_NOTIFIED" if self.cancelled() else "FINISHED"

        @property
        def _condition(self) -> threading.Condition:
            with _lock:
                if "condition" not in self.__dict__:
                    self.__dict__["condition"] = threading.Condition()
                    self.__dict__["waiters"] = []
                    self.__dict__["told"] = self.done()
                    if not self.__dict__["told"]:
                        self._expect(Future._tell_waiters)
                condition: threading.Condition = self.__dict__["condition"]
                return condition

        @property
        def _waiters(self) -> list[Any]:
            waiters: list[Any] = self.__dict__["waiters"]  # who looks at them holds the condition
            return waiters

    def _tell_waiters(self) -> None:
        with self._condition:
            self.__dict__["told"] = True
            for waiter in self.__dict__["waiters"]:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self.exception() is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._condition.notify_all()

    def set_running_or_notify_cancel(self) -> bool:
        raise concurrent.futures.InvalidStateError("the pool alone runs this future")

    def set_result(self, result: Any) -> None:
        raise concurrent.futures.InvalidStateError("the pool alone sets the result")

    def set_exception(self, exception: BaseException | None) -> None:
        raise concurrent.futures.InvalidStateError("the pool alone sets the exception")

    def __repr__(self) -> str:
        ended = "cancelled" if self.cancelled() else "ended"
        return f"<dspex.pool.Future {ended if self.done() else 'running' if self.running() else 'waiting'}>"


def _run(fn: Callable[[Any], object], future: Future) -> None:
    try:
        fn(future)
    except BaseException:  # whatever it is, the others are told
        _log.exception("a callback of %r failed", future)


class _Notifier:
    """Waits for ended futures that have callbacks, in a thread that is there only while there are some."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._box = LoopBox(os.dup(self._writing))
        self._outstanding = 0
        self._running = self._at_exit = False

    def expect(self, future: Future) -> None:
        """With `_lock` held."""
        if not self._running:
            self._running = True
            try:
                threading.Thread(target=self._run, name="dspex-notifier").start()
            except BaseException:
                self._running = False
                raise
        self._outstanding += 1
        future._listen(self._box)

    def leave_when_alone(self) -> None:
        """The interpreter is about to wait for its threads: this one stays for the others only."""
        self._at_exit = True
        os.write(self._writing, b"x")

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        while True:
            if poller.poll(_LINGER * 1000):
                os.read(self._reading, 4096)
            ended = self._box.take()
            for future in ended:
                future._ended()
            with _lock:
                self._outstanding -= len(ended)
                if (not ended and self._outstanding == 0) or (self._at_exit and _alone()):
                    self._running = False
                    return


def _alone() -> bool:
    """Whether no other thread keeps the interpreter; the main one is at its end."""
    mine = (threading.current_thread(), threading.main_thread())
    return all(thread.daemon or thread in mine for thread in threading.enumerate())


_lock = threading.Lock()
_the_notifier: _Notifier | None = None


def _notifier() -> _Notifier:
    """With `_lock` held."""
    global _the_notifier
    if _the_notifier is None:
        _the_notifier = _Notifier()
    return _the_notifier


def _after_fork() -> None:
    global _lock, _the_notifier
    _lock, _the_notifier = threading.Lock(), None  # the thread is the parent's


def _at_shutdown() -> None:
    if _the_notifier is not None:
        _the_notifier.leave_when_alone()


os.register_at_fork(after_in_child=_after_fork)
# As concurrent.futures does it: before the interpreter waits for its threads. There is no public way.
getattr(threading, "_register_atexit", atexit.register)(_at_shutdown)
