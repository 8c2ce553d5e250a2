"""The way from the pool's threads to an event loop: many ended calls, one wake-up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from dspex._pool import LoopBox

if TYPE_CHECKING:
    from dspex._pool import Handle, StrandCore
    from dspex.pool.pool import Pool

__all__ = ["reader_of"]

_FIRST_NAP, _LONGEST_NAP = 50e-6, 2e-3  # seconds between two looks whether there is room

_lock = threading.Lock()
_unread: list[LoopBox] = []
_readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reader] = weakref.WeakKeyDictionary()


class _Line:
    """Calls of one loop that wait, in their order, until a pool, or a session, has room."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool, strand: StrandCore | None) -> None:
        self.waiting: deque[Handle] = deque()
        self._loop, self._pool, self._strand = loop, pool, strand
        self._nap = _FIRST_NAP

    def add(self, handle: Handle) -> None:
        self.waiting.append(handle)
        if len(self.waiting) == 1:
            self._nap = _FIRST_NAP
            self._loop.call_later(self._nap, self._look)

    def _look(self) -> None:
        before = len(self.waiting)
        while self.waiting and (self.waiting[0].done() or self._pool._try(self.waiting[0], self._strand)):
            self.waiting.popleft()
        if self.waiting:
            moved = len(self.waiting) < before
            self._nap = _FIRST_NAP if moved else min(2 * self._nap, _LONGEST_NAP)
            self._loop.call_later(self._nap, self._look)


class _Reader:
    """Reads one loop's box, and keeps its calls in line where there is no room."""

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
        self._loop = weakref.ref(loop)
        self._lines: weakref.WeakKeyDictionary[Pool | StrandCore, _Line] = weakref.WeakKeyDictionary()
        loop.add_reader(self._fd, self._read)
        weakref.finalize(self, os.close, self._fd)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)
        self.box.deliver()

    def submit(self, pool: Pool, strand: StrandCore | None, handle: Handle) -> None:
        """Hands the call over, or lets it wait for room behind others. Its outcome tells of refusals."""
        line = self._lines.get(pool if strand is None else strand) if self._lines else None
        if line is not None and line.waiting:
            line.add(handle)
        elif not pool._try(handle, strand):
            loop = self._loop()
            assert loop is not None  # it runs
            if line is None:
                line = self._lines[pool if strand is None else strand] = _Line(loop, pool, strand)
            line.add(handle)


def reader_of(loop: asyncio.AbstractEventLoop) -> _Reader:
    """The loop's reader, made on first use in the loop's own thread."""
    reader = _readers.get(loop)
    if reader is None or reader.pid != os.getpid():
        with _lock:
            _let_go_of_closed_loops()
            reader = _readers[loop] = _Reader(loop)
    return reader


def _let_go_of_closed_loops() -> None:
    """What ends after its loop was closed is dropped; the box is kept until nothing more can come."""
    for loop, reader in list(_readers.items()):
        if loop.is_closed():
            _unread.append(reader.box)
            del _readers[loop]
    for box in list(_unread):
        if box.alone:
            _unread.remove(box)
        box.take()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
