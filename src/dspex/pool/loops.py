"""The way from the pool's threads to an event loop: many ended calls, one wake-up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from typing import Any

from dspex._pool import LoopBox

__all__ = ["box_of"]

_MARK = "_dspex_box"
_lock = threading.Lock()
_readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reader] = weakref.WeakKeyDictionary()


class _Reader:
    """Reads one loop's box. Holds the loop only through the loop's own list of readers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if hasattr(os, "eventfd"):
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            writing = os.dup(self._fd)
        else:
            self._fd, writing = os.pipe()
            os.set_blocking(self._fd, False)
            os.set_blocking(writing, False)
        self.box = LoopBox(writing)
        self.pid = os.getpid()
        loop.add_reader(self._fd, self._read)
        weakref.finalize(self, os.close, self._fd)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)
        self.box.deliver()

    def discard(self) -> None:
        """Drops what ended after the loop was closed."""
        self.box.take()


def box_of(loop: asyncio.AbstractEventLoop) -> LoopBox:
    """The loop's box, made on first use in the loop's own thread."""
    reader = _readers.get(loop)
    if reader is None or reader.pid != os.getpid():
        with _lock:
            for other, its in list(_readers.items()):
                if other.is_closed():
                    its.discard()
                    del _readers[other]
            reader = _readers[loop] = _Reader(loop)
    return reader.box


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def settle(loop: asyncio.AbstractEventLoop, handle: Any) -> asyncio.Future[Any]:
    """A future of the loop that gets the handle's outcome."""
    future = loop.create_future()
    handle.waiter = future
    return future
