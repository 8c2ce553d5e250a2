"""The way from the pool's threads to an event loop: many ended calls, one wake-up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspex._pool import LoopBox

if TYPE_CHECKING:
    from dspex._pool import Handle, StrandCore
    from dspex.pool.pool import Pool

__all__ = ["reader_of"]

_FIRST_NAP, _LONGEST_NAP = 50e-6, 2e-3  # seconds between two looks whether there is room

_lock = threading.Lock()
_unread: list[LoopBox] = []
_latest = threading.local()
_readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reader] = weakref.WeakKeyDictionary()


class _Line:
    """Calls of one loop that wait, in their order, until a pool, or a session, has room."""

    def __init__(self, reader: _Reader, pool: Pool, strand: StrandCore | None) -> None:
        self.waiting: deque[Handle] = deque()
        self._reader, self._pool, self._strand = reader, pool, strand
        self._nap = _FIRST_NAP
        reader.later(self._nap, self._look)

    def _look(self) -> None:
        before = len(self.waiting)
        while self.waiting and (self.waiting[0].done() or self._pool._try(self.waiting[0], self._strand)):
            self.waiting.popleft()
        if self.waiting:
            moved = len(self.waiting) < before
            self._nap = _FIRST_NAP if moved else min(2 * self._nap, _LONGEST_NAP)
            self._reader.later(self._nap, self._look)
        else:
            del self._reader.lines[self._pool if self._strand is None else self._strand]


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
        self.lines: dict[Pool | StrandCore, _Line] = {}  # only those where somebody waits
        self._loop = weakref.ref(loop)
        loop.add_reader(self._fd, self._read)
        # Not at the interpreter's exit: a loop in another thread may still read.
        weakref.finalize(self, os.close, self._fd).atexit = False

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)
        self.box.deliver()

    def stand_in_line(self, pool: Pool, strand: StrandCore | None, handle: Handle) -> None:
        """Submits the call when there is room, behind those that wait. Its outcome tells of refusals."""
        place = pool if strand is None else strand
        line = self.lines.get(place)
        if line is None:
            if pool._try(handle, strand):
                return
            line = self.lines[place] = _Line(self, pool, strand)
        line.waiting.append(handle)

    def drop_lines(self) -> None:
        """Ends the calls that stand in line: their loop is closed."""
        for line in self.lines.values():
            while line.waiting:
                line.waiting.popleft().cancel()
        self.lines.clear()

    def later(self, seconds: float, fn: Callable[[], None]) -> None:
        """Calls `fn` on the loop."""
        loop = self._loop()
        assert loop is not None  # it runs
        loop.call_later(seconds, fn)


def reader_of(loop: asyncio.AbstractEventLoop) -> _Reader:
    """The loop's reader, made on first use in the loop's own thread."""
    # A thread's loop seldom changes, and a weak dictionary is slow.
    latest: tuple[Any, _Reader] | None = getattr(_latest, "of", None)
    if latest is not None and latest[0]() is loop:
        return latest[1]
    with _lock:
        reader = _readers.get(loop)
        if reader is None:
            _let_go_of_closed_loops()
            reader = _readers[loop] = _Reader(loop)
    _latest.of = (weakref.ref(loop), reader)
    return reader


def _let_go_of_closed_loops() -> None:
    """What ends after its loop was closed is dropped; the box is kept until nothing more can come."""
    for loop, reader in list(_readers.items()):
        if loop.is_closed():
            reader.drop_lines()
            _unread.append(reader.box)
            del _readers[loop]
    for box in list(_unread):
        if box.alone:
            _unread.remove(box)
        box.take()


def _after_fork() -> None:
    global _latest, _lock
    _latest, _lock = threading.local(), threading.Lock()
    _readers.clear()  # their loops are the parent's
    _unread.clear()


os.register_at_fork(after_in_child=_after_fork)
