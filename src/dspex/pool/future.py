"""Futures of pool calls, as `concurrent.futures` knows them."""

from __future__ import annotations

import concurrent.futures
import logging
import os
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

    # concurrent.futures.Future.__init__ is not called: most futures need neither its lock nor its lists.

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Calls `fn(future)` when the call has ended, at once if it has. What `fn` raises is logged."""
        with _lock:
            callbacks = self.__dict__.setdefault("callbacks", [])
            if callbacks is not None:
                callbacks.append(fn)
                if len(callbacks) == 1:
                    _notifier().expect(self)
                return
        _run(fn, self)

    def _ended(self) -> None:
        """By the notifier: tells everybody who waits."""
        with _lock:
            callbacks = self.__dict__.get("callbacks") or []
            self.__dict__["callbacks"] = None
        for fn in callbacks:
            _run(fn, self)

    # What concurrent.futures.wait and as_completed look at. For type checkers: the base's.
    if not TYPE_CHECKING:

        @property
        def _state(self) -> str:
            if self.cancelled():
                return "CANCELLED_AND_NOTIFIED"
            return "FINISHED" if self.done() else "RUNNING" if self.running() else "PENDING"

        @property
        def _condition(self) -> threading.Condition:
            with _lock:
                condition: threading.Condition = self.__dict__.setdefault("condition", threading.Condition())
                return condition

        @property
        def _waiters(self) -> list[Any]:
            with _lock:
                if "waiters" not in self.__dict__:
                    self.__dict__["waiters"] = []
                    # By the notifier even if the call has ended: who waits is put in it only after this.
                    callbacks = self.__dict__.get("callbacks")
                    if callbacks:
                        callbacks.append(Future._tell_waiters)
                    else:
                        self.__dict__["callbacks"] = [Future._tell_waiters]
                        _notifier().expect(self)
                waiters: list[Any] = self.__dict__["waiters"]
                return waiters

    def _tell_waiters(self) -> None:
        with self._condition:  # held while waiters are put in place
            for waiter in self.__dict__["waiters"]:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self.exception() is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)

    def set_running_or_notify_cancel(self) -> bool:
        raise concurrent.futures.InvalidStateError("the pool alone runs this future")

    def set_result(self, result: Any) -> None:
        raise concurrent.futures.InvalidStateError("the pool alone sets the result")

    def set_exception(self, exception: BaseException | None) -> None:
        raise concurrent.futures.InvalidStateError("the pool alone sets the exception")

    def __repr__(self) -> str:
        return f"<dspex.pool.Future {self._state.lower()}>"


def _run(fn: Callable[[Any], object], future: Future) -> None:
    try:
        fn(future)
    except Exception:
        _log.exception("a callback of %r failed", future)


class _Notifier:
    """Waits for ended futures that have callbacks, in a thread that is there only while there are some."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.set_blocking(self._reading, False)
        self._box = LoopBox(writing)
        self._outstanding = 0
        self._running = False

    def expect(self, future: Future) -> None:
        """With `_lock` held."""
        self._outstanding += 1
        if not self._running:
            self._running = True
            threading.Thread(target=self._run, name="dspex-notifier").start()
        future._listen(self._box)

    def _run(self) -> None:
        import select

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
                if not ended and self._outstanding == 0:
                    self._running = False
                    return


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


os.register_at_fork(after_in_child=_after_fork)
