"""Threads for work that somebody waits for with a deadline, and that has to be cut off or left behind then.

A blocking request cannot be stopped, but a task can, down to the open connection: so requests with a deadline
run on an event loop. Other people's code cannot be stopped at all: it runs on a thread that is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

from dspex.errors import ProgramError
from dspex.protection import Deadline
from dspex.protection.waiting import forget_in_child

__all__ = ["APART", "LoopThread", "Loops", "apart", "keep_of_parent", "outcome"]

T = TypeVar("T")
_CLOSING = 2.0  # seconds for cancelled requests to end
#: The name of threads that may be left behind.
APART = "dspex-dspy-apart"


class LoopThread:
    """A daemon thread that runs an event loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pending: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this is the thread: who waits here for the loop waits for ever."""
        return threading.current_thread() is self._thread

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Starts the coroutine that `work` makes, in the caller's context. Cancelling the future cancels it;
        so does closing the loop.
        """
        done: Future[T] = Future()
        self._pending.add(done)
        done.add_done_callback(self._pending.discard)
        try:
            self._loop.call_soon_threadsafe(self._start, work, done, contextvars.copy_context())
        except RuntimeError:  # it is closed
            done.cancel()
        return done

    def _start(
        self, work: Callable[[], Coroutine[Any, Any, T]], done: Future[T], context: contextvars.Context
    ) -> None:
        if done.cancelled():
            return
        task = self._loop.create_task(work(), context=context)
        # A cancelled future is one that nobody waits for any more: its task has to end.
        done.add_done_callback(lambda future: self._cancel(task) if future.cancelled() else None)
        task.add_done_callback(lambda ended: _pass_on(ended, done))

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task.cancel)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
            for done in list(self._pending):  # what came too late to be begun
                done.cancel()

    def stop(self) -> None:
        """Has the thread cancel what runs and end, and does not wait for that."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        """Cancels what runs, and ends the thread if that ends."""
        self.stop()
        if not self.is_current:
            self._thread.join(_CLOSING)


def _pass_on(task: asyncio.Task[T], done: Future[T]) -> None:
    if not done.set_running_or_notify_cancel():
        if not task.cancelled():
            task.exception()  # seen: nobody waits for it
    elif task.cancelled():
        done.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


class Loops:
    """The event loop of one adapter's requests, started when it is first needed.

    Attributes:
        closed: whether `close` was called.
    """

    def __init__(self) -> None:
        self._shared: LoopThread | None = None
        self._lock = threading.Lock()
        self.closed = False
        forget_in_child(self)

    def shared(self) -> LoopThread:
        """The loop.

        Raises:
            ProgramError: it is closed.
        """
        with self._lock:
            if self.closed:
                raise ProgramError("the adapter is closed")
            if self._shared is None:
                self._shared = LoopThread("dspex-dspy-requests")
                # An adapter that is dropped unclosed leaves no thread behind.
                self._dropped = weakref.finalize(self, self._shared.stop)
                self._dropped.atexit = False
            return self._shared

    def close(self) -> None:
        """Cancels the requests under way."""
        with self._lock:
            self.closed = True
            shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        keep_of_parent(self._shared)
        if self._shared is not None:
            self._dropped.detach()
        self._shared = None  # its thread is not there


_of_parent: list[Any] = []


def keep_of_parent(thing: Any) -> None:
    """Never frees what a forked child has of its parent's event loop. Both listen through one thing of the
    system's: what closes in the child is not heard in the parent any more.
    """
    _of_parent.append(thing)


def apart(work: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    """Calls `work` on a new thread, in the caller's context; it is left behind when nobody waits any more."""
    done: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            result = context.run(work, *args, **kwargs)
        except StopIteration as error:  # no future can pass it on
            ended = RuntimeError(f"StopIteration was raised: {error}")
            ended.__cause__ = error
            done.set_exception(ended)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=run, name=APART, daemon=True).start()
    return done


def outcome(future: Future[T], deadline: Deadline, program: str | None, what: str = "the call") -> T:
    """The result of a future, or raises its error.

    Raises:
        CallTimeoutError: there is none by the deadline.
    """
    left = deadline.left()
    if left is not None and not wait([future], min(left, threading.TIMEOUT_MAX)).done:
        raise deadline.error(program, what)
    return future.result()
